"""torch-pme's calculators behind the interface of equiv's long-range potentials."""

from typing import Any

import torch
from torch import Tensor

from equiv.errors import EquivError
from equiv.long_range import LongRangePotential, Pairs, PointCharges
from equiv.units import COULOMB


class TorchPME(LongRangePotential):
    r"""A torch-pme calculator (Ewald, PME or P3M) that stands in for a potential of this package.

    ::

        calculator = torchpme.P3MCalculator(
            torchpme.CoulombPotential(smearing=1.2), mesh_spacing=1.0, interpolation_nodes=5
        )
        potential = TorchPME(calculator.double(), cutoff=6.0)
        energy = potential(positions, charges, cell, pbc)

    torch-pme counts :math:`1/r` without a unit: its ``prefactor`` must be left at 1, and energies
    are multiplied with :math:`k_e` here. Its accuracy is that of its parameters
    (``torchpme.tuning``). For structures that repeat in three directions; a net charge has a
    uniform background. Loughran et al., J. Chem. Phys. 162, 142501 (2025).

    Args:
        calculator: made with ``full_neighbor_list=False``, in the dtype of the charges.
        cutoff: up to which pairs are searched, Angstrom; the one the calculator was tuned for.
    """

    def __init__(self, calculator: Any, *, cutoff: float) -> None:
        super().__init__()
        if getattr(calculator, "full_neighbor_list", False):
            raise EquivError("the calculator must be made with full_neighbor_list=False")
        self.calculator, self.cutoff = calculator, cutoff

    def energy(self, system: PointCharges, pairs: Pairs | None = None) -> Tensor:
        if not all(map(all, system.periodic)):
            raise EquivError(
                "torch-pme sums over three periodic directions and some structure has fewer; take "
                "equiv.long_range.ChebyshevTucker"
            )
        if pairs is not None and system.num_graphs > 1:
            raise EquivError("torch-pme takes one structure at a time; leave out pairs of a batch")
        return torch.cat([self._one(one, pairs) for one in system.structures()])

    def _one(self, system: PointCharges, pairs: Pairs | None) -> Tensor:
        q, x, cell = system.charges, system.positions, system.cell[0]
        if pairs is None:
            pairs = Pairs.search(system.detached(), self.cutoff)
        steps = x[pairs.second] - x[pairs.first]
        if pairs.shifts is not None:
            steps = steps + pairs.shifts.to(x) @ cell
        potentials = self.calculator(
            charges=q[:, None],
            cell=cell.to(q.dtype),
            positions=x.to(q.dtype),
            neighbor_indices=torch.stack([pairs.first, pairs.second], 1),
            neighbor_distances=steps.norm(dim=1).to(q.dtype),
        )
        # torch-pme's potential is that of half of all partners: the energy counts each pair once.
        return COULOMB * (potentials[:, 0] * q).sum(0, keepdim=True).double()
