import math
from types import SimpleNamespace

import ase
import numpy as np
import pytest
import torch

from equiv.graph import AtomGraph
from equiv.models import Model, Prediction
from equiv.train.errors import ErrorSum, Metrics
from equiv.train.metrics import QUANTITIES, batch_errors, evaluate, evaluate_model, voigt


class Springs(Model):
    """Every pair is a spring of length one: a model whose numbers can be checked by hand."""

    name = "springs"

    def __init__(self):
        super().__init__([1], 3.0)
        self.stiffness = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def atomic_energies(self, batch, vectors, species):
        energies = 0.25 * self.stiffness * (vectors.norm(dim=-1) - 1.0) ** 2
        return energies.new_zeros(species.shape[0]).index_add(0, batch.receivers, energies)


def frame(distance, *, energy=None, forces=None, stress=None, cell=None, group="default"):
    atoms = ase.Atoms("H2", [[0, 0, 0], [distance, 0, 0]], cell=cell, pbc=cell is not None)
    labels = SimpleNamespace(
        energy=energy, forces=forces, stress=stress, weight=1.0, index=0, group=group
    )
    return AtomGraph.from_atoms(atoms, 3.0, labels=labels)


def test_errors_by_hand_with_missing_labels_left_out_and_counted():
    # Springs: E = (r - 1)^2, force on atom 0 is 2 (r - 1) along +x
    graphs = [
        frame(1.5, energy=0.0, forces=np.zeros((2, 3))),
        frame(2.0, energy=3.0),
        frame(1.2, forces=np.array([[0.4, 0, 0.3], [-0.4, 0, 0]])),
    ]
    table = evaluate_model(Springs(), graphs).to_dict()
    assert table["frames"] == 3
    assert table["energy"] == {
        "mae": pytest.approx((0.25 + 2.0) / 2),
        "rmse": pytest.approx(math.sqrt((0.25**2 + 4) / 2)),
        "count": 2,
    }
    assert table["energy_per_atom"]["mae"] == pytest.approx((0.25 + 2.0) / 4)
    assert table["forces"] == {
        "mae": pytest.approx((1.0 + 1.0 + 0.3) / 12),
        "rmse": pytest.approx(math.sqrt((1 + 1 + 0.09) / 12)),
        "count": 12,
    }
    assert "stress" not in table
    assert "groups" not in table


def test_stress_counts_six_components_and_structures_without_volume_do_no_harm():
    cell = np.eye(3) * 10
    model = Springs()
    graphs = [frame(1.5, energy=0.0, stress=np.zeros((3, 3)), cell=cell), frame(1.5, energy=0.0)]
    table = evaluate_model(model, graphs).to_dict()
    # sigma_xx = r dE/dr / V = 1.5 * 2 * 0.5 / 1000
    assert table["stress"]["count"] == 6
    assert table["stress"]["mae"] == pytest.approx(1.5e-3 / 6)
    assert table["stress"]["rmse"] == pytest.approx(1.5e-3 / math.sqrt(6))


def test_groups_add_up_to_the_whole():
    random = np.random.default_rng(0)
    graphs = [
        frame(d, energy=0.1, forces=random.normal(size=(2, 3))) for d in random.uniform(0.8, 2.5, 9)
    ]
    groups = ["a", "b", "a", "c", "b", "a", "a", "c", "b"]
    metrics = evaluate_model(Springs(), graphs, groups=groups)
    assert {name: part.frames for name, part in metrics.groups.items()} == {"a": 4, "b": 3, "c": 2}
    for name in ("energy", "forces"):
        assert sum(part[name].count for part in metrics.groups.values()) == metrics[name].count
        assert sum(part[name].squared for part in metrics.groups.values()) == pytest.approx(
            metrics[name].squared
        )
    only_c = evaluate_model(
        Springs(), [g for g, name in zip(graphs, groups, strict=True) if name == "c"]
    )
    assert only_c["forces"].rmse == pytest.approx(metrics.groups["c"]["forces"].rmse)
    assert set(metrics.to_dict()["groups"]) == {"a", "b", "c"}


def test_how_structures_are_batched_does_not_matter():
    random = np.random.default_rng(0)
    graphs = [
        frame(d, energy=0.1, forces=random.normal(size=(2, 3)))
        for d in random.uniform(0.8, 2.5, 20)
    ]
    one, many = (evaluate(Springs(), graphs, batch_edges=edges) for edges in (1, 1000))
    assert one.metrics["forces"].rmse == pytest.approx(many.metrics["forces"].rmse, rel=1e-12)
    np.testing.assert_allclose(one.pairs["forces"], many.pairs["forces"], atol=1e-14)
    np.testing.assert_allclose(one.of_samples["forces"], many.of_samples["forces"], rtol=1e-12)


def test_errors_of_single_structures():
    graphs = [
        frame(1.5, energy=0.0, forces=np.zeros((2, 3))),
        frame(2.0, energy=3.0),
        frame(1.0, forces=np.zeros((2, 3))),
    ]
    evaluation = evaluate(Springs(), graphs)
    np.testing.assert_allclose(evaluation.of_samples["forces"], [math.sqrt(2 / 6), math.nan, 0.0])
    np.testing.assert_allclose(evaluation.of_samples["energy_per_atom"], [0.125, -1.0, math.nan])
    np.testing.assert_allclose(evaluation.pairs["energy_per_atom"], [[0.0, 0.125], [1.5, 0.5]])


def test_the_mode_of_the_model_and_its_gradients_are_left_alone():
    model = Springs().train()
    evaluate_model(model, [frame(1.5, energy=0.0)])
    assert model.training
    assert model.stiffness.grad is None


def test_nothing_to_evaluate_gives_nothing():
    assert evaluate_model(Springs(), []).to_dict() == {"frames": 0}
    assert math.isnan(ErrorSum().rmse)


def test_sums_are_kept_in_float64():
    errors = ErrorSum()
    for _ in range(1000):
        errors.add(torch.full((1000,), 1e-4, dtype=torch.float32))
    assert errors.mae == pytest.approx(float(np.float32(1e-4)), rel=1e-12)


def test_voigt_order():
    stress = torch.tensor([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    assert voigt(stress).tolist() == [1, 2, 3, 4, 5, 6]


def test_predictions_may_lack_forces():
    metrics = Metrics(QUANTITIES)
    batch = SimpleNamespace(
        num_graphs=1,
        batch=torch.zeros(2, dtype=torch.int64),
        has_energy=torch.tensor([True]),
        energy=torch.tensor([1.0]),
    )
    prediction = Prediction(energy=torch.tensor([3.0]), energies=torch.zeros(2))
    metrics.add(batch_errors(prediction, batch), 1)
    assert metrics["energy_per_atom"].mae == 1.0
    assert metrics["forces"].count == 0
