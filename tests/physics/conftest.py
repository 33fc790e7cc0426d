import ase
import numpy as np
import pytest
import torch

from equiv.graph import AtomGraph, collate
from equiv.models import build_model

REFERENCE_ENERGIES = {"H": -13.6, "C": -1029.3, "O": -2041.7}


def small_model(**choice):
    """A MACE with random float64 weights, as small as can be without losing any part."""
    recipe = dict(
        elements=["H", "C", "O"],
        cutoff=4.0,
        channels=4,
        edge_degree=2,
        correlation=2,
        num_radial=5,
        radial_hidden=[8],
        readout_hidden=4,
        mean_neighbors=1.5,
        reference_energies=REFERENCE_ENERGIES,
        scale=20.0,
    )
    return build_model("mace", seed=11, dtype=torch.float64, **{**recipe, **choice}).eval()


@pytest.fixture(scope="session")
def build():
    return small_model


@pytest.fixture(scope="session")
def model():
    return small_model()


@pytest.fixture(scope="session")
def predict():
    """The model's prediction for one structure."""

    def evaluate(model, atoms, **choice):
        graph = AtomGraph.from_atoms(atoms, model.cutoff)
        return model(collate([graph]), **{"forces": True, "stress": True, **choice})

    return evaluate


@pytest.fixture
def molecule():
    positions = [
        [-0.05, 0.66, 0.03],
        [-0.05, -0.76, -0.02],
        [-1.08, 0.98, 0.05],
        [0.44, 1.07, 0.89],
        [0.47, 1.02, -0.91],
        [0.86, -1.06, 0.11],
    ]
    return ase.Atoms("COHHHH", positions)


@pytest.fixture
def crystal():
    """Triclinic, and shorter than the cutoff in every direction."""
    cell = [[2.9, 0.3, -0.2], [0.9, 3.1, 0.4], [-0.5, 0.7, 3.4]]
    return ase.Atoms(
        "COH", [[0.0, 0.1, 0.2], [1.3, 0.2, 0.1], [0.4, 1.6, 1.2]], cell=cell, pbc=True
    )


@pytest.fixture
def slab(crystal):
    """Periodic in two directions, with vacuum in the third."""
    cell = crystal.cell.array.copy()
    cell[2] = [0.0, 0.0, 15.0]
    crystal.set_cell(cell)
    crystal.pbc = [True, True, False]
    return crystal


@pytest.fixture
def dimer():
    def at(distance, symbols="CO"):
        direction = np.array([0.48, 0.6, 0.64])
        return ase.Atoms(symbols, [[0.0, 0.0, 0.0], distance * direction])

    return at
