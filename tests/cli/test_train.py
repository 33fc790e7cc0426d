import os
import subprocess
import sys

import ase.build
import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.emt import EMT

from equiv.cli.main import main

MODEL = {"cutoff": 3.5, "channels": 2, "hidden_degree": 0, "edge_degree": 1, "layers": 1}
SMALL = {**MODEL, "correlation": 1, "num_radial": 3, "radial_hidden": [4], "readout_hidden": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten rattled copper crystals with EMT labels."""
    random = np.random.default_rng(0)
    structures = []
    for _ in range(10):
        atoms = ase.build.bulk("Cu", cubic=True)
        atoms.positions += random.normal(scale=0.05, size=(4, 3))
        atoms.calc = EMT()
        atoms.get_potential_energy()
        atoms.get_forces()
        structures.append(atoms)
    path = tmp_path_factory.mktemp("data") / "copper.xyz"
    ase.io.write(path, structures, format="extxyz")
    return path


@pytest.fixture
def recipe(data, tmp_path):
    path = tmp_path / "recipe.yaml"
    content = {
        "data": {"train": str(data)},
        "model": SMALL,
        "train": {"epochs": 2},
        "output": "run",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_recipe_trains_and_the_end_is_an_error_table(recipe, capsys):
    assert main(["train", str(recipe), "--no-report"]) == 0
    out = capsys.readouterr().out
    assert "errors with the weights of epoch" in out
    assert "meV/atom" in out
    assert (recipe.parent / "run" / "model.safetensors").exists()
    assert not (recipe.parent / "run" / "report.html").exists()


def test_a_data_file_alone_is_enough_and_every_choice_is_printed(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    overrides = [f"--set=model.{key}={value}" for key, value in SMALL.items()]
    assert main(["train", str(data), "--set", "train.max_time=1s", *overrides, "--no-report"]) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "runs" / "copper" / "model.safetensors").exists()
    for topic in ("data ", "E0 ", "split ", "auto ", "model ", "loss ", "training ", "memory "):
        assert f"\n{topic}" in out, topic
    assert "train.epochs = as many as max_time allows" in out


def test_overrides_change_the_run(recipe, capsys):
    arguments = ["train", str(recipe), "-s", "train.epochs=1", "--output", str(recipe.parent / "o")]
    assert main([*arguments, "--no-report"]) == 0
    assert "1 epochs" in capsys.readouterr().out
    assert (recipe.parent / "o" / "model.safetensors").exists()


def test_quiet_prints_nothing(recipe, capsys):
    assert main(["train", str(recipe), "--quiet", "--no-report"]) == 0
    assert capsys.readouterr() == ("", "")


def test_check_prints_the_recipe_in_full_and_trains_nothing(recipe, capsys):
    assert main(["train", str(recipe), "--check"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["train"]["learning_rate"] == 0.01
    assert printed["model"]["channels"] == 2
    assert not (recipe.parent / "run").exists()


def test_a_wrong_recipe_exits_2_without_importing_torch(recipe):
    recipe.write_text(recipe.read_text() + "modle: {}\n")
    code = (
        "import sys; from equiv.cli.main import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "train", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 2
    assert done.stdout == "False\n"
    assert done.stderr.startswith("error: modle: unknown key (recipe.yaml line ")
    assert "did you mean model?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["missing.yaml", "missing.xyz"])
def test_a_missing_file_exits_2_and_is_named(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert name in error


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda atoms: atoms[3].calc.results["forces"].__setitem__((0, 0), np.nan), "copper.xyz"),
        (lambda atoms: atoms[3].calc.results.pop("forces"), "forces"),
        (lambda atoms: [a.calc.results.update(energy=0.0) for a in atoms], "zero"),
    ],
)
def test_bad_labels_exit_2_before_training(data, recipe, tmp_path, capsys, spoil, expected):
    structures = ase.io.read(data, ":")
    spoil(structures)
    ase.io.write(tmp_path / "copper.xyz", structures, format="extxyz")
    assert main(["train", str(recipe), "--set", f"data.train={tmp_path / 'copper.xyz'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert "Traceback" not in error


def test_a_diverging_run_exits_70_and_names_the_structures(recipe, capsys):
    extreme = ["train.learning_rate=1e30", "train.warmup_steps=0", "train.clip_gradient=null"]
    arguments = [word for override in extreme for word in ("--set", override)]
    assert main(["train", str(recipe), *arguments, "--set", "train.loss=mse"]) == 70
    error = capsys.readouterr().err
    assert "copper.xyz:" in error
    assert "nan_frames.xyz" in error
    assert (recipe.parent / "run" / "nan_frames.xyz").exists()


def test_a_foreign_folder_as_output_is_explained(recipe, capsys):
    blocker = recipe.parent / "file"
    blocker.write_text("")
    assert main(["train", str(recipe), "--output", str(blocker / "run")]) == 2
    assert "cannot be made" in capsys.readouterr().err
