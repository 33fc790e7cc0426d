import json

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equiv.errors import EquivError, UnknownElementError
from equiv.graph import AtomGraph, collate
from equiv.models import MACE, build_model

SMALL = {
    "elements": ["O", "H"],
    "cutoff": 4.0,
    "channels": 4,
    "edge_degree": 2,
    "radial_hidden": [8],
    "mean_neighbors": 3.0,
    "reference_energies": {"H": -13.6, "O": -432.0},
}


def small(**changes):
    return build_model("mace", seed=0, dtype=torch.float64, **{**SMALL, **changes}).eval()


def batch_of(*structures, cutoff=4.0):
    return collate([AtomGraph.from_atoms(atoms, cutoff) for atoms in structures])


def test_the_recipe_rebuilds_the_model_and_is_json():
    model = small(scale=1.5, shift=-0.25)
    again = MACE(**json.loads(json.dumps(model.recipe))).double().eval()
    again.load_state_dict(model.state_dict())
    water = batch_of(molecule("H2O"))
    assert torch.equal(model(water).energy, again(water).energy)


def test_weights_depend_on_the_seed_and_leave_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    one, same, other = (
        build_model("mace", seed=seed, **SMALL).state_dict()["embedding"] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_isolated_atom_has_its_reference_energy_and_shift():
    model = small(shift=-0.5)
    prediction = model(batch_of(Atoms("O"), Atoms("H")), stress=True)
    assert prediction.energy.tolist() == pytest.approx([-432.5, -14.1], abs=1e-12)
    assert prediction.forces.abs().max() == 0
    assert torch.isnan(prediction.stress).all()


def test_an_empty_structure_has_no_energy():
    prediction = small()(batch_of(Atoms(), molecule("H2O")), stress=True)
    assert prediction.energy[0] == 0
    assert prediction.forces.shape == (3, 3)


def test_energies_add_up_and_a_batch_changes_nothing():
    model = small()
    structures = [molecule("H2O"), molecule("H2"), bulk("O", "fcc", a=2.6)]
    together = model(batch_of(*structures), stress=True)
    alone = [model(batch_of(s), stress=True) for s in structures]
    torch.testing.assert_close(together.energy, torch.cat([p.energy for p in alone]))
    torch.testing.assert_close(together.forces, torch.cat([p.forces for p in alone]))
    torch.testing.assert_close(
        together.stress, torch.cat([p.stress for p in alone]), equal_nan=True
    )
    assert together.energies[:3].sum() == pytest.approx(together.energy[0].item())


def test_outputs_are_detached_unless_training():
    model = small()
    water = batch_of(molecule("H2O"))
    assert not model(water).forces.requires_grad
    assert model.train()(water).forces.requires_grad


def test_shares_of_the_virials_add_up():
    model = small()
    crystal = bulk("O", "fcc", a=2.6) * (2, 1, 1)
    crystal.rattle(0.1, seed=0)
    prediction = model(batch_of(crystal), stress=True, atomic_virials=True)
    total = prediction.atomic_virials.sum(0)
    torch.testing.assert_close(0.5 * (total + total.mT), prediction.virials[0])


def test_the_hessian_is_the_derivative_of_the_forces():
    model = small()
    water = molecule("H2O")
    hessian = model.hessian(batch_of(water))
    step = 1e-4
    for atom, axis in [(0, 2), (2, 1)]:
        moved = []
        for sign in (1, -1):
            displaced = water.copy()
            displaced.positions[atom, axis] += sign * step
            moved.append(model(batch_of(displaced)).forces)
        expected = -(moved[0] - moved[1]).flatten() / (2 * step)
        torch.testing.assert_close(hessian[3 * atom + axis], expected, atol=1e-6, rtol=1e-6)
    assert model.hessian(batch_of(Atoms("O"))).abs().max() == 0


def test_float32_weights_keep_float64_energies():
    model = small().float()
    prediction = model(batch_of(molecule("H2O")))
    assert prediction.energy.dtype == prediction.forces.dtype == torch.float64
    exact = small()(batch_of(molecule("H2O")))
    torch.testing.assert_close(prediction.energy, exact.energy, atol=1e-4, rtol=0)


def test_repulsion_acts_at_short_range_only():
    plain, guarded = small(), small(zbl=True)
    guarded.load_state_dict(plain.state_dict())
    far, near = (batch_of(Atoms("OH", [[0, 0, 0], [0, 0, d]])) for d in (1.1, 0.2))
    assert torch.equal(plain(far).energy, guarded(far).energy)
    assert (guarded(near).energy - plain(near).energy).item() > 100


def test_elements_the_model_has_not_seen_are_listed():
    with pytest.raises(UnknownElementError, match=r"holds C, N, but .* trained on H, O only"):
        small()(batch_of(molecule("CH3CN")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"elements": ["O", "Xx"]}, "chemical symbols like 'Si', got 'Xx'"),
        ({"reference_energies": {"H": 0.0}}, "an energy in eV for O"),
        ({"cutoff": -1.0}, "cutoff must be a positive radius"),
        ({"mean_neighbors": 0.0}, "measured on the training set"),
        ({"correlation": 5}, "correlation must be 1, 2, 3 or 4; got 5"),
        ({"hidden_degree": 3}, "hidden_degree must be 0 up to edge_degree"),
        ({"product": "clebsch_gordon"}, "did you mean 'clebsch_gordan'"),
        ({"radial_basis": "besel"}, "did you mean 'bessel'"),
    ],
)
def test_wrong_arguments_are_explained(change, words):
    with pytest.raises(EquivError, match=words):
        small(**change)


def test_an_unknown_architecture_is_named():
    with pytest.raises(EquivError, match="did you mean 'mace'"):
        build_model("maze", **SMALL)
