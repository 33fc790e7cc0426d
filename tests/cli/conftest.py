"""A small model and a structure for it, as files."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from equiv.cli.main import main
from equiv.models import build_model
from equiv.models.file import save_model


def make_model(**changes):
    recipe = {
        "elements": ["H", "O", "Si"],
        "cutoff": 3.5,
        "channels": 2,
        "edge_degree": 1,
        "correlation": 2,
        "radial_hidden": [8],
        "mean_neighbors": 8.0,
        "reference_energies": {"H": -13.0, "O": -430.0, "Si": -290.0},
        "zbl": True,
    }
    return build_model("mace", seed=0, dtype=torch.float64, **{**recipe, **changes})


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture
def folder(tmp_path, monkeypatch, model):
    """The working directory, with `model.safetensors`, `crystal.xyz` and `water.xyz` in it."""
    monkeypatch.chdir(tmp_path)
    save_model(model, tmp_path / "model.safetensors", card={"licence": "MIT", "errors": {"a": 1.5}})
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.1, seed=0)
    crystal.write(tmp_path / "crystal.xyz")
    molecule("H2O").write(tmp_path / "water.xyz")
    return tmp_path


@pytest.fixture
def equiv(capsys):
    """Run a command line in this process: its exit code, its output and its errors."""

    def run(*words):
        code = None
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit:
            code = exit.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(equiv):
    """Run a command line that must be refused; the message."""

    def run(*words):
        code, _, errors = equiv(*words)
        assert code == 2, errors
        assert errors.startswith("error: "), errors
        assert "Traceback" not in errors
        return errors

    return run


@pytest.fixture
def frames():
    """Labelled frames of a crystal, with the labels the model itself gives plus known errors."""

    def make(model, number=4):
        from equiv.integrations.ase import EquivCalculator

        made = []
        for seed in range(number):
            atoms = bulk("Si", cubic=True)
            atoms.rattle(0.1, seed=seed)
            atoms.calc = EquivCalculator(model)
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            stress = atoms.get_stress(voigt=False)
            atoms.calc = None
            atoms.info["REF_energy"] = energy + 0.8 * (-1) ** seed
            atoms.info["REF_stress"] = stress + 0.01
            atoms.arrays["REF_forces"] = forces + np.array([0.3, 0.0, 0.0])
            made.append(atoms)
        return made

    return make
