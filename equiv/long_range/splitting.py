"""A kernel in two parts: a compact one for pairs, a smooth one for everything else."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev
from torch import Tensor

from equiv.long_range.pair_kernels import RadialPolynomial
from equiv.long_range.pairs import InversePower, radial


class GaussianSum(Protocol):
    r"""The long-range part :math:`K_L(r) = \sum_k w_k e^{-t_k^2 r^2}` of :math:`r^{-p}`.

    Weights are not negative, :math:`|r^p K_L(r) - 1| \le \epsilon` from the cutoff to the reach,
    and :math:`r^{-p} - K_L` vanishes at the cutoff together with its slope.
    """

    @property
    def t(self) -> np.ndarray: ...
    @property
    def w(self) -> np.ndarray: ...
    @property
    def cutoff(self) -> float: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def exponent(self) -> float: ...


class ChebyshevSeries:
    r"""A polynomial on :math:`[a, b]` by its Chebyshev coefficients, with all derivatives.

    Degrees up to 16 are summed as powers of the variable scaled to [-1, 1], which is twice as fast
    and harmless for the smooth functions of this package; higher ones by Clenshaw's recurrence.
    """

    def __init__(self, coefficients: np.ndarray, a: float, b: float) -> None:
        self.a, self.b = a, b
        self._series: list[np.ndarray] = [np.asarray(coefficients, dtype=np.float64)]
        self._powers: dict[tuple, Sequence[Tensor]] = {}

    @classmethod
    def fitted(cls, function, a: float, b: float, error: float) -> "ChebyshevSeries":
        """Interpolates ``function`` (of an array), cut where the coefficients fall below error."""
        nodes = 128
        y = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
        values = function((y + 1) / 2 * (b - a) + a)
        c = chebyshev.chebfit(y, values, nodes - 1)
        tail = np.cumsum(np.abs(c[::-1]))[::-1]
        degree = max(2, int((tail > error).sum()))
        return cls(c[:degree], a, b)

    @property
    def degree(self) -> int:
        return len(self._series[0]) - 1

    def derivative(self, squared: Tensor, order: int) -> Tensor:
        """The derivative of that order; beyond the ends it is that of the polynomial."""
        y = (squared - self.a) * (2 / (self.b - self.a)) - 1
        if self.degree > 16:
            c = self._coefficients(order)
            high, higher = torch.zeros_like(y), torch.zeros_like(y)
            for value in c[:0:-1].tolist():
                high, higher = 2 * y * high - higher + value, high
            return y * high - higher + float(c[0])
        powers = self._constants(order, y)
        total = powers[-1].expand_as(y).clone()
        for value in powers[-2::-1]:
            torch.addcmul(value, total, y, out=total)
        return total

    def add_to(self, total: Tensor, scaled: Tensor, order: int, factor: float) -> Tensor:
        """``total`` plus factor times a derivative, by Horner's rule, at y in [-1, 1]; in place."""
        powers = self._constants(order, scaled, factor)
        value = torch.addcmul(powers[-2], powers[-1], scaled)
        for power in powers[-3::-1]:
            torch.addcmul(power, value, scaled, out=value)
        return total.add_(value)

    def for_kernels(self) -> Float[Tensor, "3 terms"]:
        """The series and its first two derivatives; see :class:`RadialPolynomial`."""
        orders = []
        for order in range(3):
            c = self._coefficients(order)
            c = chebyshev.cheb2poly(c) if self.degree <= 16 else c
            orders.append(torch.from_numpy(np.pad(c, (0, self.degree + 1 - len(c)))))
        return torch.stack(orders)

    def constant(self, value: float, like: Tensor) -> Tensor:
        """A number as a tensor without axes, made once."""
        key = value, like.dtype, like.device
        if key not in self._powers:
            self._powers[key] = (torch.tensor(value, dtype=like.dtype, device=like.device),)
        return self._powers[key][0]

    def _coefficients(self, order: int) -> np.ndarray:
        while len(self._series) <= order:
            slope = chebyshev.chebder(self._series[-1]) * (2 / (self.b - self.a))
            self._series.append(slope)
        return self._series[order]

    def _constants(self, order: int, like: Tensor, factor: float = 1.0) -> Sequence[Tensor]:
        """The coefficients of the powers of the scaled variable, as tensors without axes."""
        key = order, factor, like.dtype, like.device
        if key not in self._powers:
            powers = factor * chebyshev.cheb2poly(self._coefficients(order))
            self._powers[key] = torch.from_numpy(powers).to(like).unbind()
        return self._powers[key]


class ShortRange:
    r""":math:`K_S(r) = r^{-p} - K_L(r)` inside of the cutoff, zero outside, as a function of r².

    :math:`K_L` is replaced by a polynomial in :math:`r^2` that agrees with :math:`r^{-p}` in value
    and slope at the cutoff, so that :math:`K_S` is continuously differentiable to rounding.
    """

    def __init__(self, gaussians: GaussianSum, error: float) -> None:
        self.cutoff, exponent = gaussians.cutoff, gaussians.exponent
        self.power = InversePower(exponent)
        end = self.cutoff**2
        smooth = ChebyshevSeries.fitted(
            lambda s: np.exp(-np.outer(s, gaussians.t**2)) @ gaussians.w,
            0.0,
            end,
            error * self.cutoff**-exponent,
        )
        c = smooth._series[0].copy()
        value = chebyshev.chebval(1.0, c)
        slope = chebyshev.chebval(1.0, chebyshev.chebder(c))
        wanted, wanted_slope = end ** (-exponent / 2), -exponent / 4 * end ** (-exponent / 2)
        c[1] += wanted_slope - slope
        c[0] += (wanted - value) - (wanted_slope - slope)
        self.smooth = ChebyshevSeries(c, 0.0, end)
        series = self.smooth.for_kernels()
        self.for_kernels = RadialPolynomial(exponent, 1.0, 0.0, -1.0, end, series)

    def derivative(self, squared: Tensor, order: int) -> Tensor:
        inside = squared.clamp(max=self.cutoff**2)
        value = self.power.derivative(inside, order) - self.smooth.derivative(inside, order)
        # Value and slope vanish at the cutoff by themselves; higher derivatives jump there.
        return value if order < 2 else value * (squared < self.cutoff**2)

    def value_and_slope(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        inside = squared.clamp_(max=self.cutoff**2)
        value, slope = self.power.value_and_slope(inside)
        minus_one = self.smooth.constant(-1.0, inside)
        scaled = torch.add(minus_one, inside, alpha=2 / self.cutoff**2, out=inside)
        self.smooth.add_to(value, scaled, 0, -1.0)
        self.smooth.add_to(slope, scaled, 1, -2.0)
        return value, slope


class LongRange:
    """The long-range part as a function of r²: what the short-range part leaves of the kernel."""

    def __init__(self, short: ShortRange) -> None:
        self.short = short
        self.for_kernels = replace(short.for_kernels, inside=0.0, outside=1.0, factor=1.0)

    def derivative(self, squared: Tensor, order: int) -> Tensor:
        return self.short.power.derivative(squared, order) - self.short.derivative(squared, order)

    def value_and_slope(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        return self.derivative(squared, 0), 2 * self.derivative(squared, 1)


class Splitting:
    r""":math:`r^{-p} = K_S(r) + K_L(r)` with everything the potentials want to know of both.

    Args:
        gaussians: the long-range part.
        error: of the approximations made here, relative to the kernel at the cutoff.
    """

    def __init__(self, gaussians: GaussianSum, error: float) -> None:
        self.gaussians, self.error = gaussians, error
        self.cutoff, self.exponent = float(gaussians.cutoff), float(gaussians.exponent)
        order = np.argsort(gaussians.t)
        self.t = np.asarray(gaussians.t, dtype=np.float64)[order]
        self.w = np.asarray(gaussians.w, dtype=np.float64)[order]
        self.short = ShortRange(gaussians, 0.002 * error)
        self.self_value = float(self.w.sum())
        """:math:`K_L(0)`: what the sum over all pairs counts for each charge with itself."""
        r, weights = np.polynomial.legendre.leggauss(160)
        r, weights = (r + 1) / 2 * self.cutoff, weights * self.cutoff / 2
        self._r = r
        short = r**-self.exponent - np.exp(-np.outer(r**2, self.t**2)) @ self.w
        self._shell = 4 * np.pi * weights * r**2 * short

    @property
    def short_volume(self) -> float:
        r""":math:`\hat K_S(0) = \int K_S\, d^3r` where a neutralising background needs it, or 0.

        Powers above 3 have a mean of their own: their sum converges without a background.
        """
        return float(self._shell.sum()) if self.exponent < 3 else 0.0

    def transform(self, squared: np.ndarray) -> np.ndarray:
        r""":math:`\hat K_L(k)` as a function of :math:`k^2 > 0`.

        For :math:`1/r` it is :math:`4\pi/k^2 - \hat K_S(k)`, the exact complement of the compact
        short-range part; other powers have the sum of the Gaussians.
        """
        if self.exponent == 1:
            k = np.sqrt(squared)
            return 4 * np.pi / squared - np.sinc(np.outer(k, self._r) / np.pi) @ self._shell
        return self.gaussian_transform(squared)

    def gaussian_transform(self, squared: np.ndarray) -> np.ndarray:
        """The transform of the sum of Gaussians as a function of the squared wave number."""
        t2 = self.t**2
        return np.exp(-np.outer(squared, 0.25 / t2)) @ (self.w * (np.pi / t2) ** 1.5)

    @cached_property
    def _short_transform(self) -> ChebyshevSeries:
        top = (1.05 * self.bandwidth) ** 2
        return ChebyshevSeries.fitted(
            lambda s: np.sinc(np.outer(np.sqrt(s), self._r) / np.pi) @ self._shell,
            0.0,
            top,
            1e-13 * abs(float(self._shell.sum())),
        )

    def long_transform(self, squared: Tensor) -> Tensor:
        """:meth:`transform` of a tensor of positive entries, differentiable to any order."""
        if self.exponent == 1:
            return 4 * math.pi / squared - radial(squared, self._short_transform)
        total = torch.zeros_like(squared)
        for t, w in zip(self.t.tolist(), self.w.tolist(), strict=True):
            total = total + w * (math.pi / t**2) ** 1.5 * torch.exp(squared * (-0.25 / t**2))
        return total

    @cached_property
    def bandwidth(self) -> float:
        """Waves longer than this (1/Angstrom) are left out."""
        k = np.linspace(0.5, 60, 2400) / self.cutoff
        error = _truncation(self, k)
        wanted = np.flatnonzero(error < self.error)
        return float(k[wanted[0]] if len(wanted) else k[-1])


# A disordered ionic melt, in units of the cutoff: charges in a volume of cutoff^3, and the root
# mean square of the force on one of them; 0.1 ions in a cubic Angstrom and a cutoff of 6 Angstrom.
DENSITY, FORCE = 20.0, 30.0


def _truncation(splitting: Splitting, k: np.ndarray) -> np.ndarray:
    """Expected relative error of the forces if waves above each k are left out.

    Random charges scatter waves incoherently, so the squares of the missing forces add up. The
    spectrum is that of the Gaussians: what the exact transform adds to it at large k, because
    the short-range part has a kink in its curvature, is as small as the splitting error.
    """
    rc = splitting.cutoff
    spectrum = (k**2 * splitting.gaussian_transform(k**2)) ** 2 / (2 * np.pi**2)
    tail = np.cumsum((spectrum * np.gradient(k))[::-1])[::-1] * DENSITY / rc**3
    return np.sqrt(tail) / (FORCE * rc ** (-1 - splitting.exponent))
