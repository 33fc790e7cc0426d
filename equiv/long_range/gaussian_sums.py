r"""Radial kernels as sums of Gaussians, with stated error.

.. math::
    f(r) \approx \sum_{k=1}^{R} w_k\, e^{-t_k^2 r^2}, \qquad
    e^{-t^2 r^2} = e^{-t^2 x^2}\, e^{-t^2 y^2}\, e^{-t^2 z^2}

so every term is a product of three functions of one variable: a Gaussian sum *is* a canonical
(rank :math:`R`) tensor decomposition of the kernel, with rank independent of any grid. The kernels
here are Laplace-type integrals over the width,

.. math::
    \frac{1}{r^p} &= \frac{2}{\Gamma(p/2)} \int_0^\infty t^{p-1} e^{-t^2 r^2}\, dt \\
    \frac{e^{-\kappa r}}{r}
        &= \frac{2}{\sqrt\pi} \int_0^\infty e^{-\kappa^2 / 4 t^2} e^{-t^2 r^2}\, dt \\
    \frac{\operatorname{erf}(\alpha r)}{r} &= \frac{2}{\sqrt\pi} \int_0^\alpha e^{-t^2 r^2}\, dt

discretised by the trapezoidal rule in :math:`u = \log t` (sinc quadrature; exponentially accurate
because the integrand is entire and decays at both ends) or, on the bounded interval of erf, by the
Gauss-Legendre rule. All weights are positive. Every error is measured against the kernel at 2000
distances and refined until it is what was asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf, gammainccinv, gammaln, loggamma

from equiv.errors import EquivError


@dataclass(frozen=True, eq=False)
class GaussianSum:
    r""":math:`f(r) = \sum_k w_k e^{-t_k^2 r^2}`, smooth terms first.

    Attributes:
        t: exponents in the inverse unit of ``r``, ascending, shape ``[R]``.
        w: weights, shape ``[R]``.
    """

    t: NDArray[np.float64]
    w: NDArray[np.float64]

    @property
    def rank(self) -> int:
        """Number of terms: the canonical rank of the kernel on any product grid."""
        return len(self.t)

    def __call__(self, r: ArrayLike) -> NDArray[np.float64]:
        """Values at distances of any shape."""
        r = np.asarray(r, dtype=np.float64)
        return np.exp(-((r[..., None] * self.t) ** 2)) @ self.w

    def split(self, long_rank: int) -> tuple["GaussianSum", "GaussianSum"]:
        """The ``long_rank`` widest terms and the others: long and short range."""
        if not 0 <= long_rank <= self.rank:
            raise EquivError(f"long_rank: expected 0 to {self.rank}, got {long_rank}")
        return (
            GaussianSum(self.t[:long_rank], self.w[:long_rank]),
            GaussianSum(self.t[long_rank:], self.w[long_rank:]),
        )

    def support(self, error: float) -> float:
        r"""Distance beyond which :math:`|f| \le` ``error`` :math:`\cdot f(0)`, by bisection."""
        top = math.sqrt(math.log(1 / error)) / self.t[0]
        limit = error * self.w.sum()
        return _root(lambda r: float(self(r)) - limit, 0.0, 2 * top)


def inverse_power(power: float, error: float, r_min: float, r_max: float) -> GaussianSum:
    r""":math:`r^{-p}` with relative error at most ``error`` for ``r_min`` <= r <= ``r_max``.

    The rule is cut at the sharp end where :math:`\Gamma(p/2, t^2 r_\text{min}^2) / \Gamma(p/2)` is
    small. At the smooth end the infinite geometric tail below :math:`t_0` is replaced by one
    Gaussian with the same two leading moments,

    .. math::
        w = \sum_{j \ge 1} w_{-j} = \frac{2h}{\Gamma(p/2)} \frac{t_0^p}{e^{ph} - 1}, \qquad
        w\, t^2 = \sum_{j \ge 1} w_{-j} t_{-j}^2,

    so that its error is :math:`O((t_0 r)^{p+4})` instead of :math:`O((t_0 r)^p)`.
    """
    _check_range(error, r_min, r_max)

    def build(step: float) -> GaussianSum:
        h = step * trapezoidal_step(power, error)
        scale = 2 * h / math.exp(gammaln(power / 2))
        sharp = math.sqrt(gammainccinv(power / 2, 0.2 * error)) / r_min
        tail = 0.2 * error * math.expm1((power + 4) * h) / scale
        smooth = (2 * tail) ** (1 / (power + 4)) / r_max
        t = sharp * np.exp(-h * np.arange(math.ceil(math.log(sharp / smooth) / h) + 1))[::-1]
        w = scale * t**power
        lump = scale * t[0] ** power / math.expm1(power * h)
        moment = scale * t[0] ** (power + 2) / math.expm1((power + 2) * h)
        return GaussianSum(np.r_[math.sqrt(moment / lump), t], np.r_[lump, w])

    return _refined(build, lambda r: r**-power, power, error, r_min, r_max)


def yukawa(screening: float, error: float, r_min: float, r_max: float) -> GaussianSum:
    r""":math:`e^{-\kappa r} / r` with error at most ``error`` / r for ``r_min`` <= r <= ``r_max``.

    Args:
        screening: :math:`\kappa > 0` in inverse units of ``r``.
        error: relative to the unscreened kernel.
        r_min: smallest distance.
        r_max: largest distance.
    """
    _check_range(error, r_min, r_max)
    if not screening > 0:
        raise EquivError(f"screening: expected a positive number, got {screening}")

    def build(step: float) -> GaussianSum:
        h = step * trapezoidal_step(1.0, error)
        sharp = math.sqrt(gammainccinv(0.5, 0.2 * error)) / r_min
        smooth = min(
            max(
                0.5 * screening / math.sqrt(math.log(1 / error) + 2),
                0.1 * error / r_max,
            ),
            sharp,
        )
        t = sharp * np.exp(-h * np.arange(math.ceil(math.log(sharp / smooth) / h) + 1))[::-1]
        return GaussianSum(
            t, 2 * h / math.sqrt(math.pi) * t * np.exp(-((screening / (2 * t)) ** 2))
        )

    return _refined(build, lambda r: np.exp(-screening * r) / r, 1.0, error, r_min, r_max)


def erf_over_r(alpha: float, error: float, r_max: float) -> GaussianSum:
    r""":math:`\operatorname{erf}(\alpha r) / r` with error at most ``error`` / r up to ``r_max``.

    The Gauss-Legendre rule on :math:`0 \le t \le \alpha`; about :math:`\alpha r_\text{max} / 2`
    terms. It has no singularity to avoid: the kernel is exact in the limit at ``r = 0`` too.
    """
    _check_range(error, 0.1 / alpha, r_max)

    def build(step: float) -> GaussianSum:
        nodes, weights = np.polynomial.legendre.leggauss(math.ceil(8 / step**2))
        return GaussianSum(alpha * (nodes + 1) / 2, alpha / math.sqrt(math.pi) * weights)

    return _refined(build, lambda r: erf(alpha * r) / r, 1.0, error, 1e-3 / alpha, r_max)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(cast(float, scipy.optimize.brentq(function, low, high)))


def _check_range(error: float, r_min: float, r_max: float) -> None:
    if not 1e-13 <= error <= 0.1:
        raise EquivError(f"error: expected 1e-13 to 0.1, got {error}")
    if not 0 < r_min < r_max < math.inf:
        raise EquivError(f"r_min, r_max: expected 0 < r_min < r_max, got {r_min} and {r_max}")


def _refined(
    build: Callable[[float], GaussianSum],
    kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    power: float,
    error: float,
    r_min: float,
    r_max: float,
) -> GaussianSum:
    """The first sum, while the step shrinks, whose error times ``r**power`` is small enough."""
    r = np.geomspace(r_min, r_max, 2000)
    for step in 0.97 ** np.arange(120):
        result = build(float(step))
        if (np.abs(result(r) - kernel(r)) * r**power).max() <= error:
            return result
    raise EquivError(
        f"no sum of Gaussians found with error {error:g} from {r_min:g} to {r_max:g}; ask for less"
    )


def trapezoidal_error(power: float, step: float) -> float:
    r"""Relative error of the infinite trapezoidal rule for :math:`r^{-p}`, for every ``r``.

    .. math::
        r^p\, h \frac{2}{\Gamma(p/2)} \sum_{k \in \mathbb Z} t_k^p\, e^{-t_k^2 r^2} - 1
        = \sum_{j \ne 0} \frac{\Gamma(p/2 + i \pi j / h)}{\Gamma(p/2)}\, e^{-2\pi i j \log(r) / h},
        \qquad t_k = e^{kh}

    (Poisson's summation). The terms :math:`j = \pm 1` dominate: the error is
    :math:`2 |\Gamma(p/2 + i\pi/h)| / \Gamma(p/2)`, for the Coulomb kernel
    :math:`2\sqrt2\, e^{-\pi^2/2h}`.
    """
    return 2 * math.exp(
        float(np.real(loggamma(power / 2 + 1j * math.pi / step))) - gammaln(power / 2)
    )


def trapezoidal_step(power: float, error: float) -> float:
    """The step ``h`` in log t whose :func:`trapezoidal_error` is ``error``."""
    return _root(lambda h: math.log(trapezoidal_error(power, h) / error), 0.02, 12.0)
