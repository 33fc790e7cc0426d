import pytest
import torch

from equiv.graph import AtomGraph, collate
from equiv.models import MACE
from equiv.models.compiled.program import missing_compiler
from equiv.train.loss import EnergyForcesStressLoss, LossWeights
from equiv.train.step import CompiledStep, EagerStep

from .conftest import make_structures

needs_compiler = pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
WEIGHTS = LossWeights(1.0, 10.0, 100.0)


class Labels:
    """Labels of a structure of the tests; every third one has no forces."""

    weight = 1.0

    def __init__(self, atoms, index):
        self.energy, self.index = atoms.info["energy"], index
        self.forces = None if index % 3 == 2 else atoms.arrays["forces"]
        self.stress = atoms.info["stress"]


@pytest.fixture(scope="module")
def graphs():
    structures = [atoms if i % 2 else atoms[:3] for i, atoms in enumerate(make_structures(8))]
    return [
        AtomGraph.from_atoms(atoms, 4.0, labels=Labels(atoms, i))
        for i, atoms in enumerate(structures)
    ]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MACE(
        ["Al", "Cu"],
        4.0,
        channels=2,
        hidden_degree=0,
        edge_degree=1,
        layers=1,
        correlation=1,
        num_radial=2,
        radial_hidden=[4],
        mean_neighbors=12.0,
        reference_energies={"Al": 0.0, "Cu": 0.0},
    )


@pytest.fixture
def criterion():
    return EnergyForcesStressLoss("huber", delta=0.01, energy=True, forces=True, stress=True)


@needs_compiler
def test_the_compiled_gradient_is_that_of_the_model_for_batches_of_all_sizes(
    graphs, model, criterion, tmp_path, monkeypatch
):
    monkeypatch.setenv("EQUIV_CACHE_DIR", str(tmp_path))
    said = []
    eager = EagerStep(model, criterion)
    step = CompiledStep(eager, collate(graphs[:2]), said.append)
    for chosen in (graphs[:2], graphs[2:3], graphs[3:8], graphs):
        batch = collate(chosen)
        loss, prediction = eager(batch, WEIGHTS)
        expected = [p.grad.clone() for p in model.parameters()]
        compiled_loss, compiled_prediction = step(batch, WEIGHTS)
        torch.testing.assert_close(compiled_loss, loss, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            compiled_prediction.forces, prediction.forces, rtol=1e-4, atol=1e-5
        )
        scale = max(float(g.abs().max()) for g in expected)
        for gradient, parameter in zip(expected, model.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * scale)
    assert step.programs.graphs == step.programs.compiled == 1, said
    assert step.compiled_batches == 4


def test_a_model_with_loss_terms_of_its_own_is_not_compiled(graphs, model, criterion):
    class Own(MACE):
        def loss_terms(self, prediction, batch):
            return {"own": sum(p.square().sum() for p in self.parameters())}

    model.__class__ = Own
    said = []
    step = CompiledStep(EagerStep(model, criterion), collate(graphs[:2]), said.append)
    loss, _ = step(collate(graphs), WEIGHTS)
    assert torch.isfinite(loss)
    assert said == ["not compiled: a Own has loss terms of its own"]
