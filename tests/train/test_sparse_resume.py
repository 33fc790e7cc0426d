"""A run with sparse gates that is killed in any of their phases goes on as if it never was."""

import pytest
import safetensors.torch
import torch

from equiv.hamiltonian import HamiltonianSet, OrbitalBasis, Theory, write_hamiltonians
from equiv.train import loop, run
from equiv.train.checkpoint import NAME, read_checkpoint
from equiv.train.hamiltonian import HamiltonianTask
from equiv.train.recipe_hamiltonian import SPHNetRunRecipe

pytest.importorskip("pyscf")

from equiv.integrations.pyscf_labels import label

AMMONIA = [[0.0, 0.0, 0.12], [0.0, 0.94, -0.27], [0.81, -0.47, -0.27], [-0.81, -0.47, -0.27]]
STEPS = 70
RANDOM_UNTIL, FIXED_FROM = 20, 40
KILLED_AT = (5, 26, 48)  # in the random, the adaptive and the fixed phase, within an epoch
COMPARED = 20


class Killed(BaseException):
    """Nothing catches this, so nothing is saved: what is on the disk is what SIGKILL leaves."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Ammonia: with six pairs of four atoms the gate of pairs has something to drop."""
    path = tmp_path_factory.mktemp("data") / "ammonia.npz"
    theory, basis = Theory("hf", 0), OrbitalBasis.from_pyscf("sto-3g", ["N", "H"])
    g = torch.Generator().manual_seed(0)
    frames = []
    for _ in range(11):
        noise = 0.06 * torch.randn(4, 3, generator=g, dtype=torch.float64)
        positions = torch.tensor(AMMONIA, dtype=torch.float64) + noise
        frames.append(label(torch.tensor([7, 1, 1, 1]), positions, basis, theory).frame)
    write_hamiltonians(path, HamiltonianSet(basis, theory, tuple(frames)), provenance={})
    return path


@pytest.fixture
def losses(monkeypatch):
    """The loss of every step of the runs that follow."""
    found = []
    original = HamiltonianTask.loss

    def recorded(self, model, batch, progress):
        loss, prediction = original(self, model, batch, progress)
        found.append(float(loss.detach()))
        return loss, prediction

    monkeypatch.setattr(HamiltonianTask, "loss", recorded)
    return found


def recipe(archive, folder):
    content = {
        "data": {"train": f"{archive}@:10", "valid": f"{archive}@10:"},
        "model": {
            "name": "sphnet", "channels": 4, "hidden": 8, "vectorial_layers": 0,
            "sparsity": 0.6, "random_until": RANDOM_UNTIL, "fixed_from": FIXED_FROM,
        },
        "train": {
            "epochs": STEPS // 10, "batch_size": 1, "checkpoint_interval": 0, "threads": 1,
            "schedule": "cosine",
        },
        "output": str(folder),
    }  # fmt: skip
    return SPHNetRunRecipe.model_validate(content).placed(folder.parent, folder.name)


def rehearsed(losses):
    """Without the step on the largest batch before training begins."""
    del losses[0]
    return list(losses)


def test_killed_in_each_phase_and_run_again_gives_the_same_losses(
    archive, tmp_path, losses, monkeypatch
):
    assert run(recipe(archive, tmp_path / "whole"), report=False).finished
    whole = rehearsed(losses)
    assert len(whole) == STEPS

    write = loop.save_checkpoint

    def until(step):
        def save_and_die(folder, checkpoint):
            write(folder, checkpoint)
            if checkpoint.state["position"]["step"] == step:
                raise Killed

        return save_and_die

    cut = recipe(archive, tmp_path / "cut")
    phases = []
    for step in KILLED_AT:
        losses.clear()
        monkeypatch.setattr(loop, "save_checkpoint", until(step))
        with pytest.raises(Killed):
            run(cut, report=False)
        tensors = read_checkpoint(tmp_path / "cut" / NAME).tensors
        phases.append(int(tensors["model/diagonal.0.paths.gate.phase"]))
        losses.clear()
        monkeypatch.setattr(loop, "save_checkpoint", until(step + COMPARED))
        with pytest.raises(Killed):
            run(cut, report=False)
        assert losses == whole[step : step + COMPARED]
    assert phases == [0, 1, 2]
    losses.clear()
    monkeypatch.setattr(loop, "save_checkpoint", write)
    assert run(cut, report=False).finished
    assert losses == whole[KILLED_AT[-1] + COMPARED :]

    one, two = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        for name in ("whole", "cut")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    dropped = [float(kept.float().mean()) for name, kept in one.items() if name.endswith("kept")]
    assert max(dropped) < 0.6
