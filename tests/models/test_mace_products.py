"""MACE with tensor products other than Clebsch-Gordan's."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate
from equiv.models import build_model


def mace(product, **choice):
    recipe = {
        "elements": ["H", "C", "O"],
        "cutoff": 4.0,
        "channels": 4,
        "edge_degree": 2,
        "correlation": 3,
        "num_radial": 4,
        "radial_hidden": [8],
        "mean_neighbors": 5.0,
        "reference_energies": {"H": -1.0, "C": -2.0, "O": -3.0},
        "product": product,
    }
    return build_model("mace", seed=0, dtype=torch.float64, **{**recipe, **choice})


def energies_and_forces(model):
    atoms = [molecule("CH3CH2OH"), molecule("H2O")]
    for a in atoms:
        a.positions += 0.1 * np.random.default_rng(0).standard_normal(a.positions.shape)
    batch = collate([AtomGraph.from_atoms(a, model.cutoff) for a in atoms])
    prediction = model(batch, forces=True)
    return prediction.energy, prediction.forces


@pytest.mark.parametrize(
    ("one", "other"), [("gaunt_grid", "gaunt_fourier"), ("clebsch_gordan", "so2")]
)
def test_two_ways_to_compute_one_map_share_their_weights(one, other):
    first, second = mace(one), mace(other)
    second.load_state_dict(first.state_dict())
    ours, theirs = energies_and_forces(first), energies_and_forces(second)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("product", ["gaunt_grid", "matrix", "vector_signal", "so2"])
def test_degrees_of_all_kinds(product):
    for choice in (
        {"hidden_degree": 0},
        {"hidden_degree": 2, "edge_degree": 3, "layers": 3},
        {"correlation": 1},
        {"correlation": 4, "edge_degree": 1},
    ):
        energy, forces = energies_and_forces(mace(product, **choice))
        assert energy.isfinite().all()
        assert forces.abs().max() > 1e-6


def test_a_product_without_these_halves_is_refused_with_what_there_is():
    with pytest.raises(EquivError, match=r"product: expected one of .*'gaunt_grid'.*got 'auto'"):
        mace("auto")
    with pytest.raises(EquivError, match="edge_degree"):
        mace("so2", edge_degree=0)
