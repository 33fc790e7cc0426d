import math

import numpy as np
import pytest
from scipy.special import erf

from equiv.errors import EquivError
from equiv.long_range.gaussian_sums import (
    GaussianSum,
    erf_over_r,
    inverse_power,
    trapezoidal_error,
    trapezoidal_step,
    yukawa,
)


@pytest.mark.parametrize("error", [1e-2, 1e-5, 1e-9, 1e-12])
@pytest.mark.parametrize("power", [0.5, 1, 3, 6])
def test_inverse_powers_have_the_stated_relative_error(power, error):
    kernel = inverse_power(power, error, 0.05, 20.0)
    r = np.geomspace(0.05, 20.0, 7001)
    assert np.abs(kernel(r) * r**power - 1).max() < 1.01 * error
    assert (kernel.w > 0).all()


@pytest.mark.parametrize("screening", [0.01, 1.0, 8.0])
def test_yukawa_has_the_stated_error(screening):
    kernel = yukawa(screening, 1e-8, 0.1, 15.0)
    r = np.geomspace(0.1, 15.0, 7001)
    assert np.abs(kernel(r) * r - np.exp(-screening * r)).max() < 1.01e-8


def test_erf_over_r_has_the_stated_error_and_few_terms():
    kernel = erf_over_r(3.0, 1e-6, 10.0)
    r = np.geomspace(1e-2, 10.0, 7001)
    assert np.abs(kernel(r) * r - erf(3 * r)).max() < 1.01e-6
    assert kernel(0.0) == pytest.approx(6 / math.sqrt(math.pi), rel=1e-6)
    assert kernel.rank <= 30


def test_error_of_the_infinite_rule_follows_poissons_formula():
    # 2 sqrt(2) exp(-pi^2 / 2 h) for 1/r, and what the sum itself gives.
    assert trapezoidal_error(1, 0.5) == pytest.approx(2**1.5 * math.exp(-(math.pi**2)), rel=1e-4)
    h = trapezoidal_step(1, 1e-4)
    u = h * np.arange(-150, 60)
    r = np.linspace(1.0, 2.0, 400)[:, None]
    rule = 2 / math.sqrt(math.pi) * h * np.exp(u - np.exp(2 * u) * r**2).sum(1)
    assert np.abs(rule * r[:, 0] - 1).max() == pytest.approx(1e-4, rel=1e-2)


def test_rank_grows_with_the_logarithms_of_range_and_accuracy():
    ranks = [inverse_power(1, 1e-6, 1 / n, 1.0).rank for n in (256, 512, 1024, 2048)]
    assert len(set(np.diff(ranks))) <= 2
    assert max(np.diff(ranks)) <= 3


def test_short_and_long_parts_add_up_and_the_short_one_is_local():
    kernel = inverse_power(1, 1e-7, 0.01, 2.0)
    long, short = kernel.split(kernel.rank // 2)
    np.testing.assert_allclose(long(0.3) + short(0.3), kernel(0.3))
    edge = short.support(1e-8)
    assert short(edge) == pytest.approx(1e-8 * short(0.0), rel=1e-6)
    assert edge < long.support(1e-8) / 10


def test_a_gaussian_sum_is_what_it_says():
    kernel = GaussianSum(np.array([1.0, 2.0]), np.array([3.0, 5.0]))
    assert kernel(0.5) == pytest.approx(3 * math.exp(-0.25) + 5 * math.exp(-1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inverse_power(1, 0.0, 1, 2), "error: expected 1e-13 to 0.1"),
        (lambda: inverse_power(1, 1e-3, 2, 1), "r_min, r_max"),
        (lambda: yukawa(0.0, 1e-3, 1, 2), "screening: expected a positive"),
        (lambda: inverse_power(1, 1e-3, 1, 2).split(99), "long_rank: expected 0 to"),
    ],
)
def test_arguments_out_of_range_are_explained(call, message):
    with pytest.raises(EquivError, match=message):
        call()
