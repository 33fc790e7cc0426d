"""`equiv evaluate`."""

import json

import numpy as np
import pytest
from ase.io import read, write


@pytest.fixture
def labelled(folder, frames, model):
    write(folder / "test.xyz", frames(model))
    return folder


def test_json_holds_exactly_the_promised_numbers(labelled, equiv):
    code, output, errors = equiv("evaluate", "model.safetensors", "test.xyz", "--json")
    assert (code, errors) == (0, "")
    found = json.loads(output)
    assert found == {
        "frames": 4,
        "energy_per_atom": {"mae": pytest.approx(0.1), "rmse": pytest.approx(0.1)},
        "energy": {"mae": pytest.approx(0.8), "rmse": pytest.approx(0.8)},
        "forces": {"mae": pytest.approx(0.1), "rmse": pytest.approx(0.3 / 3**0.5)},
        "stress": {"mae": pytest.approx(0.01), "rmse": pytest.approx(0.01)},
    }
    assert list(found) == ["frames", "energy_per_atom", "energy", "forces", "stress"]


def test_the_table_is_for_people_with_units(labelled, equiv):
    code, output, _ = equiv("evaluate", "model.safetensors", "test.xyz")
    assert code == 0
    assert "REF_energy" in output
    assert "meV/atom" in output
    assert "100 / 100" in output


def test_labels_that_are_not_there_are_null(labelled, equiv):
    _, output, _ = equiv(
        *("evaluate", "model.safetensors", "test.xyz", "--json", "--stress-key", "none")
    )
    found = json.loads(output)
    assert found["stress"] == {"mae": None, "rmse": None}
    assert found["forces"]["mae"] == pytest.approx(0.1)


def test_units_are_converted(labelled, equiv, frames, model):
    converted = frames(model)
    for atoms in converted:
        atoms.info["REF_energy"] *= 1000
        atoms.arrays["REF_forces"] *= 1000
        atoms.info["REF_stress"] = atoms.info["REF_stress"] * -160.21766208
    write("milli.xyz", converted)
    words = ("evaluate", "model.safetensors", "milli.xyz", "--json", "--energy-unit", "meV",
             "--stress-unit", "GPa", "--stress-sign", "compression_positive")  # fmt: skip
    found = json.loads(equiv(*words)[1])
    assert found["energy"]["mae"] == pytest.approx(0.8)
    assert found["forces"]["mae"] == pytest.approx(0.1)
    assert found["stress"]["mae"] == pytest.approx(0.01, rel=1e-5)


def test_several_files_and_globs_are_one_set(labelled, equiv):
    write("test2.xyz", read("test.xyz", ":2"))
    found = json.loads(equiv("evaluate", "model.safetensors", "test*.xyz", "--json")[1])
    assert found["frames"] == 6


def test_structures_are_written_with_labels_and_predictions(labelled, equiv):
    code, _, errors = equiv(
        *("evaluate", "model.safetensors", "test.xyz", "--json", "--output", "out.xyz"),
        *("--plot", "parity.png"),
    )
    assert code == 0, errors
    found = read("out.xyz", ":")
    assert len(found) == 4
    for seed, atoms in enumerate(found):
        shift = atoms.info["reference_energy"] - atoms.info["equiv_energy"]
        assert shift == pytest.approx(0.8 * (-1) ** seed)
        difference = atoms.arrays["reference_forces"] - atoms.arrays["equiv_forces"]
        np.testing.assert_allclose(difference, [[0.3, 0, 0]] * 8, atol=1e-6)
    assert (labelled / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_structures_without_some_labels_count_only_when_allowed(labelled, equiv, refused):
    frames = read("test.xyz", ":")
    del frames[1].arrays["REF_forces"]
    write("some.xyz", frames)
    words = ("evaluate", "model.safetensors", "some.xyz", "--json")
    message = refused(*words)
    assert "--allow-missing" in message
    assert "labels." not in message
    found = json.loads(equiv(*words, "--allow-missing")[1])
    assert found["frames"] == 4
    assert found["energy"]["mae"] == pytest.approx(0.8)
    assert found["forces"]["mae"] == pytest.approx(0.1)


def test_what_cannot_be_evaluated_is_refused(labelled, refused):
    evaluate = ("evaluate", "model.safetensors")
    message = refused(*evaluate, "crystal.xyz")
    assert "crystal.xyz" in message
    assert "--energy-key" in message
    assert "labels." not in message
    assert "missing.xyz" in refused(*evaluate, "missing.xyz")
    assert "dft_energy" in refused(*evaluate, "test.xyz", "--energy-key", "dft_energy")
    assert "--energy-unit: " in refused(*evaluate, "test.xyz", "--energy-unit", "parsec")
    assert "is an input" in refused(*evaluate, "test.xyz", "--output", "test.xyz")
    assert "is an input" in refused(*evaluate, "*.xyz", "--output", "test.xyz")
    assert "extended xyz" in refused(*evaluate, "test.xyz", "--output", "test.db")
    assert ".png" in refused(*evaluate, "test.xyz", "--plot", "plot.txt")
