"""The sum of Ewald, written out: the reference for periodic systems."""

import math
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from equiv.errors import EquivError
from equiv.long_range.pairs import Pairs, pair_energies
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.potential import LongRangePotential
from equiv.units import COULOMB


class ScreenedCoulomb:
    r""":math:`f(r^2) = \operatorname{erfc}(\alpha r) / r`, with all its derivatives.

    :math:`d^n f / d(r^2)^n = (-1/2)^n B_n`, where :math:`B_0 = f` and
    :math:`r^2 B_n = (2n - 1) B_{n-1} + (2 \alpha^2)^n e^{-\alpha^2 r^2} / (\alpha \sqrt\pi)`.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def derivative(self, squared: Tensor, order: int) -> Tensor:
        r = squared.sqrt()
        gaussian = torch.exp(-(self.alpha**2) * squared) / (self.alpha * math.sqrt(math.pi))
        value = torch.erfc(self.alpha * r) / r
        for n in range(1, order + 1):
            value = ((2 * n - 1) * value + (2 * self.alpha**2) ** n * gaussian) / squared
        return (-0.5) ** order * value


class EwaldSum(LongRangePotential):
    r"""Charges in a crystal, half of the work in real space and half in waves (Ewald 1921).

    .. math::
        \frac{E}{k_e} = \sum_{\text{pairs}} q_i q_j \frac{\operatorname{erfc}(\alpha r)}{r}
          + \frac{2\pi}{V} \sum_{k \neq 0} \frac{e^{-k^2/4\alpha^2}}{k^2}
            \Big|\sum_i q_i e^{i k r_i}\Big|^2
          - \frac{\alpha}{\sqrt\pi} \sum_i q_i^2 - \frac{\pi Q^2}{2 \alpha^2 V}

    The last term is the neutralising background of a net charge :math:`Q`; leaving out
    :math:`k = 0` makes the surrounding a conductor. Time and memory grow with :math:`N^{3/2}` or
    faster: this is for checking others.

    Args:
        tolerance: both sums are cut where their terms have fallen to about a thousandth of it.
    """

    def __init__(self, tolerance: float = 1e-8) -> None:
        super().__init__()
        if not 1e-13 <= tolerance < 1:
            raise EquivError(f"tolerance must lie between 1e-13 and 1, got {tolerance}")
        self.tolerance = tolerance

    def energy(self, system: PointCharges, pairs: Pairs | None = None) -> Tensor:
        if not bool(system.pbc.all()):
            raise EquivError(
                "EwaldSum is for structures that repeat in three directions; take ChebyshevTucker, "
                "or DirectSum for finite ones"
            )
        return torch.cat([self._one(structure) for structure in system.structures()])

    def _one(self, system: PointCharges) -> Tensor:
        decay = math.sqrt(-math.log(1e-3 * self.tolerance))
        cell = system.cell[0].double()
        volume = torch.linalg.det(cell).abs()
        atoms = max(1, len(system.positions))
        # Equal work in both sums (Perram, Petersen and De Leeuw 1988).
        alpha = math.sqrt(math.pi) * (atoms / float(volume.detach()) ** 2) ** (1 / 6)
        cutoff, k_max = decay / alpha, 2 * alpha * decay

        q, x = system.charges.double(), system.positions.double()
        system = replace(system, positions=x, charges=q, cell=cell[None])
        pairs = Pairs.search(system, cutoff)
        energy = pair_energies(ScreenedCoulomb(alpha), system, pairs)

        waves = 2 * math.pi * _half_space(cell, k_max) @ torch.linalg.inv(cell).T
        squared = waves.square().sum(-1)
        phases = x @ waves.T
        structure = (q @ phases.cos()).square() + (q @ phases.sin()).square()
        weights = torch.exp(-squared / (4 * alpha**2)) / squared
        energy = energy + 4 * math.pi / volume * (weights * structure).sum()
        energy = energy - alpha / math.sqrt(math.pi) * q.square().sum()
        energy = energy - math.pi * q.sum().square() / (2 * alpha**2 * volume)
        return COULOMB * cast(Tensor, energy)

    def extra_repr(self) -> str:
        return f"tolerance={self.tolerance:g}"


def _half_space(cell: Tensor, k_max: float) -> Tensor:
    """Integer triples n with 0 < |2 pi n C^-T| <= k_max, one of each n and -n."""
    cell = cell.detach()
    most = (cell.norm(dim=1) * k_max / (2 * math.pi)).floor().long().tolist()
    ranges = [torch.arange(-n, n + 1, device=cell.device) for n in most]
    n = torch.cartesian_prod(*ranges).to(cell.dtype)
    first = (n[:, 0] > 0) | ((n[:, 0] == 0) & ((n[:, 1] > 0) | ((n[:, 1] == 0) & (n[:, 2] > 0))))
    waves = 2 * math.pi * n @ torch.linalg.inv(cell).T
    return n[first & (waves.norm(dim=1) <= k_max)]
