import json

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate
from equiv.models import MODELS, build_model
from equiv.models.compiled.evaluation import Arrangement, Evaluate
from equiv.models.compiled.records import leaves
from equiv.models.compiled.trace import trace, weights
from equiv.models.equivariance_error import equivariance_error
from equiv.models.ponita_layer import PairGeometry, SphereConvolution
from equiv.position_orientation import orientation_grid
from equiv.position_orientation.grids import zonal_polynomials
from equiv.so3 import random_rotations, spherical_harmonics

CUTOFF = 4.0
RECIPE = dict(
    elements=["H", "C", "O"],
    cutoff=CUTOFF,
    channels=8,
    layers=2,
    num_radial=5,
    radial_hidden=[8],
    readout_hidden=4,
    mean_neighbors=6.0,
    reference_energies={"H": -0.3, "C": -0.2, "O": -0.1},
)
CONVNEXT = dict(block="convnext", widening=2, channels=32)
ETHANOL = molecule("CH3CH2OH")


def ponita(seed=0, **choice):
    return build_model("ponita", seed=seed, dtype=torch.float64, **{**RECIPE, **choice}).eval()


def batch_of(*structures):
    return collate([AtomGraph.from_atoms(atoms, CUTOFF) for atoms in structures])


def energy(model, atoms=ETHANOL):
    return model(batch_of(atoms), forces=False).energy.item()


@pytest.mark.parametrize("choice", [{}, CONVNEXT, {"product": "matrix", "zbl": True}], ids=str)
def test_the_recipe_rebuilds_the_model_and_is_json(choice):
    model = ponita(**choice)
    again = MODELS["ponita"](**json.loads(json.dumps(model.recipe))).double().eval()
    again.load_state_dict(model.state_dict())
    assert energy(again) == energy(model)


@pytest.mark.parametrize("product", ["pointwise", "clebsch_gordan"])
def test_band_limited_layers_are_exact_under_all_rotations(product):
    error = ponita(product=product, correlation=2).equivariance_error([ETHANOL, molecule("H2O")])
    assert error.energy < 1e-12
    assert error.forces_relative < 1e-12
    assert error.torque_relative < 1e-12


def test_the_grid_makes_no_difference_to_band_limited_layers():
    small, large = ponita(degree=2, grid="lebedev26"), ponita(degree=2, grid="pentakis32")
    large.load_state_dict(small.state_dict())
    assert energy(large) == pytest.approx(energy(small), abs=1e-12)


def test_published_layers_are_exact_in_the_group_of_the_grid_and_close_to_it_elsewhere():
    model = ponita(**CONVNEXT)
    group = model.exact_rotations
    assert len(group) == 60
    at_rest = model(batch_of(ETHANOL))
    for turn in group[::7]:
        turned = ETHANOL.copy()
        turned.positions = ETHANOL.positions @ turn.numpy().T
        prediction = model(batch_of(turned))
        torch.testing.assert_close(prediction.energy, at_rest.energy, rtol=0, atol=1e-12)
        torch.testing.assert_close(prediction.forces @ turn, at_rest.forces, rtol=0, atol=1e-12)
    error = model.equivariance_error(ETHANOL, rotations=4)
    assert 1e-9 < error.forces_relative < 0.1
    assert 1e-9 < error.torque_relative < 0.1


def test_an_average_over_orientations_turns_better():
    fixed = ponita(**CONVNEXT, grid="icosahedron")
    averaged = ponita(**CONVNEXT, grid="icosahedron", average=12)
    averaged.load_state_dict(fixed.state_dict())
    before, after = (m.equivariance_error(ETHANOL, rotations=6) for m in (fixed, averaged))
    assert after.energy < 0.5 * before.energy
    assert after.forces < 0.5 * before.forces


def test_the_grid_turns_with_the_steps_of_training_and_rests_afterwards():
    model = ponita(**CONVNEXT, orientation="random_per_step")
    at_rest = energy(model)
    found = []
    for step in (1, 2, 1):
        model.advance(step)
        assert energy(model) == at_rest
        found.append(energy(model.train()))
        model.eval()
    assert found[0] == found[2] != found[1]
    fixed = ponita(**CONVNEXT)
    fixed.advance(1)
    assert energy(fixed.train()) == energy(fixed.eval())


def test_a_long_range_model_hands_the_step_to_its_short_range_part():
    choice = dict(orientation="random_per_step", long_range={"tolerance": 1e-4})
    model = ponita(**CONVNEXT, **choice)
    model.advance(3)
    turn = random_rotations(generator=torch.Generator().manual_seed(3))
    assert torch.equal(model.local.turn, turn)
    assert len(model.exact_rotations) == 60


def test_rotations_of_the_grid_stay_exact_in_single_precision():
    model = ponita(average=3).float()
    assert model.turns.dtype == torch.float64
    eye = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    torch.testing.assert_close(model.turns @ model.turns.mT, eye, rtol=0, atol=1e-14)


def test_mirror_images_have_the_same_energy():
    chiral = Atoms(
        "COHOH", [[0, 0, 0], [1.3, 0, 0.1], [0, 1.0, 0.2], [-0.4, -0.6, 1.1], [0, 0, -1]]
    )
    mirrored = chiral.copy()
    mirrored.positions[:, 0] *= -1
    for choice in ({}, CONVNEXT):
        model = ponita(**choice)
        assert energy(model, mirrored) == pytest.approx(energy(model, chiral), abs=1e-12)


def test_convolving_what_does_not_turn_needs_no_grid():
    grid = orientation_grid("pentakis32").double()
    batch, model = batch_of(ETHANOL), ponita()
    layout = model.layout(batch)
    vectors = layout.pair_vectors(*layout.geometry(batch), padding=2 * CUTOFF)
    generator = torch.Generator().manual_seed(0)
    radial = torch.randn(len(vectors), 4 * 3, generator=generator, dtype=torch.float64)
    x = torch.randn(len(ETHANOL), 1, 3, generator=generator, dtype=torch.float64)
    cosines = torch.nn.functional.normalize(vectors, dim=-1) @ grid.points.T
    pairs = PairGeometry(spherical_harmonics(3, vectors), zonal_polynomials(3, cosines, 3), vectors)
    plain, sampled = (SphereConvolution(grid, 3, d, 3, 5.0).double() for d in (0, 3))
    padded = torch.nn.functional.pad(x, (0, 0, 0, 15))
    torch.testing.assert_close(
        plain(x, pairs, radial, layout.neighbors),
        # A function of degree 0 has 1 / 4 of its coefficient as its value.
        sampled(4 * padded, pairs, radial, layout.neighbors),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("choice", [{}, CONVNEXT], ids=["bandlimited", "convnext"])
def test_one_graph_serves_structures_of_all_sizes(choice):
    model = ponita(**choice).requires_grad_(False)
    function = Evaluate(stress=True, atomic_virials=False)
    graph = trace(function, model, Arrangement.of(model, batch_of(ETHANOL, molecule("H2O"))))
    for node in graph.module.graph.nodes:
        assert "scatter" not in str(node.target), node
    batch = batch_of(molecule("C6H6"), molecule("CH4"), molecule("CO"))
    given = Arrangement.of(model, batch)
    tensors = [*weights(model).values(), *(leaf.tensor for leaf in leaves(given))]
    values = dict(zip(graph.outputs, graph.module(*tensors), strict=True))
    expected = model(batch, stress=True)
    n = batch.num_graphs
    torch.testing.assert_close(values["energy"][:n], expected.energy, rtol=0, atol=1e-10)
    forces = values["forces"][given.layout.rows]
    torch.testing.assert_close(forces, expected.forces, rtol=0, atol=1e-11)


def test_the_error_of_a_model_that_is_exact_is_rounding():
    mace = build_model(
        "mace",
        dtype=torch.float64,
        **{k: RECIPE[k] for k in ("elements", "cutoff", "mean_neighbors", "reference_energies")},
        channels=4,
        edge_degree=1,
        correlation=1,
    )
    error = equivariance_error(mace, ETHANOL, rotations=2)
    assert error.forces_relative < 1e-12
    assert error.structures == 1
    assert error.to_dict()["energy_relative"] is None  # one structure has no spread
    assert "net torque" in str(error)
    crystal = Atoms("C", cell=[3.1, 3.1, 3.1], pbc=True)
    assert "none: periodic" in str(equivariance_error(mace, crystal, rotations=1))
    assert mace.training


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"grid": "icosahedron"}, "up to degree 9 exactly.*strength 5.*at most 1"),
        ({"grid": "pentakis"}, "did you mean 'pentakis32'"),
        ({"block": "conv"}, "block: expected one of 'bandlimited', 'convnext'"),
        ({"product": "gaunt"}, "product: expected one of 'pointwise'"),
        ({"orientation": "random"}, "orientation: expected one of 'fixed', 'random_per_step'"),
        ({"average": 0}, "average must be at least 1"),
        ({"degree": 0}, "degree must be at least 1"),
        ({"correlation": 5}, "correlation must be 1, 2, 3 or 4"),
        ({"mean_neighbors": 0.0}, "mean_neighbors must be a positive number"),
        ({"elements": ["Xx"]}, "chemical symbols"),
        ({"reference_energies": {"H": 0.0}}, "an energy in eV for C, O"),
    ],
)
def test_wrong_arguments_are_explained(choice, words):
    with pytest.raises(EquivError, match=words):
        ponita(**choice)


def test_no_structure_has_no_error():
    with pytest.raises(EquivError, match="at least one structure"):
        equivariance_error(ponita(), [])
