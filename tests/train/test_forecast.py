"""The forecast task: from a recipe to a model file, with all that the loop does for potentials."""

import json

import numpy as np
import pytest
import torch

from equiv.cli.main import main
from equiv.errors import DataError, RecipeError
from equiv.models.file import read_header
from equiv.train import load_recipe, run
from equiv.train.checkpoint import NAME, read_checkpoint


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Forty systems of three particles, bound by springs to their centre: an easy forecast."""
    random = np.random.default_rng(0)
    x, v = (random.normal(size=(40, 3, 3)) for _ in range(2))
    centred = x - x.mean(1, keepdims=True)
    path = tmp_path_factory.mktemp("particles") / "springs.npz"
    charges = random.choice([-1.0, 1.0], size=(40, 3))
    np.savez(path, positions=x, velocities=v, charges=charges, targets=x + v - 0.4 * centred)
    return path


@pytest.fixture
def recipe(archive, tmp_path):
    def make(output="run", **train):
        return {
            "data": {
                "train": f"{archive}@:24",
                "valid": f"{archive}@24:32",
                "test": f"{archive}@32:40",
            },
            "model": {"name": "forecaster", "channels": 6, "stages": 2, "grid": "octahedron"},
            "train": {"epochs": 3, "batch_size": 8, "threads": 1, "warmup_steps": 2, **train},
            "output": str(tmp_path / output),
        }

    return make


def test_training_learns_and_leaves_all_its_files(recipe):
    result = run(recipe(epochs=25, batch_size=12))
    assert result.finished
    rows = result.history
    assert rows[-1]["valid_positions_mse"] < 0.3 * rows[0]["valid_positions_mse"]
    names = {path.name for path in result.folder.iterdir()}
    assert names >= {"model.safetensors", "metrics.json", "parity.png", "report.html", "log.csv"}
    assert not result.warnings
    assert result.metrics["test"]["positions"]["count"] == 8 * 9
    assert result.metrics["test"]["equivariance"]["mse"] < result.metrics["test"]["turned"]["mse"]
    header = read_header(result.model)
    assert (header.model, header.elements, header.cutoff) == ("forecaster", (), None)
    assert header.card["data"]["structures"] == {"train": 24, "valid": 8, "test": 8}


def test_stopped_and_continued_is_the_same_run_bit_for_bit(recipe, monkeypatch):
    run(recipe("whole", epochs=4), report=False)
    from equiv.train.loop import Trainer

    step, done = Trainer._step, []

    def stop_after_five(self, *arguments):
        step(self, *arguments)
        done.append(1)
        if len(done) == 5:
            self.interruption.name = "SIGTERM"

    monkeypatch.setattr(Trainer, "_step", stop_after_five)
    assert not run(recipe("cut", epochs=4), report=False).finished
    monkeypatch.setattr(Trainer, "_step", step)
    result = run(recipe("cut", epochs=4), report=False)
    assert result.finished
    whole, cut = (
        read_checkpoint(result.folder.parent / name / NAME).tensors for name in ("whole", "cut")
    )
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_commands_understand_the_model(recipe, archive, capsys):
    result = run(recipe(epochs=1), report=False)
    assert main(["info", str(result.model)]) == 0
    text = capsys.readouterr().out
    assert "forecaster" in text
    assert "elements" not in text
    assert main(["evaluate", str(result.model), f"{archive}@32:40", "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)
    expected = result.metrics["test"]["positions"]["mse"]
    assert errors["positions"]["mse"] == pytest.approx(expected, rel=1e-5)
    assert main(["predict", str(result.model), str(archive), "-o", "out.xyz"]) == 2
    assert "predicts no energies" in capsys.readouterr().err


def test_a_part_of_the_training_set_is_held_out_when_there_is_no_other(recipe, tmp_path):
    content = recipe(epochs=1)
    del content["data"]["valid"]
    result = run(content | {"output": str(tmp_path / "held")}, report=False)
    frames = {name: metrics["frames"] for name, metrics in result.metrics.items()}
    assert frames == {"train": 22, "valid": 2, "test": 8}


def test_a_typo_names_the_nearest_key_of_this_kind_of_recipe(recipe):
    content = recipe(energy_weight=1.0)
    content["model"]["stagse"] = 3
    with pytest.raises(RecipeError) as caught:
        load_recipe(content)
    assert "model.stagse: unknown key; did you mean model.stages?" in str(caught.value)
    assert "train.energy_weight: unknown key" in str(caught.value)


def test_a_model_that_nobody_knows_is_named_with_the_nearest_and_the_rest_is_checked(recipe):
    content = recipe(epoch=1)
    content["model"]["name"] = "forcaster"
    with pytest.raises(RecipeError) as caught:
        load_recipe(content)
    assert "got 'forcaster'; did you mean forecaster?" in str(caught.value)
    assert "train.epoch: unknown key; did you mean train.epochs?" in str(caught.value)


def test_the_defaults_of_the_recipe_are_those_of_the_constructor():
    import inspect

    from equiv.models import Forecaster
    from equiv.train.recipe_forecast import ForecasterRecipe

    constructor = inspect.signature(Forecaster.__init__).parameters
    fields = ForecasterRecipe.model_fields
    assert set(fields) - {"name"} == set(constructor) - {"self"}
    for name in set(fields) - {"name", "horizon"}:
        default = fields[name].get_default(call_default_factory=True)
        default = tuple(default) if isinstance(default, list) else default
        assert default == constructor[name].default, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"charges": None}, "lacks charges"),
        ({"velocities": np.zeros((40, 3, 2))}, r"velocities of \(40, 3, 2\)"),
        ({"targets": np.full((40, 3, 3), np.nan)}, "targets of system 0 holds values"),
    ],
)
def test_archives_that_do_not_fit_are_refused(recipe, archive, tmp_path, change, words):
    arrays = dict(np.load(archive))
    arrays |= change
    np.savez(tmp_path / "bad.npz", **{k: v for k, v in arrays.items() if v is not None})
    content = recipe()
    content["data"]["train"] = str(tmp_path / "bad.npz")
    with pytest.raises(DataError, match=words):
        run(content)
