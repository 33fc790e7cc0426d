r"""Second moments of polynomials of Gaussian variables, in closed form."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError

_MAX_ELEMENTS = 2**27  # 1 GiB of float64


def polynomial_moment(coefficients: Float[Tensor, "..."]) -> float:
    r"""Mean square of a homogeneous polynomial of independent standard normal variables.

    .. math::
        \Big\langle \Big( \sum_{i_1 \dots i_\nu} T_{i_1 \dots i_\nu} x_{i_1} \cdots x_{i_\nu}
        \Big)^2 \Big\rangle = \sum_{k=0}^{\lfloor \nu/2 \rfloor} (\nu - 2k)! \left(
        \frac{\nu!}{2^k\, k!\, (\nu - 2k)!} \right)^2 \big\| \operatorname{tr}^k \bar T \big\|^2

    :math:`\bar T` is the symmetric part of :math:`T` and :math:`\operatorname{tr}^k` its trace over
    :math:`k` pairs of axes: the expansion in Hermite polynomials, which are orthogonal.

    Raises:
        EquivError: more than 1 GiB of coefficients.
    """
    order = coefficients.dim()
    if coefficients.numel() > _MAX_ELEMENTS:
        raise EquivError(
            f"the variance of a polynomial with {coefficients.numel()} coefficients cannot be "
            "computed in memory; lower the degree of the input or the correlation"
        )
    permutations = list(itertools.permutations(range(order)))
    t = sum((coefficients.permute(p) for p in permutations), torch.zeros_like(coefficients))
    t = t / len(permutations)
    total = 0.0
    for k in range(order // 2 + 1):
        pairings = math.factorial(order) / (
            2**k * math.factorial(k) * math.factorial(order - 2 * k)
        )
        total += math.factorial(order - 2 * k) * pairings**2 * t.square().sum().item()
        t = t.diagonal(dim1=0, dim2=1).sum(-1) if t.dim() >= 2 else t
    return total


def power_covariance(order: int, correlation: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Covariance of the powers of two standard normal variables.

    .. math::
        \langle u^\nu v^\nu \rangle = \sum_{j \equiv \nu \,(2)} j! \left( \binom{\nu}{j}
        (\nu - j - 1)!! \right)^2 \rho^j, \qquad \langle u v \rangle = \rho

    Args:
        order: :math:`\nu`.
        correlation: :math:`\rho`.
    """
    total = torch.zeros_like(correlation)
    for j in range(order % 2, order + 1, 2):
        odd_factorial = math.prod(range(order - j - 1, 0, -2))
        total = total + (
            math.factorial(j) * (math.comb(order, j) * odd_factorial) ** 2 * correlation**j
        )
    return total
