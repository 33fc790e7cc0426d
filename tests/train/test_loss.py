import math
from types import SimpleNamespace

import pytest
import torch

from equiv.models import Prediction
from equiv.train.loss import EnergyForcesStressLoss, LossWeights

NAN = math.nan
WEIGHTS = LossWeights(energy=2.0, forces=3.0, stress=5.0)


def batch(
    has_energy=(True, True),
    has_forces=(True, True),
    has_stress=(True, True),
    weight=(1.0, 1.0),
    volumes=(8.0, 27.0),
):
    """Two structures with one and two atoms; all reference labels are zero."""

    def label(shape, has):
        return torch.where(
            torch.tensor(has).view(-1, *[1] * (len(shape) - 1)), torch.zeros(shape), NAN
        ).double()

    atoms = torch.tensor([0, 1, 1])
    return SimpleNamespace(
        num_graphs=2,
        batch=atoms,
        cell=torch.stack([torch.eye(3, dtype=torch.float64) * v ** (1 / 3) for v in volumes]),
        energy=label((2,), has_energy),
        forces=label((3, 3), [has_forces[i] for i in atoms.tolist()]),
        stress=label((2, 3, 3), has_stress),
        has_energy=torch.tensor(has_energy),
        has_forces=torch.tensor(has_forces),
        has_stress=torch.tensor(has_stress),
        weight=torch.tensor(weight).double(),
    )


def prediction():
    """Errors: 0.3 eV and 0.8/2 eV per atom; forces 1, 2, 3 in x; stress 0.1 in every component."""
    forces = torch.zeros(3, 3).double()
    forces[:, 0] = torch.tensor([1.0, 2.0, 3.0])
    virials = (
        -0.1
        * torch.ones(2, 3, 3, dtype=torch.float64)
        * torch.tensor([8.0, 27.0]).double()[:, None, None]
    )
    return Prediction(
        energy=torch.tensor([0.3, 0.8], dtype=torch.float64).requires_grad_(),
        energies=torch.zeros(3).double(),
        forces=forces.requires_grad_(),
        virials=virials.requires_grad_(),
    )


def loss(kind="mse", delta=1.0):
    return EnergyForcesStressLoss(kind, delta=delta, energy=True, forces=True, stress=True)


def test_mean_squares_by_hand():
    expected = 2 * (0.3**2 + 0.4**2) / 2 + 3 * (1 + 4 + 9) / 9 + 5 * 0.1**2
    assert loss()(prediction(), batch(), WEIGHTS).item() == pytest.approx(expected, rel=1e-12)


def test_huber_by_hand():
    # delta = 0.35: 0.3 is quadratic, everything of the forces but zero is linear
    d = 0.35
    energy = (0.3**2 / 2 + d * (0.4 - d / 2)) / 2
    forces = sum(d * (x - d / 2) for x in (1, 2, 3)) / 9
    expected = 2 * energy + 3 * forces + 5 * 0.1**2 / 2
    assert loss("huber", d)(prediction(), batch(), WEIGHTS).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_missing_labels_leave_the_mean_and_its_denominator():
    chosen = batch(has_energy=(False, True), has_forces=(True, False), has_stress=(False, False))
    expected = 2 * 0.4**2 + 3 * 1 / 3
    assert loss()(prediction(), chosen, WEIGHTS).item() == pytest.approx(expected, rel=1e-12)


def test_missing_labels_give_no_gradient_and_no_nan():
    p = prediction()
    chosen = batch(
        has_energy=(False, True),
        has_forces=(True, False),
        has_stress=(True, False),
        volumes=(8.0, 0.0),
    )
    loss()(p, chosen, WEIGHTS).backward()
    assert p.energy.grad[0] == 0
    assert p.energy.grad[1] != 0
    assert (p.forces.grad[1:] == 0).all()
    assert p.forces.grad[0, 0] != 0
    assert torch.isfinite(p.virials.grad).all()
    assert (p.virials.grad[1] == 0).all()
    assert (p.virials.grad[0] != 0).all()


def test_a_structure_weight_multiplies_all_its_terms():
    expected = 2 * (3 * 0.3**2 + 0.4**2) / 2 + 3 * (3 * 1 + 4 + 9) / 9 + 5 * 0.1**2 * (3 + 1) / 2
    assert loss()(prediction(), batch(weight=(3.0, 1.0)), WEIGHTS).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_no_label_at_all_gives_zero():
    none = batch(has_energy=(False, False), has_forces=(False, False), has_stress=(False, False))
    assert loss()(prediction(), none, WEIGHTS).item() == 0


def test_an_unknown_penalty_is_refused():
    with pytest.raises(ValueError, match="'mse' or 'huber', got 'l1'"):
        loss("l1")
