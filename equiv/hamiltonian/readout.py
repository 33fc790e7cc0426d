"""From features of atoms and pairs to the blocks of a Hamiltonian."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.hamiltonian.basis import OrbitalBasis
from equiv.hamiltonian.blocks import Blocks
from equiv.hamiltonian.kinds import BlockKind
from equiv.hamiltonian.layout import BlockLayout
from equiv.hamiltonian.row_functions import RowFunction, call, ints, library, pointers, possible

SphericalStacks = tuple[Tensor | None, Tensor | None]
"""A natural and a pseudo spherical tensor ``[rows, (l_max + 1)**2, channels]``; None if absent."""


class BlockReadout(ExactConstants):
    r"""Mix the channels of spherical tensors into exactly the irreps that each block has.

    .. math::
        h^{L,s}_{n M} = C^{-1/2} \sum_c x^{L,s}_{Mc}\, W^{k,L,s}_{cn}
        + \delta_{L0}\, \delta_{s1}\, b^k_n

    Here :math:`k` is the kind of the block (element, or pair of elements), :math:`s` the sign of
    parity, and :math:`n` runs over the pairs of shells that have such an irrep. Only diagonal
    blocks have a bias: the block of a pair is zero where its features are. Nothing is padded: an
    H-H block in def2-SVP is 25 numbers, an O-O block 196.

    A block of two atoms of one element must not depend on which of them is called first. Where each
    channel of the pairs' features keeps or changes its sign when the atoms are exchanged, say so
    with ``exchange``: :math:`f^{ji}_c = e_c f^{ij}_c`, and of :math:`W` only

    .. math:: \tfrac12 \left(W_{cn} + e_c\, s\, W_{c \bar n}\right)

    is used, with :math:`\bar n` the two shells the other way round. Without it, features without
    such a symmetry can be given for both orders (``reverse``), and the mean is taken.

    Rotations and reflections act on the irreps, permutations of atoms on the rows. Irreps that the
    features lack (a degree above ``l_max``, pseudo without a pseudo stack) are predicted zero.

    Args:
        basis: the orbitals.
        channels: of the features.
        l_max: highest degree of the features.
        exchange: +1 or -1 for each channel.
        bias: whether scalars of natural parity get a constant.
    """

    exchange: Tensor | None
    keep: Tensor
    flip: Tensor

    def __init__(
        self,
        basis: OrbitalBasis,
        channels: int,
        l_max: int,
        *,
        exchange: Sequence[float] | Tensor | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if channels < 1 or l_max < 0:
            raise EquivError(
                f"BlockReadout needs channels above 0 and l_max of at least 0, got {channels} and "
                f"{l_max}"
            )
        self.basis, self.channels, self.l_max = basis, channels, l_max
        self._kinds = (*basis.diagonal_kinds, *basis.pair_kinds)
        self._counts = [part.count for kind in self._kinds for part in kind.parts]
        self._places: dict[str, int] = {}  # of each kind's first part among all parts
        index, keep, flip, total = [], [], [], 0
        for kind in self._kinds:
            self._places[kind.name] = sum(len(k.parts) for k in self._kinds[: len(self._places)])
            for part in kind.parts:
                symmetric = not kind.is_diagonal and kind.numbers[0] == kind.numbers[1]
                slots = {shells: total + n for n, shells in enumerate(part.shells)}
                index += [slots[(b, a) if symmetric else (a, b)] for a, b in part.shells]
                keep += [0.5 if symmetric else 1.0] * part.count
                flip += [0.5 * part.sign if symmetric else 0.0] * part.count
                total += part.count
        self.weight = nn.Parameter(torch.randn(channels, total))
        self._scalars = [k.parts[0].count if k.is_diagonal else 0 for k in self._kinds]
        self.bias = nn.Parameter(torch.zeros(sum(self._scalars))) if bias else None
        self.register_buffer("exchange", None)
        if exchange is not None:
            signs = torch.as_tensor(exchange, dtype=torch.float64)
            if signs.shape != (channels,) or (signs.abs() != 1).any():
                raise EquivError(
                    f"exchange must be +1 or -1 for each of {channels} channels, got {exchange}"
                )
            self.register_constant("exchange", signs)
            self.register_constant("keep", torch.tensor(keep))
            self.register_constant("flip", torch.tensor(flip))
            self.register_buffer("_index", torch.tensor(index), persistent=False)

    def forward(
        self,
        diagonal: SphericalStacks,
        pairs: SphericalStacks,
        layout: BlockLayout,
        reverse: SphericalStacks | None = None,
    ) -> Blocks:
        """Blocks of a batch.

        Args:
            diagonal: features of the atoms, natural and pseudo, in the order of the batch.
            pairs: features of the pairs, in the order of the layout.
            layout: of the batch.
            reverse: features of the pairs with their atoms exchanged; rows of pairs of unlike
                elements are not looked at.
        """
        weights = self._mixing().split(self._counts, 1)
        biases = {}
        if self.bias is not None:
            names = (kind.name for kind in self._kinds)
            biases = dict(zip(names, self.bias.split(self._scalars), strict=True))

        def rows(kind: BlockKind, stacks: SphericalStacks) -> Tensor:
            first = self._places[kind.name]
            mine = weights[first : first + len(kind.parts)]
            return _mix(kind, stacks, mine, biases.get(kind.name) if kind.is_diagonal else None)

        out = Blocks({}, {})
        for z, atoms in layout.atoms.items():
            out.diagonal[z] = rows(self.basis.diagonal(z), _select(diagonal, atoms))
        for key, where in layout.pair_slices.items():
            kind = self.basis.pair(*key)
            out.pairs[key] = rows(kind, _select(pairs, where))
            if reverse is not None and key[0] == key[1]:
                index, sign = kind.transposition
                back = rows(kind, _select(reverse, where))
                back = back[:, index.to(back.device)] * sign.to(back)
                out.pairs[key] = 0.5 * (out.pairs[key] + back)
        return out

    def from_features(
        self,
        diagonal: Float[Tensor, "atoms components channels"],
        pairs: Float[Tensor, "pairs components channels"],
        places: Mapping[tuple[int, int], int],
        layout: BlockLayout,
    ) -> Blocks:
        """The same, of features whose irreps lie anywhere among their components.

        Nothing is copied or kept for the backward pass but the features themselves.

        Args:
            diagonal: features of the atoms, in the order of the batch.
            pairs: features of the pairs, in the order of the layout.
            places: first component of each irrep ``(sign, l)`` that the features have.
            layout: of the batch.
        """
        mixtures = [
            self._mixture(self.basis.diagonal(z), atoms, places)
            for z, atoms in layout.atoms.items()
        ]
        for key, where in layout.pair_slices.items():
            mixtures.append(self._mixture(self.basis.pair(*key), where, places))

        def plain(*given: Any) -> tuple[Tensor, ...]:
            return tuple(mixture.rows(*given) for mixture in mixtures)

        given = (diagonal, pairs, self._mixing(), self.bias)
        if possible(*(x for x in given if x is not None)):
            rows = call(_Mixing, plain, mixtures, *given)
        else:
            rows = plain(*given)
        keys = (*layout.atoms, *layout.pair_slices)
        found: dict[Any, Tensor] = dict(zip(keys, rows, strict=True))
        return Blocks(
            {z: found[z] for z in layout.atoms}, {key: found[key] for key in layout.pair_slices}
        )

    def _mixing(self) -> Float[Tensor, "channels columns"]:
        """The weights that are used."""
        weight = self.weight * self.channels**-0.5
        if self.exchange is not None:
            flipped = weight[:, self._index] * self.exchange[:, None]
            weight = self.keep * weight + self.flip * flipped
        return weight

    def _mixture(
        self, kind: BlockKind, where: slice | Tensor, places: Mapping[tuple[int, int], int]
    ) -> "_Mixture":
        number = self._places[kind.name]
        pieces, column = [], sum(self._counts[:number])
        for part in kind.parts:
            start = places.get((part.sign, part.l))
            components = None if start is None else slice(start, start + 2 * part.l + 1)
            pieces.append(_Piece(components, slice(column, column + part.count), part.columns))
            column += part.count
        shift = None
        if self.bias is not None and kind.is_diagonal:
            index = [k.name for k in self._kinds].index(kind.name)
            first = sum(self._scalars[:index])
            shift = slice(first, first + self._scalars[index])
        return _Mixture(kind.is_diagonal, where, tuple(pieces), shift)

    def extra_repr(self) -> str:
        return f"{self.basis.describe()}; channels={self.channels}, l_max={self.l_max}"


def _mix(
    kind: BlockKind, stacks: SphericalStacks, weights: Sequence[Tensor], bias: Tensor | None
) -> Float[Tensor, "rows dim"]:
    degrees = [_degrees(stack) for stack in stacks]
    given = stacks[0] if stacks[0] is not None else stacks[1]
    if given is None:
        raise EquivError("BlockReadout: neither natural nor pseudo features were given")
    pieces = []
    for part, weight in zip(kind.parts, weights, strict=True):
        of_sign = degrees[0 if part.sign == 1 else 1]
        if part.l >= len(of_sign):
            pieces.append(given.new_zeros(given.shape[0], (2 * part.l + 1) * part.count))
        elif part.l == 0 and part.sign == 1 and bias is not None:
            pieces.append(torch.addmm(bias, of_sign[0].squeeze(1), weight))
        else:
            pieces.append((of_sign[part.l] @ weight).flatten(1))
    return torch.cat(pieces, -1)


def _degrees(stack: Tensor | None) -> Sequence[Tensor]:
    """Pieces of a spherical tensor, one for each degree."""
    if stack is None:
        return ()
    l_max = int(stack.shape[1] ** 0.5 + 0.5) - 1
    return stack.split([2 * l + 1 for l in range(l_max + 1)], 1)


def _select(stacks: SphericalStacks, where: slice | Tensor) -> SphericalStacks:
    natural, pseudo = stacks
    return (
        None if natural is None else natural[where],
        None if pseudo is None else pseudo[where],
    )


@dataclass(frozen=True)
class _Piece:
    """One irrep of the features, the columns of the weights that mix it, and where that goes."""

    components: slice | None  # None: the features lack it
    weights: slice
    columns: slice


@dataclass(frozen=True)
class _Mixture:
    """The blocks of one kind: rows of the features of atoms or of pairs, and what to do with them.

    The first piece of a diagonal kind is its natural scalars, to which ``shift`` of the biases is
    added.
    """

    of_atoms: bool
    where: slice | Int[Tensor, " rows"]
    pieces: tuple[_Piece, ...]
    shift: slice | None

    def rows(self, diagonal: Tensor, pairs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The definition."""
        x = (diagonal if self.of_atoms else pairs)[self.where]
        results = []
        for piece in self.pieces:
            if piece.components is None:
                width = piece.columns.stop - piece.columns.start
                results.append(x.new_zeros(x.shape[0], width))
                continue
            mixed = x[:, piece.components].flatten(0, 1) @ weight[:, piece.weights]
            results.append(mixed.view(x.shape[0], -1))
        if self.shift is not None and bias is not None:
            results[0] = results[0] + bias[self.shift]
        return torch.cat(results, 1)

    def index(self, x: Tensor) -> Int[Tensor, " rows"]:
        """The rows of x by their numbers."""
        if isinstance(self.where, Tensor):
            return self.where
        return torch.arange(self.where.start, self.where.stop, device=x.device)

    @cached_property
    def table(self) -> Int[Tensor, "pieces 5"]:
        """The pieces, as the kernel reads them (:mod:`equiv.hamiltonian.row_kernels`)."""
        rows = []
        for piece in self.pieces:
            count = piece.weights.stop - piece.weights.start
            components = (piece.columns.stop - piece.columns.start) // max(1, count)
            start = -1 if piece.components is None else piece.components.start
            rows.append((start, components, piece.weights.start, count, piece.columns.start))
        return torch.tensor(rows)

    @property
    def width(self) -> int:
        """Numbers of a block."""
        return self.pieces[-1].columns.stop


class _Mixing(RowFunction):
    """All blocks at once, from features of which nothing is copied."""

    constants = 2

    @staticmethod
    def forward(ctx: Any, plain: Any, mixtures: Sequence[_Mixture], *given: Any) -> Any:
        diagonal, pairs, weight, bias = given
        ctx.plain, ctx.mixtures = plain, mixtures
        ctx.save_for_backward(*given)
        results = []
        for mixture in mixtures:
            x = diagonal if mixture.of_atoms else pairs
            index, table = mixture.index(x), mixture.table
            rows = x.new_empty(len(index), mixture.width)
            sizes = _sizes(x, index, table, weight, mixture.width)
            library(x).mix(*sizes, *pointers(x, weight, rows))
            if mixture.shift is not None and bias is not None:
                rows[:, mixture.pieces[0].columns] += bias[mixture.shift]
            results.append(rows)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        given = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Mixing.slow(ctx, given, grads)
        diagonal, pairs, weight, bias = given
        found = [torch.empty_like(diagonal), torch.empty_like(pairs), torch.zeros_like(weight)]
        g_bias = None if bias is None else torch.zeros_like(bias)
        for mixture, grad in zip(ctx.mixtures, grads, strict=True):
            x, gx = (diagonal, found[0]) if mixture.of_atoms else (pairs, found[1])
            index, table, g = mixture.index(x), mixture.table, grad.contiguous()
            sizes = _sizes(x, index, table, weight, mixture.width)
            library(x).mix_back(*sizes, *pointers(x, weight, g, gx, found[2]))
            if mixture.shift is not None and g_bias is not None:
                g_bias[mixture.shift] += g[:, mixture.pieces[0].columns].sum(0)
        return None, None, *found, g_bias


def _sizes(x: Tensor, index: Tensor, table: Tensor, weight: Tensor, width: int) -> tuple[Any, ...]:
    first = ints(len(index), index.data_ptr(), *x.shape[1:], len(table), table.data_ptr())
    return *first, *ints(weight.shape[1], width)
