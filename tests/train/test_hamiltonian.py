"""Training on Fock matrices, on a few molecules that PySCF makes in a second."""

import json

import pytest
import torch

from equiv.errors import DataError, RecipeError, UnknownElementError
from equiv.hamiltonian import (
    Batcher,
    Blocks,
    HamiltonianSet,
    OrbitalBasis,
    Theory,
    read_hamiltonians,
    write_hamiltonians,
)
from equiv.models.file import load_model
from equiv.train import load_recipe, run
from equiv.train.hamiltonian import HamiltonianTask, hold_out, mean_neighbors
from equiv.train.recipe_hamiltonian import SPHNetRunRecipe

pytest.importorskip("pyscf")

from equiv.integrations.pyscf_labels import label

THEORY = Theory("hf", 0)
WATER = [[0.0, 0.0, 0.117], [0.0, 0.757, -0.469], [0.0, -0.757, -0.469]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "water.npz"
    basis = OrbitalBasis.from_pyscf("sto-3g", ["O", "H"])
    g = torch.Generator().manual_seed(0)
    frames = []
    for _ in range(20):
        noise = 0.06 * torch.randn(3, 3, generator=g, dtype=torch.float64)
        positions = torch.tensor(WATER, dtype=torch.float64) + noise
        frames.append(label(torch.tensor([8, 1, 1]), positions, basis, THEORY).frame)
    write_hamiltonians(path, HamiltonianSet(basis, THEORY, tuple(frames)), provenance={})
    return path


def recipe(archive, **changes):
    content = {
        "data": {"train": f"{archive}@:12", "valid": f"{archive}@12:16", "test": f"{archive}@16:"},
        "model": {"name": "sphnet", "channels": 8, "pair_layers": 1, "vectorial_layers": 0},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "warmup_steps": 1},
    }
    for section, values in changes.items():
        content[section] |= values
    return SPHNetRunRecipe.model_validate(content)


class Quiet:
    def fact(self, topic, text): ...
    def warn(self, text): ...


@pytest.fixture(scope="module")
def task(archive):
    return HamiltonianTask.prepare(recipe(archive), Quiet())


class Exact(torch.nn.Module):
    """Predicts the labels, off by a given Hamiltonian."""

    def __init__(self, model, offset=None):
        super().__init__()
        self.standardisation = model.standardisation
        self.offset = offset or (lambda x: x)

    def standardised(self, batch):
        return self.standardisation.inverse(self(batch))

    def forward(self, batch) -> Blocks:
        return batch.target.map(self.offset)


def test_a_run_learns_and_its_model_predicts_the_same(archive, tmp_path):
    chosen = recipe(archive, train={"epochs": 12}).model_copy(update={"output": str(tmp_path)})
    run(chosen.placed(tmp_path, "run"))
    metrics = json.loads((tmp_path / "metrics.json").read_text())["splits"]
    errors = {name: metrics[name]["hamiltonian"]["mae"] for name in ("train", "valid", "test")}
    data = read_hamiltonians(archive)
    usual = (data[0].hamiltonian - data[0].baselines["minao"]).abs().mean()
    assert max(errors.values()) < 0.5 * float(usual)
    found = {"occupied", "gap", "similarity", "occupied_space", "hamiltonian_lower"}
    assert found | {"hamiltonian H-O", "hamiltonian O"} <= set(metrics["test"])
    assert metrics["test"]["occupied_space"]["mean"] > 0.99

    model = load_model(tmp_path / "model.safetensors")
    task = HamiltonianTask.for_model(model, [f"{archive}@16:"], {})
    again = task.evaluate(model, task.train.samples).metrics
    assert again["hamiltonian"].mae == pytest.approx(errors["test"], rel=1e-4)


def test_perfect_predictions_cost_nothing(task):
    model = Exact(task.build_model())
    batch = task.collate(task.train.samples[:3])
    loss, prediction = task.loss(model, batch, 0.5)
    assert float(loss) < 1e-10
    found = task.evaluation_errors(prediction, batch)
    assert float(found["occupied"].error.abs().max()) < 1e-10
    assert float(found["similarity"].error.min()) == pytest.approx(1)
    assert found["hamiltonian"].error.numel() == 3 * 49
    assert found["hamiltonian"].graph.bincount().tolist() == [49, 49, 49]


def test_the_loss_counts_every_entry_of_the_matrix(archive, task):
    model = Exact(task.build_model(), lambda x: x + 0.01)
    batch = task.collate(task.train.samples[:3])
    chosen = recipe(archive, train={"standardised_weight": 0.0, "hartree_weight": 2.0})
    only = HamiltonianTask(chosen, task.device, task.sets, task.batcher)
    loss, _ = only.loss(model, batch, 0.0)
    assert float(loss) == pytest.approx(2 * (0.01 + 0.0001), rel=1e-6)


def test_the_orbital_term_is_the_error_of_orbital_energies(archive, task):
    """A multiple of the overlap moves every orbital by the same energy: first order is exact."""
    batch = task.collate(task.train.samples[:3])
    shifted = []
    for sample in batch.samples:
        frame = sample.frame
        moved = frame.difference("minao") + 0.003 * frame.overlap
        baselines = {"minao": frame.hamiltonian - moved}
        shifted.append(type(frame)(**{**vars(frame), "baselines": baselines}))
    wrong = task.collate(task.batcher.samples(shifted)).target
    model = Exact(task.build_model())
    model.forward = lambda batch: wrong
    weights = {"standardised_weight": 0.0, "hartree_weight": 0.0, "orbital_weight": 1.0}
    only = HamiltonianTask(recipe(archive, train=weights), task.device, task.sets, task.batcher)
    loss, prediction = only.loss(model, batch, 0.0)
    assert float(loss) == pytest.approx(0.003, rel=1e-6)
    found = only.evaluation_errors(prediction, batch)["occupied"].error
    torch.testing.assert_close(found, torch.full_like(found, 0.003), atol=1e-9, rtol=0)


def test_choices_are_settled_before_training(task):
    section = task.recipe.model
    assert section.mean_neighbors == 2
    assert (section.random_until, section.fixed_from) == (0, 0)  # of six steps
    assert mean_neighbors(task.sets["train"], 0.1) == 1


def test_molecules_are_held_out_by_content(archive):
    data = read_hamiltonians(archive)
    train, valid = hold_out(data, 0.25, seed=1)
    assert len(train) + len(valid) == 20
    assert len(valid) >= 1
    again, _ = hold_out(data[::-1], 0.25, seed=1)
    assert {f.energy for f in again} == {f.energy for f in train}
    with pytest.raises(DataError, match="cannot hold molecules out of one"):
        hold_out(data[:1], 0.1, seed=1)


def test_a_model_to_start_from_must_fit(archive, tmp_path, task):
    model = task.build_model()
    model.save(tmp_path / "start.safetensors")
    chosen = recipe(archive, train={"start_from": "start.safetensors"}).placed(tmp_path, "run")
    same = HamiltonianTask(chosen, task.device, task.sets, task.batcher)
    same.recipe = chosen.model_copy(update={"model": task.recipe.model}).placed(tmp_path, "run")
    torch.testing.assert_close(same.build_model().state_dict(), model.state_dict())
    wider = task.recipe.model.model_copy(update={"channels": 12})
    same.recipe = same.recipe.model_copy(update={"model": wider}).placed(tmp_path, "run")
    with pytest.raises(ValueError, match=r"channels 8 in the file, 12 in the recipe"):
        same.build_model()


def test_a_recipe_takes_the_shape_of_the_model_to_start_from(archive, tmp_path, task):
    path = tmp_path / "start.safetensors"
    task.build_model().save(path)
    chosen = load_recipe({"data": f"{archive}@:12", "train": {"start_from": str(path)}})
    for key in ("channels", "pair_layers", "vectorial_layers", "mean_neighbors"):
        assert getattr(chosen.model, key) == getattr(task.recipe.model, key)
    resolved = chosen.relocated(tmp_path / "run")  # as it is kept beside the results
    assert resolved["train"]["start_from"] == "../start.safetensors"
    with pytest.raises(RecipeError, match=r"did you mean train.start_from\?"):
        load_recipe({"data": str(archive), "model": {"name": "sphnet"}, "train": {"start": "a"}})


def test_data_of_other_theory_or_elements_are_refused(archive, tmp_path):
    data = read_hamiltonians(archive)
    other = HamiltonianSet(data.basis, Theory("pbe", 0), data.frames[:2])
    write_hamiltonians(tmp_path / "pbe.npz", other, provenance={})
    with pytest.raises(DataError, match="valid data are of pbe, grid level 0, training data of hf"):
        HamiltonianTask.prepare(recipe(archive, data={"valid": f"{tmp_path}/pbe.npz"}), Quiet())
    basis = OrbitalBasis.from_pyscf("sto-3g", ["N", "H"])
    positions = torch.tensor([[0.0, 0, 0], [0, 0, 1.0], [0, 0.9, -0.3], [0.8, -0.4, -0.3]])
    frame = label(torch.tensor([7, 1, 1, 1]), positions.double(), basis, THEORY).frame
    write_hamiltonians(tmp_path / "n.npz", HamiltonianSet(basis, THEORY, (frame,)), provenance={})
    with pytest.raises(UnknownElementError, match="N: the orbital basis sto-3g"):
        HamiltonianTask.prepare(recipe(archive, data={"valid": f"{tmp_path}/n.npz"}), Quiet())


def test_only_known_baselines_are_learned_against(archive):
    data = read_hamiltonians(archive)
    with pytest.raises(DataError, match="no baseline 'sap'"):
        Batcher(data.basis, "sap").samples(data)
