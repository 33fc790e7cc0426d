"""A few small labelled structures, and recipes that train on them in seconds."""

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT

TINY_MODEL = {
    "cutoff": 4.5,
    "channels": 8,
    "hidden_degree": 0,
    "edge_degree": 1,
    "layers": 2,
    "correlation": 2,
    "num_radial": 6,
    "radial_hidden": [16, 16],
    "readout_hidden": 4,
}


def make_structures(count=12, *, seed=0):
    """Rattled Cu4 and Cu-Al crystals with energy, forces and stress of ASE's effective medium
    theory.
    """
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        atoms = ase.build.bulk("Cu", "fcc", a=3.7, cubic=True)
        if index % 2:
            atoms.symbols[0] = "Al"
        atoms.set_cell(atoms.cell * random.uniform(0.96, 1.06), scale_atoms=True)
        atoms.positions += random.normal(scale=0.08, size=atoms.positions.shape)
        atoms.calc = EMT()
        copy = atoms.copy()
        copy.info["energy"] = float(atoms.get_potential_energy())
        copy.arrays["forces"] = atoms.get_forces()
        copy.info["stress"] = atoms.get_stress(voigt=False)
        copy.info["config_type"] = "alloy" if index % 2 else "copper"
        found.append(copy)
    return found


@pytest.fixture(scope="session")
def emt_structures():
    """The function that makes the structures: `emt_structures(count, seed=...)`."""
    return make_structures


@pytest.fixture(scope="session")
def tiny_model():
    """Arguments of a model that trains in milliseconds."""
    return dict(TINY_MODEL)


@pytest.fixture(scope="session")
def emt_file(tmp_path_factory):
    """An extended-xyz file of twelve labelled crystals; beside it lies `valid.xyz` with four."""
    folder = tmp_path_factory.mktemp("emt")
    ase.io.write(folder / "emt.xyz", make_structures(), format="extxyz")
    ase.io.write(folder / "valid.xyz", make_structures(4, seed=5), format="extxyz")
    return folder / "emt.xyz"


@pytest.fixture
def tiny(emt_file, tmp_path):
    """A recipe that trains a tiny model for a few epochs, as a dictionary; keyword arguments change
    `train`.
    """

    def recipe(**train):
        return {
            "data": {"train": str(emt_file), "valid": str(emt_file.with_name("valid.xyz"))},
            "model": dict(TINY_MODEL),
            "train": {"epochs": 3, "batch_size": 2, "threads": 1, "warmup_steps": 5, **train},
            "output": str(tmp_path / "run"),
        }

    return recipe
