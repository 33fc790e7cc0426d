import math

import pytest

from equiv.train.loss import LossWeights
from equiv.train.recipe_potential import TrainRecipe
from equiv.train.schedule import Schedule


def schedule(**keys):
    return Schedule(
        TrainRecipe(learning_rate=0.01, **{"warmup_steps": 0, "final_learning_rate": 1e-4, **keys})
    )


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.01), (0.5, 0.5 * (0.01 + 1e-4)), (1.0, 1e-4), (2.0, 1e-4)]
)
def test_cosine_falls_from_the_highest_to_the_final_rate(progress, expected):
    assert schedule(schedule="cosine").learning_rate(10_000, progress) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.01), (0.5, 1e-3), (1.0, 1e-4)])
def test_exponential_falls_by_equal_factors(progress, expected):
    assert schedule(schedule="exponential").learning_rate(10_000, progress) == pytest.approx(
        expected
    )


def test_constant_stays():
    assert schedule(schedule="constant").learning_rate(5, 0.9) == 0.01


@pytest.mark.parametrize(("step", "expected"), [(0, 0.001), (4, 0.005), (9, 0.01), (50, 0.01)])
def test_warm_up_is_linear_and_starts_above_zero(step, expected):
    assert schedule(schedule="constant", warmup_steps=10).learning_rate(step, 0.0) == pytest.approx(
        expected
    )


def test_plateau_waits_then_halves_and_stops_at_the_floor():
    s = schedule(
        schedule="plateau", plateau_factor=0.5, plateau_patience=2, final_learning_rate=0.003
    )
    s.validated(1.0)
    rates = []
    for score in (1.0, 1.1, 0.9, 0.9, 1.0, 2.0, 2.0, math.nan, math.nan):
        s.validated(score)
        rates.append(s.learning_rate(100, 0.5))
    assert rates == pytest.approx([0.01, 0.005, 0.005, 0.005, 0.003, 0.003, 0.003, 0.003, 0.003])


def test_the_state_of_a_plateau_survives_a_restart():
    one, two = (
        schedule(schedule="plateau", plateau_patience=1),
        schedule(schedule="plateau", plateau_patience=1),
    )
    for score in (1.0, 2.0, 2.0):
        one.validated(score)
    two.load_state_dict(one.state_dict())
    assert two.learning_rate(0, 0.0) == one.learning_rate(0, 0.0) == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 1.0), (0.5, 1.0), (0.75, 10.0), (1.0, 100.0)]
)
def test_the_energy_weight_grows_in_the_second_half(progress, expected):
    recipe = TrainRecipe(energy_weight=1.0, final_energy_weight=100.0)
    assert LossWeights.at(recipe, progress).energy == pytest.approx(expected)


def test_without_a_final_weight_the_energy_weight_stays():
    recipe = TrainRecipe(energy_weight=3.0, final_energy_weight=None)
    assert LossWeights.at(recipe, 1.0).energy == 3.0


def test_the_final_rate_is_a_hundredth_if_not_given():
    assert schedule(final_learning_rate=None).learning_rate(10_000, 1.0) == pytest.approx(1e-4)
