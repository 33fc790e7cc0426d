r"""Many-body products of signals on the sphere: all powers on one exact grid."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3.grids import SphereGrid, lebedev_grid, product_grid
from equiv.tensor_products.lanes import is_plain
from equiv.tensor_products.moments import power_covariance
from equiv.tensor_products.powers import PowerProduct, columns, degree_scales, from_columns
from equiv.tensor_products.powers_form import PowersForm


class GauntManyBodyProduct(PowerProduct):
    r"""Powers of the signal on the sphere whose coefficients are the features.

    .. math::
        y_{lm,c} = w_{1,z,l,c}\, x_{lm,c} + \sum_{\nu=2}^{\nu_\text{max}} w_{\nu,z,l,c}\,
        \gamma_{\nu l} \int Y_{lm}(r)\, f_c(r)^\nu\, d\Omega, \qquad
        f_c(r) = \sum_{lm} \alpha_l\, x_{lm,c}\, Y_{lm}(r), \quad
        \alpha_l^2 = \frac{4\pi}{(2l+1)(L+1)}

    This is the :math:`\nu`-fold Gaunt tensor product of the features with themselves. :math:`f^\nu`
    is a polynomial of degree :math:`\nu L` on the sphere, so the integral is a finite sum over the
    points of one grid that is exact to degree :math:`\nu_\text{max} L + L_\text{out}`: the features
    are evaluated once, powers are taken point by point, and only the degrees wanted are projected
    back. Nothing is truncated, and the result is the same as that of pairwise products which keep
    every degree in between.

    :math:`\alpha` gives every degree an equal part in :math:`f`, whose mean square is then 1 for
    standard normal features; :math:`\gamma` gives every term mean square 1. By the Funk-Hecke
    formula

    .. math::
        \gamma_{\nu l}^{-2} = 2\pi \int_{-1}^1 P_l(t)\, \kappa_\nu\Big( \frac{1}{L+1}
        \sum_{l'} P_{l'}(t) \Big)\, dt

    with the covariance :math:`\kappa_\nu` of the powers of two normal variables
    (:func:`equiv.tensor_products.moments.power_covariance`).

    Only even couplings enter (:math:`l_1 + l_2 + l_3` even at every step), with weights of rank
    one, one for each power and output degree: fewer maps than the couplings that
    :class:`ManyBodyProduct` weighs one by one, at a cost that grows more slowly. (Luo et al. 2024;
    on a grid Xie et al. 2025.)

    Cost per atom and channel in multiply-adds, with :math:`G \approx \tfrac13 (\nu_\text{max} L +
    L_\text{out} + 1)^2` points: :math:`G\,(L+1)^2 + (\nu_\text{max} - 1)\, G\, (L_\text{out}+1)^2`.

    Args:
        degree_in: :math:`L`, highest degree of the input.
        degree_out: :math:`L_\text{out}`, highest degree of the output, at most ``degree_in``.
        channels: number of channels.
        correlation: :math:`\nu_\text{max}`, 1 to 4.
        num_elements: number of chemical elements.

    Raises:
        EquivError: an argument is out of range.
    """

    def __init__(
        self, degree_in: int, degree_out: int, channels: int, *, correlation: int, num_elements: int
    ) -> None:
        super().__init__(
            degree_in,
            degree_out,
            channels,
            correlation=correlation,
            num_elements=num_elements,
            terms=correlation,
        )
        self.grid = smallest_grid(correlation * degree_in + degree_out)
        signal = self.grid.harmonics(degree_in) * degree_scales(signal_scales(degree_in), degree_in)
        self.register_constant("signal", signal)
        self.signal: Tensor
        back = self.grid.harmonics(degree_out).T * self.grid.weights
        scales = [
            degree_scales(power_scales(degree_in, degree_out, power), degree_out)
            for power in range(2, correlation + 1)
        ]
        for power, scale in enumerate(scales, start=2):
            self.register_constant(f"projection_{power}", scale[:, None] * back)
        alpha = degree_scales(signal_scales(degree_in), degree_in)
        self._form = PowersForm(self.grid, alpha, scales, channels) if scales else None

    def powers(
        self, x: Float[Tensor, "atoms lm channels"]
    ) -> list[Float[Tensor, "atoms lm_out channels"]]:
        form = self._form
        if form is None:
            return []
        if is_plain(x) and form.available(x.dtype):
            return list(form(x, self._stacked).unbind(1))
        return self._plain(x)

    def _stacked(self, x: Tensor) -> Float[Tensor, "atoms powers lm_out channels"]:
        return torch.stack(self._plain(x), dim=1)

    def _plain(self, x: Tensor) -> list[Float[Tensor, "atoms lm_out channels"]]:
        """The powers in operations of torch."""
        f = self.signal @ columns(x)
        terms, power = [], f
        for order in range(2, self.correlation + 1):
            power = power * f
            terms.append(from_columns(getattr(self, f"projection_{order}") @ power, x))
        return terms


def smallest_grid(degree: int) -> SphereGrid:
    """The exact grid with the fewest points; all weights are positive."""
    lebedev = [lebedev_grid(n) for n in (degree, degree + 2) if n <= 131]
    positive = [grid for grid in lebedev if grid.weights.min() > 0]
    return min([product_grid(degree), *positive], key=len)


def signal_scales(degree: int) -> list[float]:
    r""":math:`\alpha_l` of :class:`GauntManyBodyProduct`."""
    return [math.sqrt(4 * math.pi / ((2 * l + 1) * (degree + 1))) for l in range(degree + 1)]


def power_scales(degree_in: int, degree_out: int, power: int) -> list[float]:
    r""":math:`\gamma_{\nu l}` of :class:`GauntManyBodyProduct`, for each output degree."""
    nodes, weights = np.polynomial.legendre.leggauss((power * degree_in + degree_out) // 2 + 1)
    t, w = torch.from_numpy(nodes), torch.from_numpy(weights)
    polynomials = [
        torch.from_numpy(np.polynomial.Legendre.basis(l)(nodes))
        for l in range(max(degree_in, degree_out) + 1)
    ]
    correlation = sum(polynomials[: degree_in + 1], torch.zeros_like(t)) / (degree_in + 1)
    covariance = power_covariance(power, correlation)
    squares = [
        2 * math.pi * (w * polynomials[l] * covariance).sum().item() for l in range(degree_out + 1)
    ]
    return [1 / math.sqrt(square) for square in squares]
