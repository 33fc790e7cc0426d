"""The sum over all pairs: the definition for finite systems, and the fastest for small ones."""

from collections.abc import Iterator
from functools import reduce
from operator import add

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.long_range.changes import changes_by_gradient
from equiv.long_range.fused import FusedPotential
from equiv.long_range.pairs import (
    InversePower,
    Pairs,
    PairSums,
    RadialFunction,
    compiled_changes,
    compiled_sums,
    pair_energies,
    pair_sums,
)
from equiv.long_range.point_charges import PointCharges
from equiv.units import COULOMB

# Pairs of atoms that are held in memory at a time where no graph is kept.
BLOCK = 2**20


class DirectSum(FusedPotential):
    r"""The energy of finite systems as it is defined, pair by pair.

    .. math:: E = k_e \sum_{i < j} \frac{q_i q_j}{|r_i - r_j|^p}

    Exact. Time is quadratic in the number of atoms, and so is the memory where a graph is kept.

    Args:
        exponent: :math:`p`, positive.
        prefactor: :math:`k_e` in eV Angstrom^p (per squared charge).
    """

    def __init__(self, *, exponent: float = 1.0, prefactor: float = COULOMB) -> None:
        super().__init__()
        if not exponent > 0:
            raise EquivError(f"exponent must be positive, got {exponent}")
        self.prefactor = prefactor
        self.kernel = InversePower(exponent)

    def energy(self, system: PointCharges, pairs: Pairs | None = None) -> Tensor:
        self._check(system)
        return self.prefactor * direct_energy(self.kernel, system)

    def sums(
        self, system: PointCharges, pairs: Pairs | None = None, *, strain: bool = True
    ) -> PairSums:
        self._check(system)
        return direct_sums(self.kernel, system) * self.prefactor

    @torch.no_grad()
    def changes(self, system: PointCharges, pairs: Pairs | None, moves: Tensor) -> Tensor:
        self._check(system)
        return self.prefactor * direct_changes(self.kernel, system, moves)

    def _check(self, system: PointCharges) -> None:
        if any(map(any, system.periodic)):
            raise EquivError(
                "DirectSum is for finite systems and some structure is periodic; take "
                "ChebyshevTucker, or EwaldSum as a reference"
            )

    def extra_repr(self) -> str:
        return f"exponent={self.kernel.exponent:g}, prefactor={self.prefactor:g}"


def direct_energy(kernel: RadialFunction, system: PointCharges) -> Float[Tensor, " graphs"]:
    r""":math:`\sum_{i<j} q_i q_j f(r_{ij}^2)` of each structure, differentiable."""
    return pair_energies(kernel, system, Pairs.within_structures(system))


def direct_sums(kernel: RadialFunction, system: PointCharges) -> PairSums:
    """Potentials and fields of all pairs, without a graph, block by block."""
    if (found := compiled_sums(kernel, system, None, strain=False)) is not None:
        return found
    return reduce(add, (pair_sums(kernel, system, block) for block in _blocks(system)))


def direct_changes(
    kernel: RadialFunction, system: PointCharges, moves: Float[Tensor, "atoms 4"]
) -> Float[Tensor, "atoms 4"]:
    """How potentials and forces of all pairs change with charges and positions."""
    found = compiled_changes(kernel, system, moves)
    if found is None:
        return changes_by_gradient(lambda s: direct_energy(kernel, s), system, moves)
    return found


def _blocks(system: PointCharges) -> Iterator[Pairs]:
    """All pairs inside each structure, in portions that fit into the memory."""
    if sum(n * (n - 1) // 2 for n in system.counts) <= BLOCK:
        yield Pairs.within_structures(system)
        return
    start, device = 0, system.batch.device
    for atoms in system.counts:
        first = 0
        while first < atoms - 1:
            last = min(atoms - 1, first + max(1, BLOCK // (atoms - first)))
            rows = torch.arange(first, last, device=device)
            partners = atoms - 1 - rows
            i = rows.repeat_interleave(partners)
            offset = torch.cumsum(partners, 0) - partners
            rank = torch.arange(len(i), device=device) - offset.repeat_interleave(partners)
            yield Pairs(start + i, start + i + 1 + rank)
            first = last
        start += atoms
