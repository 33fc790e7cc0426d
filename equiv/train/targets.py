"""The labels of a batch in the form that losses want: no gaps, and the weight of every label."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from equiv.graph.layout import Layout


@dataclass(frozen=True)
class Targets:
    r"""Labels and their shares in the mean over all labels of the batch.

    A share is :math:`\omega_s / n`, with the weight :math:`\omega_s` of the structure and the
    number :math:`n` of labels; where a label is missing it is zero, and so is the label.

    Attributes:
        energy: eV. Shape ``[structures]``.
        energy_share: shares of the energies.
        per_atom: one over the number of atoms.
        forces: eV/Angstrom. Shape ``[rows, 3]``.
        forces_share: shares of the components of an atom's force.
        stress: eV/Angstrom^3. Shape ``[structures, 3, 3]``.
        stress_share: shares of the components of a stress.
        per_volume: one over the volume, Angstrom^-3; zero without stress.
    """

    energy: Float[Tensor, " structures"]
    energy_share: Float[Tensor, " structures"]
    per_atom: Float[Tensor, " structures"]
    forces: Float[Tensor, "rows 3"]
    forces_share: Float[Tensor, " rows"]
    stress: Float[Tensor, "structures 3 3"]
    stress_share: Float[Tensor, " structures"]
    per_volume: Float[Tensor, " structures"]

    @classmethod
    def of(cls, batch: Any) -> "Targets":
        """The labels of a batch, in its order."""
        omega = batch.weight.double()
        atoms = torch.bincount(batch.batch, minlength=batch.num_graphs)
        has_forces = batch.has_forces[batch.batch]
        has_stress = batch.has_stress
        volume = torch.linalg.det(batch.cell).abs()
        return cls(
            energy=_known(batch.energy, batch.has_energy),
            energy_share=_shares(omega, batch.has_energy, 1),
            per_atom=1 / atoms.clamp(min=1).double(),
            forces=_known(batch.forces, has_forces),
            forces_share=_shares(omega[batch.batch], has_forces, 3),
            stress=_known(batch.stress, has_stress),
            stress_share=_shares(omega, has_stress, 9),
            per_volume=torch.where(has_stress, 1 / volume, 0.0),
        )

    def arranged(self, layout: Layout) -> "Targets":
        """The same in the order of a layout; its ghosts have no labels."""
        members = torch.cat(layout.members)
        missing = layout.structures.table.shape[0] - self.energy.shape[0]
        arranged = {name: _pad(getattr(self, name), missing) for name in vars(self)}
        for name in ("forces", "forces_share"):
            arranged[name] = _pad(getattr(self, name), 1)[members]
        return replace(self, **arranged)


def _known(labels: Tensor, has: Bool[Tensor, " items"]) -> Tensor:
    """Labels with zeros where there are none."""
    return torch.where(has.view(-1, *[1] * (labels.ndim - 1)), labels, 0.0)


def _shares(omega: Tensor, has: Bool[Tensor, " items"], components: int) -> Tensor:
    return torch.where(has, omega, 0.0) / (has.sum() * components).clamp(min=1)


def _pad(x: Tensor, missing: int) -> Tensor:
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
