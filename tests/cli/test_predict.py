"""`equiv predict`."""

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read, write

from equiv.cli.predict import add_predictions
from equiv.integrations.ase import EquivCalculator


def test_predictions_are_those_of_the_calculator_and_nothing_is_lost(folder, equiv, model):
    crystal, water = read("crystal.xyz"), molecule("H2O")
    crystal.info.update(name="my crystal", REF_energy=-1.0, flag=True)
    crystal.arrays["charges_dft"] = np.arange(8.0)
    crystal.set_constraint(FixAtoms([0]))
    write("both.xyz", [crystal, water])
    code, output, errors = equiv("predict", "model.safetensors", "both.xyz", "-o", "out.xyz")
    assert (code, errors) == (0, "")
    assert "2 structures" in output
    solid, gas = read("out.xyz", ":")
    assert solid.info["name"] == "my crystal"
    assert solid.info["REF_energy"] == -1.0
    np.testing.assert_array_equal(solid.arrays["charges_dft"], np.arange(8.0))
    assert solid.constraints[0].index.tolist() == [0]
    for given, found in ((crystal, solid), (water, gas)):
        given.calc = EquivCalculator(model)
        assert found.info["equiv_energy"] == pytest.approx(given.get_potential_energy(), abs=1e-9)
        forces = given.get_forces(apply_constraint=False)
        assert abs(forces).max() > 1e-6
        np.testing.assert_allclose(found.arrays["equiv_forces"], forces, atol=1e-8)
        np.testing.assert_allclose(
            found.arrays["equiv_energies"], given.get_potential_energies(), atol=1e-6
        )
        np.testing.assert_allclose(found.positions, given.positions, atol=1e-7)
    np.testing.assert_allclose(solid.info["equiv_stress"], crystal.get_stress(), atol=1e-12)
    assert "equiv_stress" not in gas.info


def test_labels_that_ase_keeps_in_a_calculator_stay(folder, equiv, model):
    crystal = read("crystal.xyz")
    crystal.calc = EquivCalculator(model)
    energy, forces = crystal.get_potential_energy(), crystal.get_forces()
    crystal.calc.results["energy"] = energy + 1.0
    write("labelled.xyz", crystal)
    equiv("predict", "model.safetensors", "labelled.xyz", "-o", "out.xyz")
    found = read("out.xyz")
    assert found.get_potential_energy() == pytest.approx(energy + 1.0)
    assert found.info["equiv_energy"] == pytest.approx(energy)
    np.testing.assert_allclose(found.get_forces(), forces, atol=1e-8)


def test_predictions_are_kept_apart_from_earlier_ones(folder, equiv, refused):
    equiv("predict", "model.safetensors", "crystal.xyz", "-o", "one.xyz")
    words = ("predict", "model.safetensors", "one.xyz", "-o", "two.xyz")
    assert "choose another --prefix" in refused(*words)
    assert equiv(*words, "--prefix", "second_")[0] == 0
    found = read("two.xyz")
    assert found.info["second_energy"] == found.info["equiv_energy"]


def test_what_would_destroy_or_lose_something_is_refused(folder, refused):
    before = (folder / "crystal.xyz").read_bytes(), (folder / "model.safetensors").read_bytes()
    (folder / "link.xyz").symlink_to("crystal.xyz")
    predict = ("predict", "model.safetensors", "crystal.xyz", "-o")
    assert "is an input" in refused(*predict, "crystal.xyz")
    assert "is an input" in refused(*predict, "link.xyz")
    assert "is an input" in refused(*predict, "model.safetensors")
    assert "extended xyz" in refused(*predict, "out.cif")
    assert "does not exist" in refused(*predict, "nowhere/out.xyz")
    assert "is a folder" in refused(*predict, ".")
    after = (folder / "crystal.xyz").read_bytes(), (folder / "model.safetensors").read_bytes()
    assert before == after


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.xyz", "", "no structures"),
        ("text.xyz", "hello\nworld\n", "cannot read structures"),
        ("short.xyz", '8\nProperties=species:S:1:pos:R:3 pbc="F F F"\nSi 0 0 0\n', "cannot read"),
        ("what.weird", "hello", "cannot read structures"),
        ("gold.xyz", "1\n\nAu 0 0 0\n", "Au"),
        ("nan.xyz", "2\n\nSi 0 0 0\nSi 0 0 nan\n", "finite"),
        ("same.xyz", "2\n\nSi 0 0 0\nSi 0 0 0\n", ""),
    ],
)
def test_structures_that_cannot_be_predicted_are_refused(folder, refused, name, content, expected):
    (folder / name).write_text(content)
    assert expected in refused("predict", "model.safetensors", name, "-o", "out.xyz")
    assert not (folder / "out.xyz").exists()


def test_frames_can_be_predicted_in_python_without_files(model):
    frames = [molecule("H2O"), molecule("H2")]
    done = []
    add_predictions(model, frames, prefix="", progress=done.append)
    assert sum(done) == 2
    assert {"energy"} <= frames[0].info.keys()
    assert frames[1].arrays["forces"].shape == (2, 3)
