"""Small labelled structures whose labels really belong together: harmonic bonds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from equiv.data import Dataset, Frame

HESSIAN = 20.0  # eV/Angstrom^2


def molecule(seed: int) -> tuple[Atoms, float, np.ndarray]:
    """A rattled molecule with harmonic distances; its energy and forces."""
    rest = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms = Atoms("OHH", rest)
    distances = np.linalg.norm(rest[:, None] - rest[None], axis=-1)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
    energy, forces = -76.0, np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for j in range(i):
            bond = atoms.positions[i] - atoms.positions[j]
            length = np.linalg.norm(bond)
            stretch = length - distances[i, j]
            energy += 0.5 * HESSIAN * stretch**2
            force = -HESSIAN * stretch * bond / length
            forces[i] += force
            forces[j] -= force
    return atoms, float(energy), forces


def frame(seed: int, **changes) -> Frame:
    atoms, energy, forces = molecule(seed)
    values = {"energy": energy, "forces": forces, "stress": None, "source": "a.xyz", "index": seed}
    return Frame(atoms, **{**values, **changes})


def labelled(
    seed: int, *, energy_key: str | None = "REF_energy", forces_key: str | None = "REF_forces"
):
    """Atoms with labels under these keys."""
    atoms, energy, forces = molecule(seed)
    if energy_key:
        atoms.info[energy_key] = energy
    if forces_key:
        atoms.arrays[forces_key] = forces
    return atoms


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """Writes structures to a file in the temporary folder."""

    def save_as(name: str, structures, **options) -> Path:
        write(tmp_path / name, structures, **options)
        return tmp_path / name

    return save_as


@pytest.fixture
def water() -> Dataset:
    return Dataset([frame(seed) for seed in range(40)])
