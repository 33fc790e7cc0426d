"""The long-range term: its charges, what it adds, and what it refuses."""

import ase
import ase.io
import numpy as np
import pytest
import torch

import equiv
import equiv.train
from equiv.errors import DataError, EquivError
from equiv.graph import AtomGraph, collate
from equiv.models import LongRange, LongRangeModel, build_model
from equiv.units import COULOMB

IONS = {"charges": "fixed", "fixed_charges": {"Na": 1.0, "Cl": -1.0}, "tolerance": 1e-6}


def build(**long_range):
    return build_model(
        "mace",
        dtype=torch.float64,
        elements=["Na", "Cl"],
        cutoff=4.0,
        channels=3,
        edge_degree=1,
        correlation=2,
        num_radial=3,
        radial_hidden=[4],
        mean_neighbors=3.0,
        reference_energies={"Na": 0.0, "Cl": 0.0},
        long_range=long_range,
    ).eval()


def predict(model, *structures, **wanted):
    return model(collate([AtomGraph.from_atoms(s, model.cutoff) for s in structures]), **wanted)


def pair(distance, symbols="NaCl", **info):
    return ase.Atoms(symbols, positions=[[0, 0, 0], [distance, 0, 0]], info=info)


def energy(model, distance, symbols="NaCl", **info):
    return predict(model, pair(distance, symbols, **info), forces=False).energy.item()


def test_ions_attract_far_beyond_the_cutoff():
    model = build(**IONS)
    near, far = energy(model, 12.0), energy(model, 30.0)
    assert near - far == pytest.approx(-COULOMB * (1 / 12 - 1 / 30), rel=1e-4)
    forces = predict(model, pair(20.0)).forces
    assert forces[0, 0].item() == pytest.approx(COULOMB / 20**2, rel=1e-4)


def test_the_model_without_the_term_does_not_see_them():
    assert build_model("mace", **{**build(**IONS).local.recipe, "long_range": None}).name == "mace"
    local = build(**IONS).local
    assert energy(local, 12.0) == energy(local, 30.0)


def test_charges_sum_to_the_charge_of_the_structure():
    for charges in ("learned", "equilibrated"):
        model = build(charges=charges)
        for total in (0, 1, -2):
            structure = pair(3.0, charge=total)
            assert predict(model, structure).extras["charges"].sum().item() == pytest.approx(
                total, abs=1e-6
            )


def test_energy_depends_on_the_total_charge():
    model = build(charges="learned")
    assert abs(energy(model, 3.0, charge=1) - energy(model, 3.0, total_charge=0)) > 0.1


def test_equilibrated_charges_answer_to_charges_out_of_sight():
    model = build(charges="equilibrated")
    with torch.no_grad():
        model.charges.offsets.copy_(torch.tensor([-3.0, 3.0]))
    near = predict(model, pair(6.0)).extras["charges"]
    far = predict(model, pair(60.0)).extras["charges"]
    assert abs(near[0] - far[0]) > 0.01


@pytest.mark.parametrize("charges", ["learned", "equilibrated"])
def test_forces_are_the_same_where_they_are_differentiated_again(charges):
    model = build(charges=charges)
    structure = ase.Atoms("NaClNa", [[0, 0, 0], [2.7, 0, 0], [2.1, 3.0, 0.4]], info={"charge": 1})
    wanted = predict(model, structure).forces
    forces = predict(model.train(), structure).forces
    np.testing.assert_allclose(forces.detach(), wanted, atol=1e-8)


def test_dipoles_belong_to_finite_structures():
    model = build(**IONS)
    periodic = pair(3.0)
    periodic.set_cell([8, 8, 8])
    periodic.pbc = True
    dipole = predict(model, pair(3.0), periodic).extras["dipole"]
    np.testing.assert_allclose(dipole[0], [-3.0, 0, 0], atol=1e-12)
    assert torch.isnan(dipole[1]).all()


def test_the_model_file_keeps_the_term(tmp_path):
    model = build(charges="learned", dispersion=True)
    model.save(tmp_path / "model.safetensors")
    loaded = equiv.load_model(tmp_path / "model.safetensors")
    assert isinstance(loaded, LongRangeModel)
    assert loaded.settings == LongRange(dispersion=True)
    assert energy(loaded, 3.0) == energy(model, 3.0)


def test_the_calculator_gives_charges_and_dipoles_and_sees_a_new_charge():
    atoms = pair(3.0)
    atoms.calc = equiv.EquivCalculator(build(charges="learned"))
    before = atoms.get_potential_energy()
    assert atoms.get_charges().sum() == pytest.approx(0, abs=1e-12)
    assert atoms.get_dipole_moment().shape == (3,)
    atoms.info["charge"] = 1
    assert atoms.get_potential_energy() != before
    assert atoms.get_charges().sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"charge": "learned"}, "charges"),
        ({"charges": "learnt"}, "learned"),
        ({"charges": "fixed"}, "fixed_charges"),
        ({"charges": "fixed", "fixed_charges": {"Na": 1.0}}, "no charge for Cl"),
        ({"fixed_charges": {"Na": 1.0, "Cl": -1.0}}, "belongs to charges = 'fixed'"),
        ({"charges": "equilibrated", "short_range": True}, "must be false"),
        ({"tolerance": 3.0}, "tolerance"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(EquivError, match=message):
        build(**settings)


def test_an_unusable_total_charge_is_refused_where_it_matters():
    with pytest.raises(DataError, match="one finite number"):
        energy(build(charges="learned"), 3.0, charge="plus")
    with pytest.raises(DataError, match="one finite number"):
        energy(build(charges="learned"), 3.0, charge=1, total_charge=2)
    assert np.isfinite(energy(build(**IONS).local, 3.0, charge="plus"))


def test_virials_of_single_atoms_are_refused():
    with pytest.raises(EquivError, match="virials of single atoms"):
        predict(build(**IONS), pair(3.0), atomic_virials=True)


@pytest.mark.parametrize(("reference", "zero"), [(0.0, True), (-1.0, False)])
def test_the_automatic_shift_leaves_interaction_energies_to_the_charges(tmp_path, reference, zero):
    """Energies counted from free ions vanish with the distance, which no constant does."""
    frames = []
    for distance in (2.4, 2.7, 3.1, 3.6):
        atoms = pair(distance)
        atoms.info["REF_energy"] = 2 * reference - COULOMB / distance
        frames.append(atoms)
    ase.io.write(tmp_path / "train.xyz", frames)
    recipe = {
        "data": {
            "train": str(tmp_path / "train.xyz"),
            "labels": {"energy": "REF_energy"},
            "reference_energies": {"Na": reference, "Cl": reference},
        },
        "model": {"cutoff": 4.0, "channels": 2, "radial_hidden": [2], "long_range": {}},
        "train": {"epochs": 1, "threads": 1},
        "output": str(tmp_path / "run"),
    }
    model = equiv.load_model(equiv.train.run(recipe, report=False).model)
    assert (model.recipe["shift"] == 0) == zero
