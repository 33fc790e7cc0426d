r"""The same many-body product as on the grid, through Fourier series on a torus."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3.legendre import azimuthal_waves, normalized_legendre
from equiv.tensor_products.many_body_grid import power_scales, signal_scales
from equiv.tensor_products.powers import PowerProduct, degree_scales


class GauntFourierManyBodyProduct(PowerProduct):
    r"""The map of :class:`GauntManyBodyProduct`, with the same weights, by fast Fourier transforms.

    .. math::
        f(\theta, \varphi) = \sum_{|u|, |v| \le L} c_{uv}\, e^{i(u\theta + v\varphi)}, \qquad
        c_{uv} = \sum_{lm} \alpha_l\, x_{lm}\, y^{lm}_{uv}

        \int Y_{lm} f^\nu\, d\Omega = \sum_{uv} \hat c_{uv}\, Z^{uv}_{lm}, \qquad
        Z^{uv}_{lm} = 2\pi \sum_b y^{lm}_{b,-v}\, I(u + b), \quad
        I(n) = \int_0^\pi e^{i n \theta} \sin\theta\, d\theta

    With :math:`\theta` running over a full turn the sphere is covered twice by a torus, on which
    spherical harmonics are finite Fourier series with coefficients :math:`y^{lm}_{uv}`. The series
    is padded with zeros, transformed, raised to powers point by point and transformed back
    (:math:`\hat c`); the coefficients of :math:`Y_{lm}` follow from :math:`Z`. The torus needs
    :math:`2 \nu_\text{max} L + 1` points in :math:`\theta` and :math:`\nu_\text{max} L +
    L_\text{out} + 1` in :math:`\varphi`, about six times as many as a grid on the sphere.

    This is the algorithm of Luo et al. 2024 with real instead of complex transforms. It is here for
    comparison: :class:`GauntManyBodyProduct` gives the same numbers faster.

    Args:
        degree_in: see :class:`GauntManyBodyProduct`.
        degree_out: see :class:`GauntManyBodyProduct`.
        channels: number of channels.
        correlation: see :class:`GauntManyBodyProduct`.
        num_elements: number of chemical elements.

    Raises:
        EquivError: as :class:`GauntManyBodyProduct`.
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
        reach = correlation * degree_in
        self.shape = fast_length(2 * reach + 1), fast_length(reach + degree_out + 1)
        series = torus_coefficients(degree_in)[:, degree_in:]  # v >= 0, the rest is conjugate
        series = series * degree_scales(signal_scales(degree_in), degree_in)
        self.register_constant("series", torch.view_as_real(series).movedim(-1, 0).flatten(1, 2))
        self.series: Tensor
        for power in range(2, correlation + 1):
            back = sphere_integrals(degree_out, power * degree_in)
            back = back * degree_scales(power_scales(degree_in, degree_out, power), degree_out)
            # Re(c Z) = Re c Re Z - Im c Im Z; both signs of v, and the mean of the transform.
            back[:, 1:] *= 2
            back = torch.view_as_real(back.conj() / math.prod(self.shape)).movedim(-1, 0)
            self.register_constant(f"back_{power}", back.flatten(0, 2))

    def powers(
        self, x: Float[Tensor, "atoms lm channels"]
    ) -> list[Float[Tensor, "atoms lm_out channels"]]:
        if self.correlation == 1:
            return []
        if not x.numel():  # transforms refuse empty arrays
            return [x[:, : (self.degree_out + 1) ** 2]] * (self.correlation - 1)
        l, (rings, steps) = self.degree_in, self.shape
        real, imaginary = (x.mT.unsqueeze(0) @ self.series.mT.unsqueeze(1)).unbind()
        c = torch.complex(real, imaginary).unflatten(-1, (2 * l + 1, l + 1))
        # u = -l ... l in the order of the transform: 0 ... l, zeros, -l ... -1
        zeros = c.new_zeros(*c.shape[:2], rings - 2 * l - 1, l + 1)
        c = torch.cat([c[:, :, l:], zeros, c[:, :, :l]], dim=2)
        f = torch.fft.irfft2(c, s=(rings, steps), norm="forward")
        terms, power = [], f
        for order in range(2, self.correlation + 1):
            power = power * f
            c = torch.fft.rfft2(power)[..., : self.degree_out + 1]
            n = order * l
            c = torch.cat([c[:, :, rings - n :], c[:, :, : n + 1]], dim=2).flatten(2)
            parts = torch.cat([c.real, c.imag], dim=-1)
            terms.append((parts @ getattr(self, f"back_{order}")).mT)
        return terms


def torus_coefficients(degree: int) -> Float[Tensor, "u v lm"]:
    r"""Fourier coefficients :math:`y^{lm}_{uv}` of the harmonics, :math:`-L \le u, v \le L`.

    .. math::
        Y_{lm}(\theta, \varphi) = \sum_{uv} y^{lm}_{uv}\, e^{i(u\theta + v\varphi)}

    From :math:`(2L+1)^2` samples on the torus, which determine a series of that length exactly.
    Complex128; ``Y`` of unit norm.
    """
    n = 2 * degree + 1
    angles = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    p = normalized_legendre(degree, angles.cos(), angles.sin())  # [l, m, theta]
    waves = azimuthal_waves(degree, angles)  # [m, phi]
    samples = torch.stack(
        [
            p[l, abs(m)][:, None] * waves[degree + m]
            for l in range(degree + 1)
            for m in range(-l, l + 1)
        ]
    )
    c = torch.fft.fftshift(torch.fft.fft2(samples) / n**2, dim=(1, 2))
    return c.permute(1, 2, 0)


def sphere_integrals(degree: int, reach: int) -> Float[Tensor, "u v lm"]:
    r"""The integrals :math:`Z^{uv}_{lm}` of :class:`GauntFourierManyBodyProduct`.

    For :math:`-\texttt{reach} \le u \le \texttt{reach}` and :math:`0 \le v \le L`; complex128.
    """
    y = torus_coefficients(degree)
    b = torch.arange(-degree, degree + 1)
    u = torch.arange(-reach, reach + 1)
    return (
        2
        * math.pi
        * torch.einsum("ub,bvk->uvk", _sine_moments(u[:, None] + b), y.flip(1)[:, degree:])
    )


def _sine_moments(n: Tensor) -> Tensor:
    """Integral of exp(i n theta) sin(theta) over 0 to pi."""
    even = torch.where(
        n % 2 == 0, 2.0 / (1.0 - n.double() ** 2).masked_fill(n.abs() == 1, 1.0), 0.0
    )
    odd = torch.where(n.abs() == 1, n.double() * math.pi / 2, 0.0)
    return torch.complex(even, odd)


def fast_length(least: int) -> int:
    """The next length whose prime factors are 2, 3 and 5."""
    n = least
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
