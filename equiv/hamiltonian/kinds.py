r"""What one kind of block - of one element, or of a pair of elements - consists of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import cast

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from equiv.hamiltonian.orbitals import pyscf_shell
from equiv.so3 import Irreps, wigner_3j


@dataclass(frozen=True)
class Part:
    r"""All irreps of one parity and degree in a block.

    Attributes:
        sign: +1 natural parity :math:`(-1)^l`, -1 the other (pseudo).
        l: degree.
        count: how many there are, one for each of ``shells``.
        start: the part fills columns ``start`` to ``start + (2 l + 1) count`` of a block's row,
            laid out ``[2 l + 1, count]`` like a piece of a spherical tensor.
        shells: the numbers of the two shells that each of the irreps couples.
    """

    sign: int
    l: int
    count: int
    start: int
    shells: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """First column after the part."""
        return self.start + (2 * self.l + 1) * self.count

    @property
    def columns(self) -> slice:
        """Its columns of a block's row."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class BlockKind:
    r"""Blocks of one element (on the diagonal) or of one pair of elements, as orthonormal irreps.

    The block of two shells a, b with degrees :math:`l_a, l_b` is

    .. math::
        H_{am,bm'} = \sum_{L=|l_a-l_b|}^{l_a+l_b} \sum_M Q^L_{mm'M}\, h^{abL}_M, \qquad
        Q^L_{mm'M} = \sqrt{2L+1} \sum_{kk'} A^{l_a}_{mk} A^{l_b}_{m'k'}\, w^{(l_a l_b L)}_{kk'M}

    with :math:`w` = :func:`equiv.so3.wigner_3j` and :math:`A^l` =
    :func:`equiv.hamiltonian.orbitals.pyscf_shell`. The :math:`Q` are orthonormal, so
    :math:`\lVert H\rVert_F^2 = \sum_L |h^L|^2`. Parity of :math:`h^L` is
    :math:`(-1)^{l_a + l_b}`: natural where :math:`l_a + l_b + L` is even, pseudo where it is odd.
    Exchanging the two atoms multiplies :math:`h^L` by :math:`(-1)^{l_a + l_b + L}`.

    A block on the diagonal is symmetric, so only shells :math:`a \le b` appear, those with
    :math:`a < b` scaled by :math:`\sqrt2` (both halves of the block are one irrep, and the norm
    stays that of the whole block), and for :math:`a = b` only even L. Nothing is padded: a kind has
    as many columns as the block has independent numbers.

    Attributes:
        numbers: atomic numbers of both atoms, ascending; the same twice on the diagonal.
        first_shells: degrees of the shells of the first atom, in the order of its orbitals.
        second_shells: of the second.
        is_diagonal: whether it is a block of an atom with itself.
    """

    numbers: tuple[int, int]
    first_shells: tuple[int, ...]
    second_shells: tuple[int, ...]
    is_diagonal: bool

    @property
    def name(self) -> str:
        """For tables and files: `O` on the diagonal, `H-O` for a pair."""
        first, second = (chemical_symbols[z] for z in self.numbers)
        return first if self.is_diagonal else f"{first}-{second}"

    @property
    def key(self) -> int | tuple[int, int]:
        """The atomic number on the diagonal, both for a pair."""
        return self.numbers[0] if self.is_diagonal else self.numbers

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Orbitals of both atoms."""
        return _count(self.first_shells), _count(self.second_shells)

    @property
    def dim(self) -> int:
        """Columns: how many independent numbers a block has."""
        rows, columns = self.shape
        return rows * (rows + 1) // 2 if self.is_diagonal else rows * columns

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Its irreps: natural ones first, then pseudo ones, each by ascending degree."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for a, b in self._shell_pairs:
            la, lb = self.first_shells[a], self.second_shells[b]
            for l in _degrees(la, lb, self.is_diagonal and a == b):
                found.setdefault((-((-1) ** (la + lb + l)), l), []).append((a, b))
        parts, start = [], 0
        for negative, l in sorted(found):
            shells = tuple(found[negative, l])
            parts.append(Part(-negative, l, len(shells), start, shells))
            start = parts[-1].stop
        return tuple(parts)

    @cached_property
    def irreps(self) -> Irreps:
        """The same as irreps, in the order of ``parts``."""
        return cast(Irreps, Irreps([(p.count, (p.l, p.sign * (-1) ** p.l)) for p in self.parts]))

    @property
    def l_max(self) -> int:
        """The highest degree."""
        return max(part.l for part in self.parts)

    @cached_property
    def transposition(self) -> tuple[Int[Tensor, " columns"], Float[Tensor, " columns"]]:
        """Index and sign of the exchange of both atoms, for pairs of one element.

        The row of the block (j, i) is ``sign * row[..., index]`` with the row of (i, j).
        """
        index, sign = torch.arange(self.dim), torch.ones(self.dim, dtype=torch.float64)
        for part in self.parts:
            where = {shells: slot for slot, shells in enumerate(part.shells)}
            slots = torch.tensor([where[b, a] for a, b in part.shells])
            steps = torch.arange(2 * part.l + 1)[:, None] * part.count
            index[part.columns] = (part.start + steps + slots).flatten()
            sign[part.columns] = part.sign
        return index, sign

    @cached_property
    def transform(self) -> "BlockTransform":
        """The map between the block as a matrix and as irreps."""
        return BlockTransform(self)

    @property
    def _shell_pairs(self) -> list[tuple[int, int]]:
        first, second = range(len(self.first_shells)), range(len(self.second_shells))
        return [(a, b) for a in first for b in second if a <= b or not self.is_diagonal]


class BlockTransform:
    """Independent entries of a block, and the small matrices that make irreps of them.

    Entries are ordered by the degrees of their two shells, so that all pairs of shells with the
    same degrees are one matrix product. Attributes ``rows`` and ``columns`` say which entry of the
    block each is; on the diagonal they are the ones of the upper triangle of shells.
    """

    def __init__(self, kind: BlockKind) -> None:
        starts1, starts2 = _starts(kind.first_shells), _starts(kind.second_shells)
        groups: dict[tuple[int, int, bool], list[tuple[int, int]]] = {}
        for a, b in kind._shell_pairs:
            same = kind.is_diagonal and a == b
            key = (kind.first_shells[a], kind.second_shells[b], same)
            groups.setdefault(key, []).append((a, b))
        column = {
            (part.sign, part.l, shells, m): part.start + m * part.count + slot
            for part in kind.parts
            for slot, shells in enumerate(part.shells)
            for m in range(2 * part.l + 1)
        }
        rows, columns, order = [], [], []
        self._groups: list[tuple[int, int, tuple[int, int, bool]]] = []
        for (la, lb, same), members in groups.items():
            entries = _entries(la, lb, same)
            self._groups.append((len(members), len(entries), (la, lb, same)))
            for a, b in members:
                rows += [starts1[a] + u for u, _ in entries]
                columns += [starts2[b] + v for _, v in entries]
                for l in _degrees(la, lb, same):
                    sign = (-1) ** (la + lb + l)
                    order += [column[sign, l, (a, b), m] for m in range(2 * l + 1)]
        self._diagonal = kind.is_diagonal
        self.rows, self.columns = torch.tensor(rows), torch.tensor(columns)
        self._order = torch.tensor(order)
        self._position = torch.argsort(self._order)
        self._cache: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        self._index_cache: dict[tuple[torch.device, bool], Tensor] = {}

    def encode(self, entries: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Irreps of a block from its independent entries."""
        return self._apply(entries, 0)[..., self._index(entries.device, True)]

    def decode(self, irreps: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Independent entries of a block from its irreps."""
        return self._apply(irreps[..., self._index(irreps.device, False)], 1)

    def _apply(self, x: Tensor, way: int) -> Tensor:
        pieces, start = [], 0
        for (count, size, _), matrices in zip(self._groups, self._matrices(x), strict=True):
            stop = start + count * size
            piece = x[..., start:stop]
            if size > 1:  # a pair of s shells is a scalar already, up to a factor
                piece = (piece.unflatten(-1, (count, size)) @ matrices[way]).flatten(-2)
            elif self._diagonal:
                piece = piece * matrices[way][0, 0]
            pieces.append(piece)
            start = stop
        return torch.cat(pieces, -1)

    def _matrices(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        key = (x.device, x.dtype)
        if key not in self._cache:
            found = [_shell_matrices(*group, self._diagonal) for _, _, group in self._groups]
            self._cache[key] = [(encode.to(x), decode.to(x)) for encode, decode in found]
        return self._cache[key]

    def _index(self, device: torch.device, encoding: bool) -> Tensor:
        key = (device, encoding)
        if key not in self._index_cache:
            index = self._position if encoding else self._order
            self._index_cache[key] = index.to(device)
        return self._index_cache[key]


def _count(shells: Sequence[int]) -> int:
    return sum(2 * l + 1 for l in shells)


def _starts(shells: Sequence[int]) -> list[int]:
    return [_count(shells[:n]) for n in range(len(shells))]


def _degrees(la: int, lb: int, same: bool) -> range:
    return range(abs(la - lb), la + lb + 1, 2 if same else 1)


def _entries(la: int, lb: int, same: bool) -> list[tuple[int, int]]:
    rows, columns = range(2 * la + 1), range(2 * lb + 1)
    return [(u, v) for u in rows for v in columns if u <= v or not same]


@cache
def _shell_matrices(la: int, lb: int, same: bool, diagonal: bool) -> tuple[Tensor, Tensor]:
    """From entries of two shells to irreps, and back: the entries of :func:`_entries`, float64."""
    a, b = pyscf_shell(la), pyscf_shell(lb)
    q = torch.cat(
        [
            (2 * l + 1) ** 0.5 * torch.einsum("uk,vn,knm->uvm", a, b, wigner_3j(la, lb, l))
            for l in _degrees(la, lb, same)
        ],
        -1,
    )
    u, v = torch.tensor(_entries(la, lb, same)).unbind(-1)
    q = q[u, v]
    if same:  # entries off the diagonal of the shell stand for two
        return torch.where((u == v)[:, None], q, 2 * q), q.mT.contiguous()
    scale = 2**0.5 if diagonal else 1.0
    return scale * q, (q / scale).mT.contiguous()
