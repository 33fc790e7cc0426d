r"""Integrals of three real spherical harmonics."""

import functools
import math
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3.coupling import wigner_3j


@functools.cache
def gaunt_coefficient(l1: int, l2: int, l3: int) -> float:
    r"""The factor :math:`r` between the integral of three spherical harmonics and their coupling.

    .. math::
        \int Y_{l_1 m_1} Y_{l_2 m_2} Y_{l_3 m_3}\, d\Omega = r\, w_{m_1 m_2 m_3}, \qquad
        r = \sqrt{\frac{(2l_1+1)(2l_2+1)(2l_3+1)}{4\pi}}
        \left| \begin{pmatrix} l_1 & l_2 & l_3 \\ 0 & 0 & 0 \end{pmatrix} \right|

    The :math:`Y` have unit norm (``normalization="integral"``), :math:`w` is
    :func:`equiv.so3.wigner_3j`, the bracket Wigner's 3j symbol. In the phases of e3nn :math:`r` is
    never negative: it is positive if :math:`l_1 + l_2 + l_3` is even and the degrees form a
    triangle, 0 otherwise. Racah's closed form of the symbol is evaluated in exact rational
    arithmetic up to the final square root. (Gaunt 1929.)
    """
    total = l1 + l2 + l3
    if total % 2 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return 0.0
    f, g = math.factorial, total // 2
    symbol = Fraction(f(total - 2 * l1) * f(total - 2 * l2) * f(total - 2 * l3), f(total + 1))
    symbol *= Fraction(f(g), f(g - l1) * f(g - l2) * f(g - l3)) ** 2
    dims = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
    return math.sqrt(symbol * dims) / math.sqrt(4 * math.pi)


def gaunt_coefficients(l_max1: int, l_max2: int, l_max3: int) -> Float[Tensor, "lm1 lm2 lm3"]:
    r"""All integrals :math:`G_{ijk} = \int Y_i Y_j Y_k\, d\Omega` of three ranges of degrees.

    Components in the order of a spherical tensor, :math:`i = l^2 + l + m`. Built degree by degree
    from :func:`gaunt_coefficient` and :func:`equiv.so3.wigner_3j`, without any integration.

    Returns:
        A new float64 tensor of shape ``[(l_max1 + 1)**2, (l_max2 + 1)**2, (l_max3 + 1)**2]``.
    """
    out = torch.zeros(*((l + 1) ** 2 for l in (l_max1, l_max2, l_max3)), dtype=torch.float64)
    for l1 in range(l_max1 + 1):
        for l2 in range(l_max2 + 1):
            for l3 in range(abs(l1 - l2), min(l1 + l2, l_max3) + 1, 2):
                i, j, k = (slice(l**2, (l + 1) ** 2) for l in (l1, l2, l3))
                out[i, j, k] = gaunt_coefficient(l1, l2, l3) * wigner_3j(l1, l2, l3)
    return out
