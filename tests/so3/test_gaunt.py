import math

import pytest

from equiv.so3 import gaunt_coefficient, gaunt_coefficients


def test_known_values():
    assert gaunt_coefficient(0, 0, 0) == pytest.approx(1 / math.sqrt(4 * math.pi), rel=1e-15)
    # the integral of three cosines' harmonics, from a table: 3j(2 2 2; 0 0 0)^2 = 2 / 35
    expected = math.sqrt(5**3 / (4 * math.pi) * 2 / 35)
    assert gaunt_coefficient(2, 2, 2) == pytest.approx(expected, rel=1e-15)


def test_even_couplings_are_positive_and_others_vanish():
    for l1 in range(7):
        for l2 in range(7):
            for l3 in range(14):
                triangle = abs(l1 - l2) <= l3 <= l1 + l2
                even = (l1 + l2 + l3) % 2 == 0
                value = gaunt_coefficient(l1, l2, l3)
                assert value > 0 if triangle and even else value == 0


def test_multiplying_by_one_changes_nothing():
    g = gaunt_coefficients(0, 3, 3)[0] * math.sqrt(4 * math.pi)
    assert (g - g.new_ones(16).diag()).abs().max() < 1e-15


def test_any_degree():
    assert gaunt_coefficient(60, 60, 60) > 0
