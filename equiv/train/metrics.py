"""Errors of interatomic potentials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ase.units
import torch
from torch import Tensor

from equiv.graph import collate
from equiv.models.interface import Model, Prediction
from equiv.train.errors import Metrics, Rows
from equiv.train.evaluation import Evaluation, compare
from equiv.train.quantity import Quantity

GPA = 1 / ase.units.GPa  # eV/Angstrom^3 in GPa
VOIGT = (
    (0, 0),
    (1, 1),
    (2, 2),
    (1, 2),
    (0, 2),
    (0, 1),
)  # the six independent components of the stress

QUANTITIES = (
    Quantity(
        "energy_per_atom",
        "E",
        "energy",
        unit="eV/atom",
        shown_unit="meV/atom",
        factor=1e3,
        short="energy",
    ),
    Quantity(
        "energy",
        "E",
        "energy",
        unit="eV",
        shown_unit="meV/structure",
        factor=1e3,
        epochs=(),
        logged=False,
    ),
    Quantity(
        "forces",
        "F",
        "force",
        unit="eV/Angstrom",
        shown_unit="meV/Å",
        factor=1e3,
        title="Force components",
        axis_unit="eV/Å",
    ),
    Quantity(
        "stress",
        "S",
        "stress",
        unit="eV/Angstrom^3",
        shown_unit="GPa",
        factor=GPA,
        epochs=("valid",),
        title="Stress components",
        axis_unit="GPa",
        axis_factor=GPA,
    ),
)
"""Energies per atom and per structure, force components, and six stress components."""


def batch_errors(prediction: Prediction, batch: Any) -> dict[str, Rows]:
    """Predicted minus reference for every label of a batch that exists, by property."""
    structures = torch.arange(batch.num_graphs, device=batch.batch.device)
    has = batch.has_energy
    difference = (prediction.energy.detach() - batch.energy)[has]
    atoms = torch.bincount(batch.batch, minlength=batch.num_graphs)[has]
    errors = {
        "energy": Rows(difference, structures[has]),
        "energy_per_atom": Rows(difference / atoms.clamp(min=1), structures[has]),
    }
    if prediction.forces is not None:
        has = batch.has_forces[batch.batch]
        errors["forces"] = Rows((prediction.forces.detach() - batch.forces)[has], batch.batch[has])
    if prediction.stress is not None:
        has = batch.has_stress
        errors["stress"] = Rows(
            voigt((prediction.stress.detach() - batch.stress)[has]), structures[has]
        )
    return errors


def voigt(stress: Tensor) -> Tensor:
    """The six independent components of symmetric 3x3 tensors, in the order xx yy zz yz xz xy."""
    return torch.stack([0.5 * (stress[..., a, b] + stress[..., b, a]) for a, b in VOIGT], dim=-1)


@dataclass(frozen=True)
class PotentialComparison:
    """Compare energies, and what else is asked for, of labelled graphs.

    Attributes:
        forces: whether to predict forces.
        stress: whether to predict stresses.
    """

    forces: bool = True
    stress: bool = False

    @classmethod
    def of(cls, graphs: Sequence[Any]) -> "PotentialComparison":
        """What these graphs have labels for."""
        return cls(
            forces=any(bool(graph.has_forces.any()) for graph in graphs),
            stress=any(bool(graph.has_stress.any()) for graph in graphs),
        )

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What is measured."""
        return QUANTITIES

    def size(self, sample: Any) -> int:
        """Edges of a graph."""
        return int(sample.senders.shape[0])

    def collate(self, samples: Sequence[Any]) -> Any:
        """Several graphs as one."""
        return collate(samples)

    def predict(self, model: Model, batch: Any) -> Prediction:
        """Energies, and what else is asked for."""
        return model(batch, forces=self.forces, stress=self.stress)

    def evaluation_errors(self, prediction: Prediction, batch: Any) -> dict[str, Rows]:
        """All errors."""
        return batch_errors(prediction, batch)

    def pairs(self, prediction: Prediction, batch: Any) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Reference and predicted values of the labels that exist."""
        has = batch.has_energy
        atoms = torch.bincount(batch.batch, minlength=batch.num_graphs).clamp(min=1)
        found = {"energy_per_atom": ((batch.energy / atoms)[has], (prediction.energy / atoms)[has])}
        if prediction.forces is not None:
            has = batch.has_forces[batch.batch]
            found["forces"] = (batch.forces[has], prediction.forces[has])
        if prediction.stress is not None:
            has = batch.has_stress
            found["stress"] = (voigt(batch.stress[has]), voigt(prediction.stress[has]))
        return found


def evaluate_model(
    model: Model,
    graphs: Sequence[Any],
    *,
    groups: Sequence[str] | None = None,
    batch_edges: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Metrics:
    """Errors of a potential on labelled graphs; see :func:`evaluate` for the arguments."""
    return evaluate(
        model, graphs, groups=groups, batch_edges=batch_edges, progress=progress
    ).metrics


def evaluate(
    model: Model,
    graphs: Sequence[Any],
    *,
    groups: Sequence[str] | None = None,
    batch_edges: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict labelled graphs (:class:`equiv.graph.AtomGraph`) with a potential, and compare.

    Args:
        model: any potential.
        graphs: labelled structures.
        groups: name of the group of each structure.
        batch_edges: most edges predicted at once; chosen when not given.
        progress: called after each batch with the number of structures just done.
    """
    return compare(
        PotentialComparison.of(graphs),
        model,
        graphs,
        groups=groups,
        batch_edges=batch_edges,
        progress=progress,
    )
