r"""Best uniform approximation of inverse powers by positive Gaussians, touching at one point.

.. math::
    e(r) = r^p \sum_{k=1}^{R} w_k\, e^{-t_k^2 r^2} - 1, \qquad e(1) = e'(1) = 0, \qquad
    \max_{1 \le r \le D} |e(r)| = \varepsilon

This file finds, for a given :math:`\varepsilon` and number of terms, the sum whose error oscillates
between :math:`-\varepsilon` and :math:`+\varepsilon` the full number of times. Counted with
multiplicity, :math:`e` has at most :math:`2R` zeros on the half line (Descartes' rule for the
signed measure :math:`\sum_k w_k \delta_{t_k} - 2 t^{p-1} dt / \Gamma(p/2)`, which changes sign
:math:`2R` times), two of them at :math:`r = 1`; so at most :math:`2R - 2` remain, with as many
extrema at :math:`r > 1`, of alternating sign :math:`-, +, -, \dots`. Asking every one of them to be
:math:`\pm \varepsilon` gives :math:`2R - 2` equations; with :math:`e(1) = e'(1) = 0` they fix
the :math:`2R` unknowns :math:`\log t_k, \log w_k`. Beyond the last extremum :math:`e` falls and
reaches :math:`-\varepsilon` once more, at :math:`D`: by the alternation theorem no sum of
:math:`R` Gaussians that touches at 1 has a smaller error on :math:`[1, D]`.

The equations are solved by Newton's method in the manner of Remez: the extrema move only in second
order, so the Jacobian is taken at fixed positions. Newton's method needs a good start. It comes
from continuation: from a coarse least-squares fit with few terms, to more terms (the sum is nearly
self-similar under :math:`t \to \rho t`, so a copy of its smooth end is appended), to the wanted
power, and down in :math:`\varepsilon` by extrapolation in its logarithm.

The top of the sum is worth a word. Away from its ends the optimum is the trapezoidal rule in
:math:`\log t` (:mod:`equiv.long_range.gaussian_sums`); but the rule would need :math:`t` up to
:math:`\sqrt{\ln 1/\varepsilon}` for the accuracy at :math:`r = 1`. The touching sums stop at
:math:`t_R = 1.5, 2.0, 2.5` for :math:`\varepsilon = 10^{-3}, 10^{-5}, 10^{-7}` (:math:`p = 1`):
they are as smooth below 1 as the accuracy above 1 permits.
"""

import functools
from typing import Any, cast

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from scipy.interpolate import BarycentricInterpolator
from scipy.special import gammaln

from equiv.errors import EquivError
from equiv.long_range.gaussian_sums import trapezoidal_step

Vector = NDArray[np.float64]

_COARSE = 0.05  # error at which terms are added and the power is changed
_POWER = 2.0  # whose coarse fit starts everything; the others are continued from it
_MAX_TERMS = 80


def minimax_gaussians(power: float, error: float, extent: float) -> tuple[Vector, Vector]:
    r"""Fewest :math:`t_k` (ascending) and :math:`w_k > 0` with :math:`|e| \le` ``error`` up to D.

    Args:
        power: :math:`p > 0`.
        error: :math:`\varepsilon`, between 1e-9 and 0.1.
        extent: :math:`D > 1`, the largest ``r`` that matters, in units of the touching point.

    Returns:
        The exponents :math:`t_k` and weights :math:`w_k`, float64; :math:`e(1)` and :math:`e'(1)`
        vanish to rounding.
    """
    if not 0.999e-9 <= error <= 0.1:
        raise EquivError(f"error: expected 1e-9 to 0.1, got {error:g}")
    if not 0.25 <= power <= 12:
        raise EquivError(f"power: expected 0.25 to 12, got {power:g}")
    terms = max(6, int(np.log(extent) / trapezoidal_step(power, error)))
    aim = 0.995 * error  # the ripples are solved for to 0.2 %
    while terms <= _MAX_TERMS:
        try:
            # Overflow means a start that is too far away, which is noticed.
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                x = _descend(_coarse(power, terms), power, aim)
                while _reach(x, power, aim) < extent:
                    x = _newton(_append(x, power), power, aim)
            return _touch_exactly(_polished(x, power, aim), power)
        except _NoConvergenceError:
            terms += 1
    raise EquivError(
        f"no sum of {_MAX_TERMS} Gaussians found for r^-{power:g} with error {error:g} up to"
        f" {extent:g}; ask for a larger error or a smaller extent"
    )


class _NoConvergenceError(Exception):
    """Newton's method left its basin: the start was too far away."""


def _split(x: Any) -> tuple[Any, Any]:
    return np.exp(x[: len(x) // 2]), np.exp(x[len(x) // 2 :])


def _terms(x: Any, r: Any, p: float) -> tuple[Any, Any]:
    """``t_k^2 r^2`` and ``r^p w_k exp(-t_k^2 r^2)``."""
    t, w = _split(x)
    z = np.outer(r * r, t * t)
    return z, (r**p)[:, None] * np.exp(-z) * w


def _errors(x: Any, r: Any, p: float) -> Vector:
    """``e(r)``."""
    return _terms(x, r, p)[1].sum(1) - 1


def _error_jacobian(x: Any, r: Any, p: float) -> NDArray[np.float64]:
    """Of ``e(r)`` with respect to ``x`` = (log t, log w)."""
    z, g = _terms(x, r, p)
    return np.hstack([-2 * z * g, g])


def _touching(x: Any, p: float) -> Vector:
    """``e(1)`` and ``de/dlog r(1)``."""
    t, w = _split(x)
    g = w * np.exp(-t * t)
    return np.array([g.sum() - 1, (g * (p - 2 * t * t)).sum()])


def _touching_jacobian(x: Any, p: float) -> NDArray[np.float64]:
    """Of these two."""
    t, w = _split(x)
    g, s = w * np.exp(-t * t), p - 2 * t * t
    return np.array([np.r_[-2 * t * t * g, g], np.r_[-2 * t * t * (s + 2) * g, s * g]])


def _slopes(x: Vector, u: Vector, p: float) -> tuple[Vector, Vector]:
    """First and second derivative of ``e`` with respect to ``u`` = log r."""
    t, w = _split(x)
    z = np.outer(np.exp(2 * u), t * t)
    g = np.exp(p * u)[:, None] * np.exp(-z) * w
    s = p - 2 * z
    return (g * s).sum(1), (g * (s * s - 4 * z)).sum(1)


def _extrema(x: Vector, p: float) -> Vector:
    """Where ``e`` is extremal at r > 1, ascending; there are ``2 R - 2``."""
    terms = len(x) // 2
    span = np.log(8.0) - x[:terms].min()
    s = np.linspace(0, 1, 30 * terms + 60)[1:]
    u = span * s * (0.35 + 0.65 * s)  # ripples are narrower near 1
    slope = _slopes(x, u, p)[0]
    k = np.nonzero(slope[:-1] * slope[1:] < 0)[0]
    v = u[k] - slope[k] * (u[k + 1] - u[k]) / (slope[k + 1] - slope[k])
    for _ in range(3):
        first, second = _slopes(x, v, p)
        v = np.clip(v - first / second, u[k], u[k + 1])
    if len(v) < 2 * terms - 2:
        raise _NoConvergenceError
    return np.exp(v[len(v) - 2 * terms + 2 :])


def _equations(
    x: NDArray[np.longdouble], r: Vector, p: float, error: float
) -> tuple[Vector, NDArray[np.float64]]:
    """What is left over of touching at 1 and of the ripples' height at ``r``, and the Jacobian.

    Ripples of 1e-7 leave nine digits of the unknowns in double precision, those of 1e-9 too few to
    tell whether the equations are solved; and the rest would differ from one process to the next.
    So unknowns and residuals have the extended precision of the machine, if it has one.
    """
    e, touch = _errors(x, r.astype(np.longdouble), p), _touching(x, p)
    signs = np.where(np.arange(len(r)) % 2, 1.0, -1.0)
    rounded = x.astype(np.float64)
    matrix = np.vstack([_touching_jacobian(rounded, p), _error_jacobian(rounded, r, p)])
    return (np.r_[touch, e - error * signs] / error).astype(np.float64), matrix / error


def _polished(x: Vector, p: float, error: float) -> Vector:
    """A solution of Newton's method to the last digits."""
    for _ in range(2):
        r, exact = _extrema(x, p), x.astype(np.longdouble)
        for _ in range(3):
            residual, matrix = _equations(exact, r, p, error)
            exact = exact + np.linalg.lstsq(matrix, -residual, rcond=1e-15)[0]
        x = exact.astype(np.float64)
    return x


def _newton(x: Vector, p: float, error: float) -> Vector:
    """The touching sum with ``len(x) / 2`` terms whose ripples have the height ``error``.

    A ripple of 1e-8 does not survive the second-order error of a Newton step, so the positions of
    the extrema are kept until the equations at them are solved, and only then found anew. They are
    solved as well as rounding permits: what is left over spoils the extrapolation to smaller errors
    in second order.
    """
    rounding = max(1e-7, 1e-14 / error)
    for _ in range(10):
        r, exact = _extrema(x, p), x.astype(np.longdouble)
        last = np.inf
        for trial in range(15):
            residual, matrix = _equations(exact, r, p, error)
            size = np.abs(residual).max()
            if not size < 1e12:
                raise _NoConvergenceError
            solved = size < 2e-3
            if solved and trial == 0:
                return x
            if solved and (size < rounding or size > 0.3 * last):
                break
            last = size
            step = np.linalg.lstsq(matrix, -residual, rcond=1e-15)[0]
            exact = exact + step * min(1.0, 0.3 / np.abs(step).max())
        else:
            raise _NoConvergenceError
        x = exact.astype(np.float64)
    raise _NoConvergenceError


def _append(x: Vector, p: float) -> Vector:
    """One more term: a scaled copy of the smooth end before a repeated interior term."""
    t, w = np.split(x, 2)
    ratio = t[1] - t[2]
    return np.r_[t[:2] + ratio, t[1:], w[:2] + p * ratio, w[1:]]


def _reach(x: Vector, p: float, error: float) -> float:
    """D: where ``e`` passes ``-error`` for good."""
    last = _extrema(x, p)[-1]
    root = scipy.optimize.brentq(lambda r: _errors(x, np.array([r]), p)[0] + error, last, 50 * last)
    return float(cast(float, root))


def _descend(x: Vector, p: float, error: float) -> Vector:
    """Continue from the coarse error down to ``error``, extrapolating in log error."""
    at, target, step = np.log(_COARSE), np.log(error), 0.7
    path = [(at, x)]
    while at - target > 1e-12:
        new = max(at - step, target)
        known, sums = zip(*path[-4:], strict=True)
        guess = np.asarray(BarycentricInterpolator(known, np.array(sums))(new))
        try:
            x = _newton(guess, p, float(np.exp(new)))
            at, step = new, 1.2 * step
            path.append((at, x))
        except _NoConvergenceError:
            step *= 0.4
            if step < 0.01:
                raise
    return x


@functools.cache
def _seed() -> Vector:
    """Five terms for ``_POWER`` at the coarse error, from a least-squares fit."""
    p, terms, error = _POWER, 5, 0.1
    h = trapezoidal_step(p, error)
    t = 0.5 * np.log(p) - h * np.arange(terms)[::-1]
    x = np.r_[t, np.log(2 * h) - gammaln(p / 2) + p * t]
    extent = 0.35 * np.exp(-t[0])
    r = np.exp(np.log(extent) * np.linspace(0, 1, 60) ** 1.3)
    heavy = 100 * np.sqrt(60)

    def residuals(x: Vector) -> Vector:
        return np.r_[_errors(x, r, p), heavy * _touching(x, p)]

    def jacobian(x: Vector) -> NDArray[np.float64]:
        return np.vstack([_error_jacobian(x, r, p), heavy * _touching_jacobian(x, p)])

    x = scipy.optimize.least_squares(residuals, x, cast(Any, jacobian), method="lm").x
    ripple = float(np.median(np.abs(_errors(x, _extrema(x, p), p))))
    x = _newton(x, p, ripple)
    for between in np.geomspace(ripple, _COARSE, 12)[1:]:
        x = _newton(x, p, float(between))
    return x


@functools.cache
def _coarse(p: float, terms: int) -> Vector:
    """The optimum with so many terms at the coarse error."""
    if terms > 5:
        return _newton(_append(_coarse(p, terms - 1), p), p, _COARSE)
    x, at, step = _seed(), _POWER, 0.25
    while abs(at - p) > 1e-12:
        new = at + float(np.clip(p - at, -step, step))
        try:
            x, at = _newton(x, new, _COARSE), new
            step *= 1.4
        except _NoConvergenceError:
            step *= 0.4
            if step < 1e-3:
                raise
    return x


def _touch_exactly(x: Vector, p: float) -> tuple[Vector, Vector]:
    """Exponents and weights, two weights corrected so that ``e(1) = e'(1) = 0`` to rounding."""
    order = np.argsort(x[: len(x) // 2])
    t, w = _split(x)
    t, w = t[order], w[order]
    rows = np.array([np.exp(-t * t), np.exp(-t * t) * (p - 2 * t * t)])
    last = slice(len(t) - 2, None)
    for _ in range(2):
        w[last] -= np.linalg.solve(rows[:, last], rows @ w - [1.0, 0.0])
    return t, w
