"""The task of regressors: properties found, measured, learned and compared."""

import json

import ase.build
import ase.io
import numpy as np
import pytest

from equiv.cli.main import main
from equiv.errors import DataError
from equiv.train import run


def molecules(count, seed):
    """Water with the dipole, polarisability and charges of a model a child could compute."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = ase.build.molecule("H2O")
        atoms.positions += random.normal(scale=0.1, size=(3, 3))
        rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
        atoms.positions = atoms.positions @ rotation.T
        bonds = atoms.positions[1:] - atoms.positions[0]
        atoms.info["dipole"] = 0.4 * bonds.sum(0)
        atoms.info["alpha"] = (np.eye(3) + np.einsum("bi,bj->ij", bonds, bonds)).ravel()
        atoms.info["volume_A3"] = 20.0 + float(np.square(bonds).sum())
        atoms.arrays["charge_e"] = np.array([-0.8, 0.4, 0.4]) + random.normal(scale=0.01, size=3)
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("water") / "water.xyz"
    ase.io.write(path, molecules(40, 0), format="extxyz")
    return path


@pytest.fixture
def recipe(file, tmp_path):
    def make(key, **train):
        return {
            "data": {
                "train": f"{file}@:30",
                "valid": f"{file}@30:35",
                "test": f"{file}@35:40",
                "key": key,
            },
            "model": {"name": "regressor", "channels": 8, "cutoff": 3.0},
            "train": {"epochs": 2, "threads": 1, "batch_size": 6, "warmup_steps": 2, **train},
            "output": str(tmp_path / key),
        }

    return make


def test_a_dipole_is_learned_and_its_model_evaluated(recipe, file, capsys):
    result = run(recipe("dipole", epochs=30))
    first, last = result.history[0], result.history[-1]
    assert last["valid_property_rmse"] < 0.3 * first["valid_property_rmse"]
    assert not result.warnings
    names = {path.name for path in result.folder.iterdir()}
    assert names >= {"model.safetensors", "parity.png", "report.html", "worst.xyz"}
    assert main(["evaluate", str(result.model), f"{file}@35:40", "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)
    expected = result.metrics["test"]["property"]["rmse"]
    assert errors["property"]["rmse"] == pytest.approx(expected, rel=1e-4)
    assert errors["turning"]["rmse"] < expected


@pytest.mark.parametrize(
    ("key", "kind", "collect", "labels"),
    [
        ("alpha", "tensor", "sum", 5 * 9),
        ("volume_A3", "scalar", "sum", 5),
        ("charge_e", "scalar", "atoms", 15),
    ],
)
def test_kinds_are_found_and_offsets_fitted(recipe, key, kind, collect, labels):
    result = run(recipe(key), report=False)
    card = json.loads((result.folder / "metrics.json").read_text())
    assert card["splits"]["test"]["property"]["count"] == labels
    import equiv

    model = equiv.load_model(result.model)
    assert (model.recipe["kind"], model.recipe["collect"]) == (kind, collect)
    if key == "charge_e":
        offsets = model.recipe["offsets"]
        assert offsets["O"] == pytest.approx(-0.8, abs=0.01)
        assert offsets["H"] == pytest.approx(0.4, abs=0.01)


def test_what_is_no_property_is_refused(recipe, file, tmp_path):
    with pytest.raises(DataError, match=r"no property called 'dipol'; this structure has .*dipole"):
        run(recipe("dipol"))
    atoms = molecules(4, 1)
    atoms[2].info["alpha"] = np.arange(9.0)
    ase.io.write(tmp_path / "skew.xyz", atoms, format="extxyz")
    content = recipe("alpha")
    content["data"]["train"] = str(tmp_path / "skew.xyz")
    with pytest.raises(DataError, match=r"skew.xyz:2: alpha is no symmetric tensor"):
        run(content)
    content = recipe("dipole")
    content["model"]["kind"] = "tensor"
    with pytest.raises(DataError, match=r"kind = tensor and model\.collect = sum do not fit"):
        run(content)


def test_the_defaults_of_the_recipe_are_those_of_the_constructor():
    import inspect

    from equiv.models import Regressor
    from equiv.train.recipe_property import RegressorRecipe

    constructor = inspect.signature(Regressor.__init__).parameters
    fields = RegressorRecipe.model_fields
    assert set(fields) - {"name"} == set(constructor) - {"self", "elements", "unit"}
    measured = {"name", "cutoff", "kind", "collect", "mean_neighbors", "scale", "offsets"}
    for name in set(fields) - measured:
        default = fields[name].get_default(call_default_factory=True)
        default = tuple(default) if isinstance(default, list) else default
        assert default == constructor[name].default, name
