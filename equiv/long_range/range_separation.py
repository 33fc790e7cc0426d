"""An inverse power split into a compact part and a sum of few smooth Gaussians."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equiv.errors import EquivError
from equiv.long_range.gaussian_sums import GaussianSum
from equiv.long_range.minimax import minimax_gaussians

LARGEST_ERROR, SMALLEST_ERROR = 1e-2, 1e-9


@dataclass(frozen=True, eq=False)
class RangeSeparation:
    r"""The smoothest long-range part of :math:`r^{-p}`: as few Gaussians, and as wide, as can be.

    .. math::
        r^{-p} = K_S(r) + K_L(r), \qquad K_L(r) = \sum_{k=1}^{R} w_k\, e^{-t_k^2 r^2}, \qquad
        K_S(r) = \begin{cases} r^{-p} - K_L(r) & r < r_c \\ 0 & r \ge r_c \end{cases}

    - :math:`|r^p K_L(r) - 1| \le \epsilon` for :math:`r_c \le r \le` ``reach``: the only error of
      the split. Beyond the reach :math:`K_L` decays too fast.
    - :math:`K_S(r_c) = K_S'(r_c) = 0` to rounding: the short-range energy is continuously
      differentiable and exactly compact.
    - :math:`w_k > 0`: :math:`K_L` is positive definite.

    The largest exponent is :math:`t_R r_c = 1.5, 2.0, 2.5, 2.9` for :math:`\epsilon = 10^{-3},
    10^{-5}, 10^{-7}, 10^{-9}` and :math:`p = 1`, against 2.3, 3.1, 3.8, 4.3 of Ewald's
    :math:`\operatorname{erfc}`: about three times fewer waves. See
    :mod:`equiv.long_range.minimax`.

    Attributes:
        t: exponents in 1/Angstrom, ascending (smooth to sharp), shape ``[R]``.
        w: weights in Angstrom^-p.
        cutoff: :math:`r_c` in Angstrom.
        epsilon: relative error outside of the cutoff.
        reach: largest distance at which that holds, in Angstrom.
        exponent: :math:`p`.
    """

    t: NDArray[np.float64]
    w: NDArray[np.float64]
    cutoff: float
    epsilon: float
    reach: float
    exponent: float

    @property
    def gaussians(self) -> GaussianSum:
        """:math:`K_L` as a sum of Gaussians."""
        return GaussianSum(self.t, self.w)

    def long_range(self, r: ArrayLike) -> NDArray[np.float64]:
        """:math:`K_L(r)`, in Angstrom^-p, for distances of any shape."""
        return self.gaussians(r)

    def short_range(self, r: ArrayLike) -> NDArray[np.float64]:
        """:math:`K_S(r)`, in Angstrom^-p, for positive distances of any shape."""
        r = np.asarray(r, dtype=np.float64)
        return np.where(r < self.cutoff, r**-self.exponent - self.long_range(r), 0.0)

    def long_range_transform(self, k: ArrayLike) -> NDArray[np.float64]:
        r""":math:`\hat K_L(k) = \sum_k w_k (\pi / t_k^2)^{3/2} e^{-k^2/4t_k^2}`, Angstrom^(3-p)."""
        k = np.asarray(k, dtype=np.float64)
        return np.exp(-((k[..., None] / (2 * self.t)) ** 2)) @ (
            self.w * (math.pi / self.t**2) ** 1.5
        )


def range_separation(
    cutoff: float, epsilon: float, reach: float, *, exponent: float = 1.0
) -> RangeSeparation:
    r"""The split of :math:`r^{-p}` at ``cutoff`` with relative error ``epsilon`` up to ``reach``.

    In units of the cutoff it depends on ``epsilon``, ``reach / cutoff`` and ``exponent`` alone. The
    first is rounded down to a quarter of a decade, the second up to a power of two, and the result
    is kept for the process; a new one takes 10 ms (:math:`10^{-2}`) to 3 s (:math:`10^{-9}`).

    Args:
        cutoff: :math:`r_c` in Angstrom.
        epsilon: between 1e-9 and 1e-2 (larger ones are treated as 1e-2).
        reach: largest distance between charges, in Angstrom.
        exponent: :math:`p`; 1 for charges, 6 for dispersion.
    """
    if not 0 < cutoff < math.inf:
        raise EquivError(f"cutoff: expected a positive distance in Angstrom, got {cutoff}")
    if not epsilon >= 0.999 * SMALLEST_ERROR:
        raise EquivError(
            f"epsilon: expected at least {SMALLEST_ERROR:g}, got {epsilon}; rounding leaves"
            " nothing to gain below"
        )
    if not cutoff < reach < math.inf:
        raise EquivError(
            f"reach: expected a distance beyond the cutoff of {cutoff:g} Angstrom, got {reach}"
        )
    quarter = min(math.floor(4 * math.log10(epsilon) + 1e-9) / 4, math.log10(LARGEST_ERROR))
    rounded = max(10.0**quarter, SMALLEST_ERROR)
    doublings = max(3, math.ceil(math.log2(reach / cutoff) - 1e-9))
    t, w = _separate(rounded, doublings, float(exponent))
    return RangeSeparation(
        t=t / cutoff,
        w=w / cutoff**exponent,
        cutoff=float(cutoff),
        epsilon=rounded,
        reach=cutoff * 2.0**doublings,
        exponent=float(exponent),
    )


@functools.lru_cache(maxsize=256)
def _separate(
    epsilon: float, doublings: int, exponent: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    t, w = minimax_gaussians(exponent, epsilon, 2.0**doublings)
    t.setflags(write=False)
    w.setflags(write=False)
    return t, w
