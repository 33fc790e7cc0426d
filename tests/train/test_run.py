import io

import ase.io
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

import equiv
from equiv.models.file import read_header
from equiv.train import TrainingDiverged, load_recipe, run
from equiv.train.console import RunConsole
from equiv.train.loop import Trainer
from equiv.train.potential import PotentialTask
from equiv.train.prepare import prepare
from equiv.train.state import NotANumber


def shown(recipe, **keys):
    """The result of a run and everything it printed to a file."""
    text = io.StringIO()
    result = run(recipe, console=Console(file=text, width=120), **keys)
    return result, text.getvalue()


@pytest.fixture(scope="module")
def finished(emt_file, emt_structures, tiny_model, tmp_path_factory):
    """One finished run with a test set, shared by the tests that only look."""
    folder = tmp_path_factory.mktemp("finished")
    ase.io.write(folder / "test.xyz", emt_structures(6, seed=9), format="extxyz")
    recipe = {
        "data": {
            "train": str(emt_file),
            "valid": str(emt_file.with_name("valid.xyz")),
            "test": {"new": str(folder / "test.xyz")},
        },
        "model": tiny_model,
        "train": {"epochs": 60, "batch_size": 2, "threads": 1, "warmup_steps": 5},
        "output": str(folder / "run"),
        "card": {"level_of_theory": "EMT"},
    }
    result, text = shown(recipe)
    return result, text


def test_training_lowers_every_error(finished, emt_structures):
    result, _ = finished
    first, last = result.history[0], result.history[-1]
    for name in (
        "valid_energy_rmse",
        "valid_forces_rmse",
        "valid_stress_rmse",
        "train_forces_rmse",
    ):
        assert last[name] < 0.3 * first[name], name
    assert result.metrics["new"]["forces"]["rmse"] < 0.6 * np.sqrt(
        np.mean([np.square(atoms.arrays["forces"]) for atoms in emt_structures(6, seed=9)])
    )


def test_a_run_leaves_all_its_files(finished):
    result, _ = finished
    names = {path.name for path in result.folder.iterdir()}
    assert names >= {
        "recipe.yaml",
        "log.csv",
        "log.jsonl",
        "checkpoint.safetensors",
        "model.safetensors",
        "metrics.json",
        "parity.png",
        "learning_curve.png",
        "report.html",
        "worst.xyz",
    }
    assert not [name for name in names if name.startswith(".") and name != ".lock"]
    assert not result.warnings


def test_every_choice_is_printed(finished):
    _, text = finished
    for choice in (
        "mean_neighbors = ",
        "scale = ",
        "shift = ",
        "batch_edges = ",
        "12 train / 4 valid / 6 new",
        "seed 1",
        "weights",
    ):
        assert choice in text, choice


def test_the_table_has_units_and_one_line_per_epoch(finished):
    result, text = finished
    lines = text.splitlines()
    assert any("E valid" in line and "S valid" in line for line in lines)
    assert any("meV/atom" in line and "meV/Å" in line and "GPa" in line for line in lines)
    assert len(result.history) == 60


def test_the_model_file_predicts_what_the_error_table_says(finished):
    result, _ = finished
    model = equiv.load_model(result.model)
    from equiv.data import read_frames
    from equiv.graph import AtomGraph
    from equiv.train import evaluate_model

    frames = read_frames(result.folder.parent / "test.xyz")
    graphs = [AtomGraph.from_atoms(frame.atoms, model.cutoff, labels=frame) for frame in frames]
    table = evaluate_model(model, graphs, groups=[frame.group for frame in frames]).to_dict()
    for name in ("energy_per_atom", "energy", "forces", "stress"):
        expected = result.metrics["new"][name]
        # Other batches, other rounding: about 1e-7 eV per atom in single precision.
        assert table[name] == pytest.approx(expected, rel=1e-6, abs=5e-7)
    assert set(table["groups"]) == {"copper", "alloy"}


def test_the_card_says_how_the_model_came_about(finished):
    result, _ = finished
    card = read_header(result.model).card
    assert card["level_of_theory"] == "EMT"
    assert card["errors"]["new"]["forces"] == result.metrics["new"]["forces"]
    assert card["recipe"]["train"]["learning_rate"] == 0.01
    assert card["data"]["structures"] == {"train": 12, "valid": 4, "new": 6}


def test_the_written_recipe_is_complete_and_runs_again_to_the_same_weights(finished, tmp_path):
    result, _ = finished
    written = yaml.safe_load((result.folder / "recipe.yaml").read_text())
    assert written["model"]["mean_neighbors"] > 1
    assert written["data"]["reference_energies"].keys() == {"Al", "Cu"}
    again = run(result.folder / "recipe.yaml", output=tmp_path / "again", report=False)
    one, two = equiv.load_model(result.model), equiv.load_model(again.model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_the_report_stands_alone(finished):
    result, _ = finished
    page = (result.folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    for text in (
        "new",
        "copper",
        "alloy",
        "learning_rate: 0.01",
        torch.__version__.split("+")[0],
        "test.xyz:",
    ):
        assert text in page, text


def test_pictures_are_pictures_of_a_sensible_size(finished):
    from matplotlib.image import imread

    result, _ = finished
    for name in ("parity.png", "learning_curve.png"):
        pixels = imread(result.folder / name)
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.01


def test_the_worst_structures_come_first_with_their_errors(finished):
    result, _ = finished
    worst = ase.io.read(result.folder / "worst.xyz", ":")
    errors = [atoms.info["force_rmse_eV_per_A"] for atoms in worst]
    assert len(errors) == 6
    assert errors == sorted(errors, reverse=True)
    overall = np.sqrt(
        np.mean(np.square(errors))
    )  # equal sizes: the mean square of means is the mean square
    assert overall == pytest.approx(result.metrics["new"]["forces"]["rmse"], rel=1e-6)


def test_a_failing_plot_is_a_loud_warning_and_costs_nothing_else(tiny, monkeypatch):
    import equiv.train.plots

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(equiv.train.plots, "parity", fail)
    result, text = shown(tiny(epochs=1))
    assert result.finished
    assert "warning    the plots or the report could not be made: RuntimeError: no ink" in text
    assert result.model.exists()
    assert (result.folder / "metrics.json").exists()


def test_a_structure_that_breaks_the_loss_is_found_among_the_others(tiny, tmp_path):
    trainer = trainer_of(tiny(loss="mse"), tmp_path)
    trainer.task.train.samples[4].forces[0, 0] = 1e300
    with pytest.raises(NotANumber, match="the loss became inf in epoch 0") as caught:
        trainer.fit()
    assert caught.value.indices == [4]


def test_a_run_that_diverges_writes_its_structures_and_says_what_to_do(tiny, tmp_path):
    recipe = tiny(learning_rate=1e30, clip_gradient=None, warmup_steps=0, loss="mse")
    with pytest.raises(TrainingDiverged, match=r"emt.xyz:\d+[\s\S]*nan_frames.xyz") as caught:
        run(recipe)
    assert "lower train.learning_rate" in str(caught.value)
    guilty = ase.io.read(tmp_path / "run" / "nan_frames.xyz", ":")
    assert 1 <= len(guilty) <= 2
    assert guilty[0].arrays["REF_forces"].shape == (4, 3)


def test_diverged_weights_are_told_from_bad_structures(tiny, tmp_path):
    trainer = trainer_of(tiny(), tmp_path)
    with torch.no_grad():
        next(iter(trainer.parameters.values())).fill_(torch.nan)
    with pytest.raises(NotANumber, match="every structure of the batch"):
        trainer.fit()


def trainer_of(recipe, tmp_path):
    task = PotentialTask.prepare(load_recipe(recipe), RunConsole(None))
    (tmp_path / "trainer").mkdir()
    return Trainer(
        task.build_model(),
        task,
        folder=tmp_path / "trainer",
        console=RunConsole(None),
        extra={},
    )


def test_the_rehearsal_changes_nothing(tiny, tmp_path):
    trainer = trainer_of(tiny(), tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    state = torch.get_rng_state()
    edges = trainer.rehearse()
    assert edges == max(
        sum(int(trainer.sampler.num_edges[i]) for i in batch)
        for batch in [trainer.sampler.largest()]
    )
    assert all(
        torch.equal(before[name], value) for name, value in trainer.model.state_dict().items()
    )
    assert all(value.grad is None for value in trainer.parameters.values())
    assert torch.equal(state, torch.get_rng_state())


def test_patience_stops_early(tiny):
    result = run(
        tiny(epochs=50, learning_rate=1e-12, warmup_steps=0, ema_decay=0.0, patience=2),
        report=False,
    )
    assert result.reason == "patience"
    assert len(result.history) < 50


def test_max_time_stops_and_the_clock_drives_the_schedule(tiny):
    result = run(tiny(epochs="auto", max_time=2.0), report=False)
    assert result.reason == "max_time"
    rates = [row["learning_rate"] for row in result.history]
    assert 1.5 < result.history[-1]["time_s"] < 10
    assert rates[-1] < 0.1 * max(rates)


def test_a_run_leaves_global_state_alone(tiny):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    state, threads, dtype = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
    )
    run(tiny(epochs=1), report=False)
    assert torch.equal(state, torch.get_rng_state())
    assert (threads, dtype) == (torch.get_num_threads(), torch.get_default_dtype())


def test_two_runs_of_one_recipe_are_equal_and_another_seed_is_not(tiny, tmp_path):
    def weights(seed, name):
        result = run(tiny(epochs=1, seed=seed), output=tmp_path / name, report=False)
        return torch.cat(
            [value.double().flatten() for value in equiv.load_model(result.model).parameters()]
        )

    one, two, other = weights(1, "a"), weights(1, "b"), weights(2, "c")
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_float64_training_gives_a_float64_model(tiny):
    result = run(tiny(epochs=1, dtype="float64"), report=False)
    assert equiv.load_model(result.model).dtype == torch.float64


def test_energies_alone_can_be_learned(tiny, tmp_path, emt_structures):
    structures = emt_structures()
    for atoms in structures:
        del atoms.arrays["forces"], atoms.info["stress"]
    ase.io.write(tmp_path / "e.xyz", structures, format="extxyz")
    recipe = tiny(epochs=2)
    recipe["data"] = {"train": str(tmp_path / "e.xyz"), "valid_fraction": 0.3}
    result, text = shown(recipe, report=False)
    assert set(result.metrics["valid"]) >= {"energy", "frames"}
    assert "forces" not in result.metrics["valid"]
    assert "F valid" not in text
    assert "30% held out" in text


def test_structures_may_lack_labels_that_others_have(tiny, tmp_path, emt_structures):
    structures = emt_structures()
    del structures[0].info["energy"], structures[1].arrays["forces"], structures[2].info["stress"]
    ase.io.write(tmp_path / "gaps.xyz", structures, format="extxyz")
    recipe = tiny(epochs=2)
    recipe["data"] |= {
        "train": str(tmp_path / "gaps.xyz"),
        "labels": {"allow_missing": ["energy", "forces", "stress"]},
    }
    counts = {
        name: run_metrics["count"]
        for name, run_metrics in run(recipe, report=False).metrics["train"].items()
        if name in ("energy", "forces", "stress")
    }
    assert counts == {"energy": 11, "forces": 11 * 12, "stress": 11 * 6}


def test_elements_that_are_never_trained_on_are_refused(tiny, tmp_path, emt_structures):
    copper = [atoms for atoms in emt_structures() if "Al" not in atoms.symbols]
    ase.io.write(tmp_path / "copper.xyz", copper, format="extxyz")
    recipe = tiny()
    recipe["data"]["train"] = str(tmp_path / "copper.xyz")
    with pytest.raises(
        ValueError, match="the valid set holds Al, which no training structure does"
    ):
        run(recipe)


def test_resolved_values_are_measured_on_the_training_set(tiny):
    prepared = prepare(load_recipe(tiny()), RunConsole(None))
    forces = np.concatenate([frame.forces for frame in prepared.train.dataset])
    assert prepared.recipe.model.scale == pytest.approx(np.sqrt(np.mean(forces**2)))
    edges = sum(graph.senders.numel() for graph in prepared.train.graphs)
    atoms = sum(len(frame.atoms) for frame in prepared.train.dataset)
    assert prepared.recipe.model.mean_neighbors == pytest.approx(edges / atoms)


def test_atoms_without_neighbours_are_refused(tiny):
    recipe = tiny()
    recipe["model"]["cutoff"] = 0.5
    with pytest.raises(
        ValueError, match=r"no atom of the training set has a neighbour within model.cutoff = 0.5"
    ):
        run(recipe)


def test_a_run_that_fails_before_it_began_leaves_no_folder_behind(tiny, tmp_path):
    recipe = tiny()
    recipe["data"]["train"] = str(tmp_path / "missing.xyz")
    with pytest.raises(ValueError, match="missing"):
        run(recipe)
    assert not (tmp_path / "run").exists()


def test_a_lack_of_memory_is_explained_at_once(tiny, monkeypatch):
    def exhausted(_):
        raise torch.OutOfMemoryError("tried to allocate 9 TiB")

    monkeypatch.setattr(Trainer, "rehearse", exhausted)
    with pytest.raises(ValueError, match=r"9 TiB; lower train.batch_size or train.batch_edges"):
        run(tiny())


def test_a_device_that_is_not_there_is_refused(tiny):
    with pytest.raises(ValueError, match=r"train.device = 'teapot' cannot be used here"):
        run(tiny(device="teapot"))


def test_a_device_that_holds_no_numbers_is_refused(tiny):
    with pytest.raises(ValueError, match=r"train.device = 'meta' cannot be used here"):
        run(tiny(device="meta"))


def test_a_model_that_does_not_fit_into_memory_is_explained(tiny):
    recipe = tiny()
    recipe["model"]["num_radial"] = 10**14
    with pytest.raises(ValueError, match=r"out of memory: .*; lower model.channels"):
        run(recipe)
