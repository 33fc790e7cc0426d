r"""Associated Legendre functions of any degree, normalised for real spherical harmonics."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError


def normalized_legendre(
    l_max: int, cosines: Float[Tensor, " points"], sines: Float[Tensor, " points"]
) -> Float[Tensor, "l m points"]:
    r"""Polar parts of the real spherical harmonics, :math:`0 \le m \le l \le l_\text{max}`.

    .. math::
        \bar P_{00} = \frac{1}{\sqrt{4\pi}}, \quad
        \bar P_{mm} = \sqrt{\tfrac{2m+1}{2m}}\, \sin\theta\, \bar P_{m-1,m-1}, \quad
        \bar P_{lm} = \sqrt{\tfrac{4l^2-1}{l^2-m^2}} \Big( \cos\theta\, \bar P_{l-1,m} -
        \sqrt{\tfrac{(l-1)^2-m^2}{4(l-1)^2-1}}\, \bar P_{l-2,m} \Big)

    so that :math:`Y_{l,\pm m} = \sqrt 2\, \bar P_{lm}(\theta) \cos m\varphi` or :math:`\sin
    m\varphi` (without the root for :math:`m = 0`) have unit norm on the sphere. No Condon-Shortley
    phase. The recurrence runs upwards in the degree, the stable direction: errors stay near
    1e-15 at every degree that fits in memory.

    The sine may be negative: with :math:`\theta` running over a full turn the functions live on a
    torus that covers the sphere twice, which is what a Fourier series in both angles needs.

    Args:
        l_max: highest degree.
        cosines: :math:`\cos\theta`, float64.
        sines: :math:`\sin\theta` with its sign, float64.

    Returns:
        Float64; 0 where ``m > l``.

    Raises:
        EquivError: ``l_max`` is negative.
    """
    if l_max < 0:
        raise EquivError(f"normalized_legendre: l_max cannot be negative, got {l_max}")
    p = torch.zeros(l_max + 1, l_max + 1, len(cosines), dtype=torch.float64)
    p[0, 0] = math.sqrt(0.25 / math.pi)
    for m in range(1, l_max + 1):
        p[m, m] = math.sqrt((2 * m + 1) / (2 * m)) * sines * p[m - 1, m - 1]
    for l in range(1, l_max + 1):
        for m in range(l):
            below = cosines * p[l - 1, m]
            if l - 2 >= m:
                below = (
                    below - math.sqrt(((l - 1) ** 2 - m**2) / (4 * (l - 1) ** 2 - 1)) * p[l - 2, m]
                )
            p[l, m] = math.sqrt((4 * l**2 - 1) / (l**2 - m**2)) * below
    return p


def azimuthal_waves(l_max: int, azimuths: Float[Tensor, " points"]) -> Float[Tensor, "m points"]:
    r"""Azimuthal parts of the real spherical harmonics, from m = -l_max to l_max.

    .. math::
        \sqrt 2 \sin |m|\varphi \;\; (m < 0), \qquad 1 \;\; (m = 0), \qquad
        \sqrt 2 \cos m\varphi \;\; (m > 0)
    """
    m = torch.arange(1, l_max + 1, dtype=torch.float64)[:, None] * azimuths
    one = torch.ones(1, len(azimuths), dtype=torch.float64)
    return torch.cat([math.sqrt(2) * m.flip(0).sin(), one, math.sqrt(2) * m.cos()])
