import json

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from equiv.cli.main import main


def molecules(count=12, *, start=0, energy="REF_energy", forces="REF_forces"):
    frames = []
    for k in range(start, start + count):
        rng = np.random.default_rng(k)
        atoms = Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        atoms.positions += rng.normal(scale=0.03, size=(3, 3))
        atoms.info[energy] = -14.0 + 0.1 * rng.random()
        net = rng.normal(size=(3, 3))
        atoms.arrays[forces] = net - net.mean(axis=0)
        frames.append(atoms)
    return frames


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write("train.xyz", molecules())
    return tmp_path


def test_good_data_are_described_and_pass(here, capsys):
    assert main(["data", "check", "train.xyz"]) == 0
    out = capsys.readouterr().out
    for words in (
        "train.xyz (12)",
        "12 structures, 36 atoms, elements H O",
        "H2O",
        "REF_energy",
        "12/12",
        "least squares: H",
        "rank 1 of 2",
        "neighbours",
        "ready to train",
    ):
        assert words in out


def test_errors_are_shown_with_numbers_and_exit_with_2(here, capsys):
    frames = molecules()
    del frames[3].arrays["REF_forces"]
    frames[5].info["REF_energy"] = float("nan")
    write("bad.xyz", frames)
    assert main(["data", "check", "bad.xyz"]) == 2
    out = capsys.readouterr().out
    assert "'REF_forces' is missing in 1 of 12 structures" in out
    assert "bad.xyz: 3" in out
    assert "bad.xyz: 5" in out
    assert "2 errors: this cannot be trained on as it is" in out


def test_warnings_are_shown_and_exit_with_0(here, capsys):
    frames = molecules()
    frames[4].arrays["REF_forces"][0, 0] = 77.0
    write("odd.xyz", frames)
    assert main(["data", "check", "odd.xyz"]) == 0
    out = capsys.readouterr().out
    assert "forces above 50 eV/Ang" in out
    assert "1 warning: look at them before training" in out


def test_every_broken_file_is_named_at_once(here, capsys):
    (here / "empty.xyz").write_text("")
    (here / "cut.xyz").write_text("3\n\nO 0 0 0\n")
    assert main(["data", "check", "train.xyz", "empty.xyz", "cut.xyz", "gone.xyz"]) == 2
    out = capsys.readouterr().out
    assert "empty.xyz: the file is empty" in out
    assert "cut.xyz: structure 0 (line 1) is cut off" in out
    assert "gone.xyz: no such file" in out
    assert "3 errors" in out


def test_leakage_into_test_files_is_found(here, capsys):
    write("test.xyz", molecules(2, start=10) + molecules(3, start=100))
    assert main(["data", "check", "train.xyz", "--test", "test.xyz"]) == 0
    out = capsys.readouterr().out
    assert "2 of 5 structures of test.xyz are in the training set as well" in out
    assert "test.xyz: 0-1" in out


def test_keys_and_units_are_options(here, capsys):
    frames = molecules()
    for atoms in frames:
        atoms.info["xtb_energy"] = -5.0
    write("two.xyz", frames)
    assert main(["data", "check", "two.xyz"]) == 2
    assert "--energy-key" in capsys.readouterr().out
    options = ["--energy-key", "REF_energy", "--energy-unit", "Ha", "--length-unit", "Bohr"]
    assert main(["data", "check", "two.xyz", *options]) == 0
    assert "Ha/Bohr" in capsys.readouterr().out


def test_an_unknown_unit_is_an_error(here, capsys):
    assert main(["data", "check", "train.xyz", "--energy-unit", "hartre"]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [False, True])
def test_json_is_one_document_without_nan(here, capsys, broken):
    frames = molecules()
    if broken:
        frames[5].info["REF_energy"] = float("nan")
    write("a.xyz", frames)
    code = main(["data", "check", "a.xyz", "--test", "train.xyz", "--json"])
    text = capsys.readouterr().out
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert code == (2 if broken else 0)
    assert document["ok"] is not broken
    assert document["data"]["labels"]["forces"]["key"] == "REF_forces"
    assert document["leakage"][0]["kind"] == "leakage"
    if broken:
        (error,) = [f for f in document["findings"] if f["severity"] == "error"]
        assert error["structures"] == [{"file": "a.xyz", "index": 5}]
    else:
        assert document["overview"]["statistics"]["mean_neighbors"] == 2.0
        assert document["reference_energies"]["rank"] == 1


def test_json_of_an_unreadable_file_is_json_too(here, capsys):
    (here / "empty.xyz").write_text("")
    assert main(["data", "check", "empty.xyz", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert "the file is empty" in document["findings"][0]["message"]


def test_crystals_show_stress_and_pressure_in_gpa(shared_data, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["data", "check", str(shared_data / "mlearn/Si_test.xyz")]) == 0
    out = capsys.readouterr().out
    assert "pressure" in out
    assert "GPa" in out
    assert "periodic crystal" in out


def test_what_training_would_refuse_is_not_called_ready(here, capsys):
    free = [Atoms("H"), Atoms("O")]
    for atoms in free:
        atoms.info["energy"] = -1.0
    write("free.xyz", free)
    assert main(["data", "check", "free.xyz"]) == 2
    assert "no structure but isolated atoms" in capsys.readouterr().out
    write("one.xyz", molecules(1))
    assert main(["data", "check", "one.xyz"]) == 0
    out = capsys.readouterr().out
    assert "only one distinct structure" in out
    assert "ready to train" not in out
    forces = molecules()
    for atoms in forces:
        del atoms.info["REF_energy"]
    write("forces.xyz", forces)
    assert main(["data", "check", "forces.xyz"]) == 2
    assert "cannot be fitted without energies" in capsys.readouterr().out


def test_making_the_nbody_set_says_whether_it_is_the_published_one(monkeypatch, tmp_path, capsys):
    from equiv.data import nbody

    monkeypatch.setattr(nbody, "SIZES", {"test": 2})
    monkeypatch.setattr(nbody, "START_STEP", 2)
    monkeypatch.setattr(nbody, "TARGET_STEP", 4)
    assert main(["data", "make", "nbody", "-o", str(tmp_path / "set")]) == 0
    text = capsys.readouterr().out
    assert "test.npz: 2 systems, equal to the published ones but for rounding" in text
    assert main(["data", "make", "nbdy"]) == 2
    assert "did you mean 'nbody'" in capsys.readouterr().err
    assert main(["data", "make", "nbody", "more.xyz"]) == 2
    assert "takes no files, got more.xyz" in capsys.readouterr().err
