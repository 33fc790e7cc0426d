"""Laws of the forecaster: what is exact by construction, and how good the rest is."""

from dataclasses import replace

import pytest
import torch

from equiv.data.particles import Particles, collate_particles
from equiv.errors import EquivError, ModelFileError
from equiv.models import Forecaster
from equiv.models.file import load_model, load_potential
from equiv.position_orientation import orientation_grid, rotation_group
from equiv.so3.rotations import random_rotations


def system(seed, count=5):
    g = torch.Generator().manual_seed(seed)
    x, v, later = (torch.randn(count, 3, dtype=torch.float64, generator=g) for _ in range(3))
    charges = 1.0 - 2.0 * torch.randint(2, (count,), generator=g).double()
    return Particles(x, v, charges, later)


def forecaster(**options):
    torch.manual_seed(3)
    model = Forecaster(horizon=1.0, channels=6, stages=2, num_radial=5, **options).double()
    with torch.no_grad():  # as trained ones, they move particles
        for read in model.readouts:
            read.weight.normal_(std=0.3)
            read.bias.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return forecaster()


@pytest.fixture
def batch():
    return collate_particles([system(0), system(1, 3), system(2, 2)])


def test_at_birth_particles_fly_on_undisturbed(batch):
    model = Forecaster(horizon=0.7, channels=4, stages=3)
    expected = batch.positions + 0.7 * batch.velocities
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-12)


def test_rotations_and_reflections_of_the_grid_commute_with_the_forecast(model, batch):
    rotations = rotation_group(orientation_grid("icosahedron"))[0][::17]
    for turn in [*rotations, *(-r for r in rotations)]:
        turned = replace(
            batch, positions=batch.positions @ turn.T, velocities=batch.velocities @ turn.T
        )
        torch.testing.assert_close(model(turned), model(batch) @ turn.T, rtol=0, atol=1e-10)


def test_other_rotations_commute_the_better_the_finer_the_grid(batch):
    turn = random_rotations(generator=torch.Generator().manual_seed(0))
    turned = replace(
        batch, positions=batch.positions @ turn.T, velocities=batch.velocities @ turn.T
    )
    undisturbed = batch.positions + batch.velocities
    errors = []
    for grid in ("octahedron", "icosahedron", "pentakis32"):
        model = forecaster(grid=grid)
        forecast = model(batch)
        change = (model(turned) @ turn - forecast).norm() / (forecast - undisturbed).norm()
        errors.append(float(change.detach()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_averaging_over_orientations_respects_rotations_better(batch):
    turn = random_rotations(generator=torch.Generator().manual_seed(0))
    turned = replace(
        batch, positions=batch.positions @ turn.T, velocities=batch.velocities @ turn.T
    )
    one, many = forecaster(grid="octahedron"), forecaster(grid="octahedron", average=12)
    torch.testing.assert_close(many(batch, average=1), one(batch), rtol=0, atol=1e-12)
    errors = [float((m(turned) @ turn - m(batch)).norm().detach()) for m in (one, many)]
    assert errors[1] < 0.5 * errors[0]
    many.train()
    torch.testing.assert_close(many(batch), one(batch), rtol=0, atol=1e-12)


def test_translations_boosts_and_opposite_charges_make_no_difference(model, batch):
    shift, boost = torch.randn(2, 3, dtype=torch.float64)
    moved = replace(
        batch,
        positions=batch.positions + shift,
        velocities=batch.velocities + boost,
        charges=-batch.charges,
    )
    expected = model(batch) + shift + boost
    torch.testing.assert_close(model(moved), expected, rtol=0, atol=1e-10)


def test_the_centre_of_mass_flies_straight(model, batch):
    centre = batch.mean(model(batch))
    expected = batch.mean(batch.positions + batch.velocities)
    torch.testing.assert_close(centre, expected, rtol=0, atol=1e-12)
    free = forecaster(conserve_momentum=False)
    assert (batch.mean(free(batch)) - expected).abs().max() > 1e-3


def test_a_batch_is_its_systems_one_by_one_in_any_order_of_particles(model):
    systems = [system(0), system(1, 3), system(2, 2)]
    together = model(collate_particles(systems))
    alone = torch.cat([model(collate_particles([s])) for s in systems])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11)
    order = [3, 0, 4, 2, 1]
    shuffled = Particles(**{name: value[order] for name, value in vars(systems[0]).items()})
    torch.testing.assert_close(
        model(collate_particles([shuffled])), alone[:5][order], rtol=0, atol=1e-11
    )


def test_gradients_are_those_of_differences(model, batch):
    x = batch.positions.clone().requires_grad_()
    direction = torch.randn_like(x)
    ((model(replace(batch, positions=x)) ** 2).sum()).backward()
    step = 1e-5

    def value(shift):
        moved = replace(batch, positions=batch.positions + shift)
        return float((model(moved) ** 2).sum().detach())

    difference = (value(step * direction) - value(-step * direction)) / (2 * step)
    assert float((x.grad * direction).sum()) == pytest.approx(difference, rel=1e-5)


def test_it_is_saved_and_loaded_and_is_no_potential(model, batch, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = load_model(path)
    assert (loaded.name, loaded.elements, loaded.cutoff) == ("forecaster", (), None)
    assert torch.equal(loaded(batch), model(batch))
    with pytest.raises(ModelFileError, match="forecaster model, which predicts no energies"):
        load_potential(path)


def test_even_degrees_are_refused():
    with pytest.raises(EquivError, match="degree must be odd, got 2"):
        Forecaster(horizon=1.0, degree=2)
