r"""Chebyshev interpolation along the axes of an array.

.. math::
    f(x) \approx \sum_{k=0}^{m-1} c_k\, T_k(x), \qquad
    x_j = -\cos\frac{\pi j}{m - 1}, \qquad
    c = \text{DCT-I}\,\bigl(f(x_0), \dots, f(x_{m-1})\bigr)

on the interval [-1, 1]. The nodes (Lobatto, or second kind) include both ends. The interpolant
misses by at most :math:`\Lambda_m + 1` times the error of the best polynomial,
:math:`\Lambda_m \le \tfrac{2}{\pi} \log m + 1`; for ``f`` analytic and bounded by :math:`M` in the
Bernstein ellipse of parameter :math:`\rho > 1` its error is at most
:math:`4 M \rho^{1-m} / (\rho - 1)` (Trefethen 2013).
"""

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from equiv.errors import EquivError


def chebyshev_nodes(m: int) -> NDArray[np.float64]:
    """The ``m`` >= 2 Lobatto nodes, ascending and symmetric to rounding."""
    if m < 2:
        raise EquivError(f"m: expected at least 2 Chebyshev nodes, got {m}")
    return np.sin(np.pi * np.arange(1 - m, m, 2) / (2 * m - 2))


def coefficients_from_values(values: ArrayLike, axis: int = 0) -> NDArray[np.float64]:
    """Chebyshev coefficients from values at :func:`chebyshev_nodes` along ``axis``; O(m log m)."""
    values = np.moveaxis(np.asarray(values, dtype=np.float64), axis, 0)
    c = np.asarray(scipy.fft.dct(values[::-1], type=1, axis=0)) / (len(values) - 1)
    c[[0, -1]] /= 2
    return np.moveaxis(c, 0, axis)


def values_from_coefficients(coefficients: ArrayLike, axis: int = 0) -> NDArray[np.float64]:
    """Inverse of :func:`coefficients_from_values`."""
    c = np.moveaxis(np.array(coefficients, dtype=np.float64), axis, 0)
    c[1:-1] /= 2
    return np.moveaxis(np.asarray(scipy.fft.dct(c, type=1, axis=0))[::-1], 0, axis)


def chebyshev_polynomials(x: ArrayLike, m: int) -> NDArray[np.float64]:
    r""":math:`T_0(x) \dots T_{m-1}(x)` along a new last axis."""
    t = np.polynomial.chebyshev.chebvander(np.asarray(x, dtype=np.float64), m - 1)
    return np.asarray(t, dtype=np.float64)


def derivative_coefficients(coefficients: ArrayLike, axis: int = 0) -> NDArray[np.float64]:
    """Coefficients of the derivative along ``axis``, one fewer."""
    c = np.asarray(coefficients, dtype=np.float64)
    return np.asarray(np.polynomial.chebyshev.chebder(c, axis=axis), dtype=np.float64)


def resolved_length(coefficients: ArrayLike, error: float, axis: int = 0) -> int:
    r"""How many leading coefficients keep the sum within ``error`` of the whole, for every ``x``.

    .. math::
        \sum_{k \ge m} \max |c_k| \le \epsilon

    The maximum is taken over the other axes; :math:`|T_k| \le 1` does the rest. If the tail has not
    decayed by the end of ``coefficients``, the answer is their number, not fewer.
    """
    c = np.moveaxis(np.abs(np.asarray(coefficients, dtype=np.float64)), axis, 0)
    tails = np.cumsum(c.reshape(len(c), -1).max(1)[::-1])[::-1]
    return max(1, int((tails > error).sum()))
