"""A Ponita by recipe: trained, stopped and continued, with its error under rotations told."""

import io

import pytest
import torch
from rich.console import Console

import equiv
from equiv.cli.main import main
from equiv.models.file import read_header
from equiv.train import load_recipe, run
from equiv.train.loop import Trainer

MODEL = {
    "name": "ponita",
    "cutoff": 4.0,
    "channels": 8,
    "layers": 2,
    "num_radial": 5,
    "radial_hidden": [8],
    "readout_hidden": 4,
}
PUBLISHED = {
    **{key: value for key, value in MODEL.items() if key != "readout_hidden"},
    "block": "convnext",
    "grid": "icosahedron",
    "degree": 2,
    "widening": 2,
    "orientation": "random_per_step",
}


def trained(recipe):
    text = io.StringIO()
    return run(recipe, console=Console(file=text, width=140)), text.getvalue()


def test_a_band_limited_model_learns_with_stress(tiny):
    recipe = tiny(epochs=15, compile="off")
    result, text = trained({**recipe, "model": MODEL})
    first, last = result.history[0], result.history[-1]
    for name in ("valid_forces_rmse", "valid_stress_rmse"):
        assert last[name] < 0.8 * first[name], name
    assert "2 bandlimited layers of 8 channels on pentakis32, l <= 3, order 3" in text
    assert "equivariance" not in read_header(result.model).card
    assert isinstance(equiv.load_model(result.model), equiv.models.Ponita)


def test_steps_with_random_orientations_continue_bit_for_bit(
    tiny, emt_file, tmp_path, monkeypatch, capsys
):
    recipe = {**tiny(epochs=3, compile="off"), "model": PUBLISHED}
    whole, _ = trained({**recipe, "output": str(tmp_path / "whole")})

    original, seen = Trainer._step, []

    def stopping(self, indices, num_batches):
        original(self, indices, num_batches)
        seen.append(self.model.turn.clone())
        if len(seen) == 8:  # in the second epoch
            self.interruption.name = "SIGTERM"

    monkeypatch.setattr(Trainer, "_step", stopping)
    trained({**recipe, "output": str(tmp_path / "parts")})
    assert len(seen) == 8
    assert len({tuple(turn.flatten().tolist()) for turn in seen}) == 8
    monkeypatch.setattr(Trainer, "_step", original)
    parts, _ = trained({**recipe, "output": str(tmp_path / "parts")})

    one, other = equiv.load_model(whole.model), equiv.load_model(parts.model)
    for x, y in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    error = read_header(whole.model).card["equivariance"]
    assert error["forces_relative"] > 1e-6
    assert error["structures"] == 4
    assert main(["evaluate", str(whole.model), str(emt_file)]) == 0
    assert "not invariant under all rotations; turning 12 structures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "ponita", "widening": 2}, "widening cannot be set for block: bandlimited"),
        ({**PUBLISHED, "product": "matrix"}, "product cannot be set for block: convnext"),
        ({"name": "ponita", "hidden_degree": 1}, "hidden_degree"),
        ({"name": "ponita", "grid": "pentakis"}, "pentakis32"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(tiny, model, words):
    with pytest.raises(equiv.errors.EquivError, match=words):
        load_recipe({**tiny(), "model": model})
