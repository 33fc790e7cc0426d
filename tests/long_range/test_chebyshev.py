import numpy as np
import pytest
from numpy.polynomial import chebyshev as reference
from scipy.special import ive

from equiv.errors import EquivError
from equiv.long_range.chebyshev import (
    chebyshev_nodes,
    chebyshev_polynomials,
    coefficients_from_values,
    derivative_coefficients,
    resolved_length,
    values_from_coefficients,
)


def test_nodes_are_the_extrema_of_the_last_polynomial():
    x = chebyshev_nodes(9)
    assert x[0] == -1
    assert x[-1] == 1
    np.testing.assert_allclose(reference.chebval(x, np.eye(9)[8]), (-1.0) ** np.arange(9))
    np.testing.assert_array_equal(x, -x[::-1])


@pytest.mark.parametrize("m", [2, 3, 8, 33])
def test_coefficients_of_polynomials_are_recovered(m):
    c = np.random.default_rng(m).standard_normal((m, 4))
    values = reference.chebval(chebyshev_nodes(m), c).T
    np.testing.assert_allclose(coefficients_from_values(values), c, atol=1e-13)
    np.testing.assert_allclose(values_from_coefficients(c), values, atol=1e-13)
    np.testing.assert_allclose(coefficients_from_values(values.T, axis=1), c.T, atol=1e-13)


def test_coefficients_of_a_gaussian_are_bessel_functions():
    # exp(-a x^2) = e^{-a/2} (I_0(a/2) + 2 sum (-1)^k I_k(a/2) T_2k(x))
    a, k = 30.0, np.arange(33)
    c = coefficients_from_values(np.exp(-a * chebyshev_nodes(129) ** 2))
    expected = np.where(k == 0, 1, 2 * (-1.0) ** k) * ive(k, a / 2)
    np.testing.assert_allclose(c[: 2 * 33 : 2], expected, atol=1e-15)
    np.testing.assert_allclose(c[1::2], 0, atol=1e-15)


def test_runge_function_converges_at_the_rate_of_its_bernstein_ellipse():
    rho = 0.2 + np.sqrt(0.2**2 + 1)
    x = np.linspace(-1, 1, 2001)
    errors = []
    for m in (41, 81, 121):
        nodes = chebyshev_nodes(m)
        c = coefficients_from_values(1 / (1 + 25 * nodes**2))
        errors.append(np.abs(chebyshev_polynomials(x, m) @ c - 1 / (1 + 25 * x**2)).max())
    np.testing.assert_allclose(np.diff(np.log(errors)) / 40, -np.log(rho), rtol=0.03)


def test_derivative_and_length():
    c = np.array([1.0, 2.0, 0.5, 1e-9, 1e-12])
    np.testing.assert_allclose(derivative_coefficients(c), reference.chebder(c))
    assert resolved_length(c, 1e-8) == 3
    assert resolved_length(c, 1e-11) == 4
    assert resolved_length(c, 100.0) == 1
    assert resolved_length(np.stack([c, c[::-1]], 1), 1e-8) == 5


def test_one_node_is_not_enough():
    with pytest.raises(EquivError, match="at least 2 Chebyshev nodes, got 1"):
        chebyshev_nodes(1)
