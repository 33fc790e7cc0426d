import math

import numpy as np
import pytest

from equiv.errors import EquivError
from equiv.long_range.minimax import minimax_gaussians
from equiv.long_range.range_separation import range_separation

CUTOFF = 5.0


def relative_error(split, r):
    return r**split.exponent * split.long_range(r) - 1


@pytest.mark.parametrize("exponent", [1.0, 2.0, 6.0])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4, 1e-6])
def test_error_outside_of_the_cutoff_is_the_requested_one_and_no_smaller(exponent, epsilon):
    split = range_separation(CUTOFF, epsilon, 40 * CUTOFF, exponent=exponent)
    r = np.geomspace(CUTOFF, split.reach, 20001)
    error = np.abs(relative_error(split, r)).max()
    assert 0.98 * epsilon < error <= epsilon
    assert (split.w > 0).all()
    assert (np.diff(split.t) > 0).all()


def test_a_tolerance_of_1e_minus_9_is_reached():
    split = range_separation(CUTOFF, 1e-9, 40 * CUTOFF)
    r = np.geomspace(CUTOFF, split.reach, 20001)
    assert np.abs(relative_error(split, r)).max() < 1e-9


@pytest.mark.parametrize("exponent", [1.0, 6.0])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-5])
def test_value_and_slope_of_the_short_range_part_vanish_at_the_cutoff(exponent, epsilon):
    split = range_separation(CUTOFF, epsilon, 40 * CUTOFF, exponent=exponent)
    gaussians = split.w * np.exp(-((split.t * CUTOFF) ** 2))
    kernel = CUTOFF**-exponent
    assert gaussians.sum() == pytest.approx(kernel, rel=1e-14)
    slope = (-2 * split.t**2 * CUTOFF * gaussians).sum()
    assert slope == pytest.approx(-exponent * kernel / CUTOFF, rel=1e-13)
    assert split.short_range(CUTOFF) == 0
    assert split.short_range(7.0) == 0
    assert split.short_range(2.0) + split.long_range(2.0) == pytest.approx(2.0**-exponent)


def test_ripples_alternate_the_full_number_of_times():
    # 2 R - 2 alternations at r > r_c and one more at the end: the alternation theorem.
    split = range_separation(CUTOFF, 1e-4, 30 * CUTOFF)
    r = np.geomspace(1.001 * CUTOFF, 3 * split.reach, 200001)
    e = relative_error(split, r)
    peaks = np.flatnonzero((e[1:-1] - e[:-2]) * (e[2:] - e[1:-1]) < 0) + 1
    assert len(peaks) == 2 * len(split.t) - 2
    np.testing.assert_allclose(np.abs(e[peaks]), 0.995e-4, rtol=5e-3)
    assert (e[peaks[1:]] * e[peaks[:-1]] < 0).all()


def test_the_largest_exponents_are_those_stated():
    for epsilon, largest in {1e-3: 1.52, 1e-5: 2.05, 1e-7: 2.51}.items():
        split = range_separation(CUTOFF, epsilon, 8 * CUTOFF)
        assert split.t[-1] * CUTOFF == pytest.approx(largest, abs=0.01)


def test_rebuilding_with_another_cutoff_only_scales():
    one, two = (range_separation(c, 1e-4, 20 * c) for c in (1.0, 3.0))
    np.testing.assert_array_equal(one.t / 3.0, two.t)
    np.testing.assert_array_equal(one.w / 3.0, two.w)


def test_transform_at_zero_is_the_integral():
    split = range_separation(CUTOFF, 1e-3, 8 * CUTOFF, exponent=1.0)
    r = np.linspace(0, 10 / split.t[0], 200001)
    shell = 4 * math.pi * r**2 * split.long_range(r)
    assert split.long_range_transform(0.0) == pytest.approx(shell.sum() * r[1], rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1e-3, 10.0), "cutoff: expected a positive distance"),
        ((5.0, 1e-12, 10.0), "epsilon: expected at least"),
        ((5.0, 1e-3, 4.0), "reach: expected a distance beyond the cutoff of 5 Angstrom"),
    ],
)
def test_arguments_out_of_range_are_explained(arguments, message):
    with pytest.raises(EquivError, match=message):
        range_separation(*arguments)


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-17, reason="no extended precision")
@pytest.mark.parametrize(("exponent", "error"), [(1.0, 1e-7), (6.0, 1e-7)])
def test_the_sum_is_the_same_wherever_it_is_computed(exponent, error, monkeypatch):
    """Rounding errors differ with the alignment of memory; here they are a hundred times larger."""
    plain = minimax_gaussians(exponent, error, 32.0)
    solve, generator = np.linalg.lstsq, np.random.default_rng(0)

    def noisy(matrix, residual, rcond):
        return (solve(matrix, residual, rcond)[0] * (1 + 1e-8 * generator.normal()),)

    monkeypatch.setattr(np.linalg, "lstsq", noisy)
    for one, other in zip(plain, minimax_gaussians(exponent, error, 32.0), strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-12)
