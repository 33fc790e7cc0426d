"""From a tolerance to the numbers that meet it."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from scipy import special

from equiv.long_range.boxes import lobatto_nodes
from equiv.long_range.splitting import DENSITY, FORCE, Splitting

MOST_NODES = 80


@lru_cache(maxsize=256)
def nodes_needed(split: Splitting, side: float, error: float) -> int:
    """Chebyshev nodes in a box of that side that keep the relative force error below ``error``."""
    for nodes in range(4, MOST_NODES):
        if interpolation_error(split, side, nodes) < error:
            return nodes
    return MOST_NODES


def interpolation_error(split: Splitting, side: float, nodes: int) -> float:
    r"""Expected relative error of the forces when :math:`K_L` is interpolated in boxes.

    Along one axis, :math:`e_k(x, y)` is what the interpolant of :math:`e^{-t_k^2(x-y)^2}` in x
    leaves over. Random charges add their errors incoherently, so with density :math:`\rho` the
    variance of a force component is

    .. math:: \rho \sum_{kl} w_k w_l \frac{\pi}{t_k^2 + t_l^2} \int dy\,
              \langle \partial_x e_k \partial_x e_l \rangle_x

    to which the other two axes and the sources add about as much each.
    """
    t, w = split.t, split.w
    x = (np.arange(12) + 0.5) / 12 * 2 - 1
    points = lobatto_nodes(nodes)
    inverse = np.linalg.inv(chebyshev.chebvander(points, nodes - 1))
    derivative = np.zeros((nodes, nodes))
    for n in range(1, nodes):
        c = chebyshev.chebder(np.eye(nodes)[n])
        derivative[: len(c), n] = c
    slopes = chebyshev.chebvander(x, nodes - 1) @ derivative @ inverse * (2 / side)
    reach = side + 4 / t[t > 0.2 * t.max()].min()
    y = np.linspace(-reach, reach, 97)
    at_x, at_node = (x + 1) / 2 * side, (points + 1) / 2 * side
    step = at_x[:, None] - y
    far = at_node[:, None] - y
    t2 = (t**2)[:, None, None]
    rest = -2 * t2 * step * np.exp(-t2 * step**2) - np.einsum(
        "xn,kny->kxy", slopes, np.exp(-t2 * far**2)
    )
    overlap = np.einsum("kxy,lxy->kl", rest, rest) / len(x) * (y[1] - y[0])
    weights = np.outer(w, w) * math.pi / np.add.outer(t**2, t**2)
    variance = 9 * DENSITY / split.cutoff**3 * (weights * overlap).sum()
    return math.sqrt(variance) / (FORCE * split.cutoff ** (-1 - split.exponent))


@dataclass(frozen=True)
class ScreenedSum:
    r"""Gaussians that make :math:`\operatorname{erf}(\alpha r) / r`.

    .. math::
        \operatorname{erf}(\alpha r) / r = \frac{2}{\sqrt\pi} \int_0^\alpha e^{-t^2 r^2}\, dt

    Attributes:
        cutoff: where the rest, :math:`\operatorname{erfc}(\alpha r) / r`, ends.
        epsilon: what is left of it there, relative.
    """

    cutoff: float
    epsilon: float
    exponent: float = 1.0

    @property
    def alpha(self) -> float:
        return float(special.erfcinv(self.epsilon)) / self.cutoff

    @property
    def t(self) -> np.ndarray:
        return self.alpha * (_quadrature()[0] + 1) / 2

    @property
    def w(self) -> np.ndarray:
        return self.alpha / math.sqrt(math.pi) * _quadrature()[1]


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of Gauss, exact to rounding for Gaussians as wide as the cutoff."""
    return np.polynomial.legendre.leggauss(48)


@lru_cache(maxsize=16)
def screened_splitting(cutoff: float, error: float) -> Splitting:
    """The splitting of Ewald: more waves than an optimised one, but as many digits as one wants."""
    return Splitting(ScreenedSum(cutoff, 0.01 * error), error)


@lru_cache(maxsize=64)
def cached_splitting(cutoff: float, epsilon: float, reach: float, exponent: float, error: float):
    """The splitting of a kernel; building one takes about a millisecond, its table perhaps more."""
    from equiv.long_range.range_separation import range_separation

    return Splitting(range_separation(cutoff, epsilon, reach, exponent=exponent), error)
