"""Training that starts from a model file."""

import pytest
import torch

import equiv
from equiv.errors import DataError, EquivError, RecipeError
from equiv.train import load_recipe, run


@pytest.fixture
def first(tiny, tmp_path):
    return run(tiny(epochs=6), output=tmp_path / "first", report=False)


def again(tiny, first, **train):
    """A recipe that says nothing of the model but where it is."""
    recipe = tiny(start_from=str(first.model), **train)
    del recipe["model"]
    return recipe


def test_the_run_begins_with_the_function_in_the_file(tiny, first, tmp_path):
    result = run(
        again(tiny, first, epochs=1, learning_rate=1e-12, warmup_steps=0, ema_decay=0.0),
        output=tmp_path / "again",
        report=False,
    )
    for name in ("energy_per_atom", "forces", "stress"):
        expected = first.metrics["valid"][name]["rmse"]
        assert result.metrics["valid"][name]["rmse"] == pytest.approx(expected, rel=1e-4)
    one, two = equiv.load_model(first.model), equiv.load_model(result.model)
    assert one.recipe == two.recipe


def test_it_goes_on_learning_and_can_be_resumed(tiny, first, tmp_path):
    recipe = again(tiny, first, epochs=3)
    result = run(recipe, output=tmp_path / "again", report=False)
    assert result.metrics["train"]["forces"]["rmse"] < first.metrics["train"]["forces"]["rmse"]
    weights = equiv.load_model(result.model).state_dict()
    rerun = run(result.folder / "recipe.yaml", output=tmp_path / "rerun", report=False)
    other = equiv.load_model(rerun.model).state_dict()
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_data_with_fewer_elements_leave_the_model_its_elements(tiny, first, tmp_path):
    import ase.io

    recipe = again(tiny, first, epochs=1)
    copper = [
        atoms for atoms in ase.io.read(recipe["data"]["train"], ":") if "Al" not in atoms.symbols
    ]
    ase.io.write(tmp_path / "copper.xyz", copper, format="extxyz")
    recipe["data"] = {"train": str(tmp_path / "copper.xyz"), "valid_fraction": 0.3}
    model = equiv.load_model(run(recipe, output=tmp_path / "again", report=False).model)
    assert model.elements == (13, 29)


def test_what_does_not_fit_is_explained(tiny, first, tmp_path):
    import ase.io

    recipe = again(tiny, first)
    recipe["model"] = {"channels": 4}
    with pytest.raises(EquivError, match="channels 8 in the file, 4 in the recipe"):
        run(recipe, output=tmp_path / "again")
    with pytest.raises(RecipeError, match=r"train.start_from: .*nowhere.safetensors: there is no"):
        load_recipe(tiny(start_from="nowhere.safetensors"))
    recipe = again(tiny, first)
    gold = ase.io.read(recipe["data"]["train"], ":")
    for atoms in gold:
        atoms.symbols[1] = "Au"
    ase.io.write(tmp_path / "gold.xyz", gold, format="extxyz")
    recipe["data"] = {"train": str(tmp_path / "gold.xyz"), "reference_energies": "least_squares"}
    with pytest.raises(DataError, match="holds Au, which the model to start from"):
        run(recipe, output=tmp_path / "again")
