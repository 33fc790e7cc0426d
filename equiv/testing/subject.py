"""A model under test together with the structures it is tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ase
import numpy as np
from torch import Tensor

from equiv.graph import AtomGraph, collate
from equiv.models import Model, Prediction
from equiv.testing.structures import small_structures


@dataclass(frozen=True)
class Deviation:
    """How far one quantity is from what a law demands, in units of its natural scale."""

    what: str
    error: float


@dataclass(frozen=True)
class Observation:
    """What a model says about one structure, as float64 arrays."""

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virials: np.ndarray


class Subject:
    """A float64 model in evaluation mode, its structures, and its predictions for them.

    Args:
        model: used as it is.
        structures: by name; by default the small ones with the model's elements.
        seed: of the generator for whatever a law draws.
    """

    def __init__(
        self, model: Model, structures: Mapping[str, ase.Atoms] | None = None, *, seed: int = 0
    ) -> None:
        self.model = model.eval()
        self.seed = seed
        if structures is None:
            structures = small_structures(_in_turn(model.elements), cutoff=model.cutoff)
        self.structures = dict(structures)
        self.observations = {
            name: observe(model, [atoms])[0] for name, atoms in self.structures.items()
        }
        self.force_scale = max(
            (np.abs(o.forces).max(initial=0.0) for o in self.observations.values()), default=0.0
        )
        if not np.isfinite(self.force_scale):
            raise AssertionError(
                f"{type(model).__name__} predicts forces that are not finite for "
                + ", ".join(
                    name for name, o in self.observations.items() if not np.isfinite(o.forces).all()
                )
            )
        if self.force_scale == 0.0:
            raise ValueError(
                f"{type(model).__name__} predicts no forces on {', '.join(self.structures)}; "
                "a model of zeros obeys every law, so give it weights first"
            )
        # Reference energies are large and exact; a thousandth of them leaves room for their
        # rounding.
        energies = [abs(o.energy) for o in self.observations.values()]
        self.energy_scale = max(self.force_scale, 1e-3 * max(energies))

    @property
    def generator(self) -> np.random.Generator:
        """A fresh generator: what a law draws does not depend on the laws before it."""
        return np.random.default_rng(self.seed)

    def deviations(self, name: str, came: Observation, expected: Observation) -> list[Deviation]:
        """Compare two observations quantity by quantity."""

        def largest(a: np.ndarray, b: np.ndarray) -> float:
            return float(np.abs(a - b).max(initial=0.0))

        return [
            Deviation(
                f"energy of '{name}'", abs(came.energy - expected.energy) / self.energy_scale
            ),
            Deviation(
                f"energies of '{name}'",
                largest(came.energies, expected.energies) / self.energy_scale,
            ),
            Deviation(
                f"forces of '{name}'", largest(came.forces, expected.forces) / self.force_scale
            ),
            Deviation(
                f"virials of '{name}'", largest(came.virials, expected.virials) / self.energy_scale
            ),
        ]


def graphs(model: Model, structures: Sequence[ase.Atoms]) -> list[AtomGraph]:
    """Graphs of structures at the model's cutoff."""
    return [AtomGraph.from_atoms(atoms, model.cutoff) for atoms in structures]


def predict(
    model: Model, structures: Sequence[ase.Atoms], *, forces: bool = True, stress: bool = True
) -> Prediction:
    """The model's prediction for structures evaluated as one batch."""
    return model(collate(graphs(model, structures)), forces=forces, stress=stress)


def observe(model: Model, structures: Sequence[ase.Atoms]) -> list[Observation]:
    """The same, taken apart again into one observation per structure."""
    prediction = predict(model, structures)
    if prediction.forces is None or prediction.virials is None:
        raise AssertionError(
            f"{type(model).__name__} was asked for forces and stress and gave none"
        )
    counts = [len(atoms) for atoms in structures]

    def per_structure(tensor: Tensor) -> list[np.ndarray]:
        return [part.detach().double().cpu().numpy() for part in tensor.split(counts)]

    energies, forces = per_structure(prediction.energies), per_structure(prediction.forces)
    virials = prediction.virials.detach().double().cpu().numpy()
    energy = prediction.energy.detach().double().cpu().tolist()
    return [
        Observation(*quantities)
        for quantities in zip(energy, energies, forces, virials, strict=True)
    ]


def energies(model: Model, structures: Sequence[ase.Atoms]) -> np.ndarray:
    """Energies of the atoms, one row for each structure of the same number of atoms."""
    prediction = predict(model, structures, forces=False, stress=False)
    return prediction.energies.detach().double().cpu().numpy().reshape(len(structures), -1)


def _in_turn(elements: Sequence[int]) -> list[int]:
    """At most three of them, spread over the periodic table, so that few atoms show differences."""
    if len(elements) <= 3:
        return list(elements)
    return [elements[0], elements[len(elements) // 2], elements[-1]]
