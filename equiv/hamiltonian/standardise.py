"""Bring irreps of blocks to unit scale, each kind, shell pair and degree by itself."""

from collections.abc import Callable, Iterable
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.hamiltonian.basis import OrbitalBasis
from equiv.hamiltonian.blocks import Blocks
from equiv.hamiltonian.kinds import BlockKind

FLOOR = 1e-9
"""Smallest scale, in Eh: below it an irrep is rounding noise of the labels."""


class BlockStandardisation(nn.Module):
    r"""An affine map of the irreps of blocks that keeps their symmetry.

    .. math:: h_{kabLM} = \mu_{kab}\, \delta_{L0} + \sigma_{kabL}\, y_{kabLM}

    Here :math:`k` is the kind of block and a, b its two shells. :math:`\sigma` is the root mean
    square over samples and components M (so rotations do not see it), after :math:`\mu` is taken
    off; :math:`\mu` is the mean of a natural scalar of a diagonal block and 0 otherwise, since a
    block of two atoms vanishes with their distance. Of two atoms of one element either may come
    first: their blocks are taken both ways, so that exchanging atoms is exact. Both are buffers,
    saved with the model, and stay float64 whatever the dtype of the weights; before :meth:`fit` the
    map is the identity.

    Irreps of Fock matrices span four decades, pseudo ones being small; unscaled, a model learns the
    large ones only.

    Args:
        basis: the orbitals.
    """

    def __init__(self, basis: OrbitalBasis) -> None:
        super().__init__()
        self.basis = basis
        for kind in (*basis.diagonal_kinds, *basis.pair_kinds):
            self.register_buffer(_scale_name(kind), torch.ones(kind.dim, dtype=torch.float64))
            if kind.is_diagonal:
                self.register_buffer(_shift_name(kind), torch.zeros(kind.dim, dtype=torch.float64))

    def forward(self, blocks: Blocks) -> Blocks:
        """From unit scale to Eh, in float64."""
        return Blocks(
            {z: y * self.scale(z) + self.shift(z) for z, y in blocks.diagonal.items()},
            {key: y * self.scale(key) for key, y in blocks.pairs.items()},
        )

    def inverse(self, blocks: Blocks) -> Blocks:
        """From Eh to unit scale, in float64."""
        return Blocks(
            {z: (h - self.shift(z)) / self.scale(z) for z, h in blocks.diagonal.items()},
            {key: h / self.scale(key) for key, h in blocks.pairs.items()},
        )

    def scale(self, key: int | tuple[int, int]) -> Float[Tensor, " dim"]:
        """The scale of every column of a kind, float64."""
        return getattr(self, _scale_name(self._kind(key)))

    def shift(self, key: int) -> Float[Tensor, " dim"]:
        """The shift of every column of a diagonal kind, float64."""
        return getattr(self, _shift_name(self._kind(key)))

    def fit(self, samples: Iterable[Blocks]) -> Self:
        """Take scales and shifts from training data, in Eh.

        Kinds that do not occur keep a scale of one. Scales of irreps that never differ from zero
        are :data:`FLOOR`.

        Raises:
            EquivError: there are no samples, or one is not finite.
        """
        collected: dict[int | tuple[int, int], list[Tensor]] = {}
        for blocks in samples:
            for key, rows in blocks.items():
                collected.setdefault(key, []).append(rows.detach().double().flatten(0, -2))
        if not collected:
            raise EquivError("standardisation needs at least one training sample, got none")
        for key, pieces in collected.items():
            kind, rows = self._kind(key), torch.cat(pieces)
            if not torch.isfinite(rows).all():
                raise EquivError(f"standardisation: blocks {kind.name} of the data are not finite")
            if not kind.is_diagonal and kind.numbers[0] == kind.numbers[1]:
                index, sign = kind.transposition
                rows = torch.cat([rows, rows[:, index.to(rows.device)] * sign.to(rows)])
            scale = torch.ones_like(rows[0])
            for part in kind.parts:
                piece = rows[:, part.columns].unflatten(-1, (2 * part.l + 1, part.count))
                if kind.is_diagonal and part.l == 0 and part.sign == 1:
                    mean = piece.mean((0, 1))
                    getattr(self, _shift_name(kind))[part.columns] = mean
                    piece = piece - mean
                rms = piece.square().mean((0, 1)).sqrt().clamp(min=FLOOR)
                scale[part.columns] = rms.expand(2 * part.l + 1, -1).flatten()
            getattr(self, _scale_name(kind)).copy_(scale)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, value in exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self

    def _kind(self, key: int | tuple[int, int]) -> BlockKind:
        return self.basis.diagonal(key) if isinstance(key, int) else self.basis.pair(*key)


def _scale_name(kind: BlockKind) -> str:
    return f"scale_{'diagonal_' if kind.is_diagonal else ''}{kind.name}"


def _shift_name(kind: BlockKind) -> str:
    return f"shift_{kind.name}"
