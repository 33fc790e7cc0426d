"""What every potential offers: energies with gradients, potentials, and everything at once."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equiv.long_range.pairs import Pairs, PairSums
from equiv.long_range.point_charges import PointCharges


@dataclass(frozen=True)
class Electrostatics:
    r"""What charges do to each other. Detached: for molecular dynamics and for looking at.

    Attributes:
        energy: of each structure, eV, float64.
        potentials: :math:`\phi_i = \partial E / \partial q_i` at each atom, without its own, in V.
        fields: :math:`-\nabla \phi` at each atom, V/Angstrom.
        forces: :math:`q_i` times the field, eV/Angstrom.
        stress: :math:`V^{-1} \partial E / \partial \varepsilon`, eV/Angstrom^3, symmetric; NaN for
            structures that do not repeat in three directions.
    """

    energy: Float[Tensor, " graphs"]
    potentials: Float[Tensor, " atoms"]
    fields: Float[Tensor, "atoms 3"]
    forces: Float[Tensor, "atoms 3"]
    stress: Float[Tensor, "graphs 3 3"]

    @classmethod
    def of(cls, system: PointCharges, sums: PairSums) -> "Electrostatics":
        """From what the sums over all pairs give."""
        return cls(
            energies_of(system, sums),
            sums.potentials,
            sums.fields,
            sums.forces,
            stress_of(system, sums.virials),
        )


class LongRangePotential(nn.Module, ABC):
    r"""The energy of charges :math:`q_i` under a kernel :math:`k(r)`, usually :math:`k_e / r`.

    .. math:: E = \tfrac12 \sum_{i \neq j} q_i q_j\, k(|r_i - r_j|),

    where :math:`j` runs over all periodic images. A sum over three periodic directions is the one
    of a crystal in a conducting surrounding ("tin foil"), and a net charge is neutralised by a
    uniform background; what the other boundaries mean is said where they are computed.

    All methods take the same arguments:

    - positions [atoms, 3], Angstrom,
    - charges [atoms], elementary charges; their dtype is the dtype of the arithmetic,
    - cell [graphs, 3, 3], Angstrom, and pbc [graphs, 3]; left out, nothing is periodic,
    - batch [atoms], ``torch.long``, the structure of each atom, ascending; left out, there is one,
    - pairs: pairs of atoms closer than the real-space cutoff, if they are known already.

    Energies do not change under rotations, reflections and translations beyond the tolerance.
    """

    def forward(
        self,
        positions: Float[Tensor, "atoms 3"],
        charges: Float[Tensor, " atoms"],
        cell: Float[Tensor, "graphs 3 3"] | None = None,
        pbc: Bool[Tensor, "graphs 3"] | None = None,
        batch: Int[Tensor, " atoms"] | None = None,
        pairs: Pairs | None = None,
    ) -> Float[Tensor, " graphs"]:
        """Energy of each structure, eV, float64; differentiable to any order in all tensors."""
        return self.energies(PointCharges.checked(positions, charges, cell, pbc, batch), pairs)

    def potentials(
        self,
        positions: Float[Tensor, "atoms 3"],
        charges: Float[Tensor, " atoms"],
        cell: Float[Tensor, "graphs 3 3"] | None = None,
        pbc: Bool[Tensor, "graphs 3"] | None = None,
        batch: Int[Tensor, " atoms"] | None = None,
        pairs: Pairs | None = None,
    ) -> Float[Tensor, " atoms"]:
        r"""Potential at each atom, V: a symmetric linear map of the charges, differentiable."""
        return self.potentials_of(PointCharges.checked(positions, charges, cell, pbc, batch), pairs)

    def evaluate(
        self,
        positions: Float[Tensor, "atoms 3"],
        charges: Float[Tensor, " atoms"],
        cell: Float[Tensor, "graphs 3 3"] | None = None,
        pbc: Bool[Tensor, "graphs 3"] | None = None,
        batch: Int[Tensor, " atoms"] | None = None,
        pairs: Pairs | None = None,
    ) -> Electrostatics:
        """Energy, potentials, fields, forces and stress, without a graph."""
        system = PointCharges.checked(positions, charges, cell, pbc, batch).detached()
        return self.electrostatics(system, pairs)

    @abstractmethod
    def energy(self, system: PointCharges, pairs: Pairs | None) -> Float[Tensor, " graphs"]:
        """See :meth:`forward`; in operations that torch can differentiate."""

    def energies(self, system: PointCharges, pairs: Pairs | None) -> Float[Tensor, " graphs"]:
        """See :meth:`forward`; in the fastest way."""
        return self.energy(system, pairs)

    def potentials_of(self, system: PointCharges, pairs: Pairs | None) -> Float[Tensor, " atoms"]:
        """See :meth:`potentials`; here by automatic differentiation."""
        charges = system.charges
        wants_graph = torch.is_grad_enabled() and system.requires_grad
        with torch.enable_grad():
            q = charges if charges.requires_grad else charges.detach().requires_grad_()
            energy = self.energy(replace(system, charges=q), pairs).sum()
            if not energy.requires_grad:  # no charge has another to act on
                return torch.zeros_like(q)
            return torch.autograd.grad(energy, q, create_graph=wants_graph)[0]

    def electrostatics(self, system: PointCharges, pairs: Pairs | None) -> Electrostatics:
        """See :meth:`evaluate`; here by automatic differentiation."""
        sums = sums_by_gradient(lambda strained: self.energy(strained, pairs), system)
        return Electrostatics.of(system, sums)


def energies_of(system: PointCharges, sums: PairSums) -> Float[Tensor, " graphs"]:
    r""":math:`\tfrac12 \sum_i q_i \phi_i` of each structure, in float64."""
    return system.per_graph(system.charges.double() * sums.potentials.double()) / 2


def sums_by_gradient(
    energy: Callable[[PointCharges], Tensor], system: PointCharges, *, strain: bool = True
) -> PairSums:
    """Potentials, fields and virials of an energy, by automatic differentiation."""
    with torch.enable_grad():
        positions = system.positions.detach().requires_grad_()
        charges = system.charges.detach().requires_grad_()
        deformation = torch.zeros_like(system.cell).requires_grad_()
        moved, cell = positions, system.cell
        if strain:
            symmetric = (deformation + deformation.mT) / 2
            cell = system.cell + system.cell @ symmetric
            if system.num_graphs == 1:
                moved = positions + positions @ symmetric[0]
            else:
                local = symmetric.index_select(0, system.batch)
                moved = positions + torch.einsum("ax,axy->ay", positions, local)
        total = energy(replace(system, positions=moved, charges=charges, cell=cell)).sum()
        uncharged = bool((system.charges == 0).any())
        potentials, gradients, virials = torch.autograd.grad(
            total,
            (charges, positions, deformation),
            create_graph=uncharged,
            materialize_grads=True,
        )
        fields = _fields(gradients, charges)
    return PairSums(
        potentials.detach(), fields.detach(), -gradients.detach(), virials.detach().double()
    )


def _fields(gradients: Tensor, charges: Tensor) -> Tensor:
    r"""Fields from the gradients :math:`g_i = -q_i E_i` of the energy.

    Where a charge is zero, its field is minus the derivative of the gradient with respect to it.
    """
    q = charges.detach()[:, None]
    zero = q == 0
    fields = -gradients.detach() / torch.where(zero, torch.ones_like(q), q)
    if bool(zero.any()):
        slopes = []
        for axis in range(3):
            # The gradients of other atoms without charge do not depend on this one's.
            chosen = (gradients[:, axis] * zero[:, 0]).sum()
            slopes.append(torch.autograd.grad(chosen, charges, retain_graph=True)[0])
        fields = torch.where(zero, -torch.stack(slopes, -1), fields)
    return fields


def stress_of(system: PointCharges, virials: Tensor) -> Tensor:
    """Symmetric dE/dstrain [graphs, 3, 3] per volume; NaN without three periodic directions."""
    volume = torch.linalg.det(system.cell.double()).abs()
    stress = (virials + virials.mT).double() / 2 / volume[:, None, None]
    full = system.pbc.all(dim=1)[:, None, None]
    return torch.where(full, stress, torch.full_like(stress, torch.nan))
