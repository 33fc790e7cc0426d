r"""The product of signals on the sphere and of their gradients: even and odd couplings."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from equiv.so3.gaunt import gaunt_coefficient
from equiv.so3.grids import SphereGrid, lebedev_grid, product_grid
from equiv.so3.recoupling import standard_3j
from equiv.tensor_products.gaunt import degree_of
from equiv.tensor_products.odd_couplings import OddCouplingTensorProduct
from equiv.tensor_products.pointwise import PointwiseProduct
from equiv.tensor_products.signals import MirroredSignalProduct, SignalProduct


class VectorSignalTensorProduct(OddCouplingTensorProduct):
    r"""Gaunt product for the even couplings, Poisson bracket for the odd ones, on one grid.

    .. math::
        z^\text{even}_{lm} = \int Y_{lm}\, f\, g\; d\Omega, \qquad
        z^\text{odd}_{lm} = \sqrt2 \int Y_{lm}\;
        \hat r \cdot (\nabla \tilde f \times \nabla \tilde g)\; d\Omega

        f = \sum_{lm} x_{lm} Y_{lm}, \qquad
        \tilde f = \sum_{l > 0, m} \frac{x_{lm}}{\sqrt{l(l+1)}}\, Y_{lm}

    and :math:`g`, :math:`\tilde g` likewise of :math:`y`. The product of two scalar signals misses
    every coupling with odd :math:`l_1 + l_2 + l_3`; the bracket of their gradients is
    antisymmetric, turns like a pseudoscalar signal, and has all of them. With :math:`Y` of unit
    norm and in the phases of :func:`equiv.so3.wigner_3j` every allowed coupling has a strictly
    positive factor,

    .. math::
        \rho = \sqrt{\frac{(2l_1+1)(2l_2+1)(2l_3+1)}{4\pi}} \begin{cases}
        \left| \begin{pmatrix} l_1 & l_2 & l_3 \\ 0 & 0 & 0 \end{pmatrix} \right|
        & l_1 + l_2 + l_3 \text{ even} \\
        \sqrt2 \left| \begin{pmatrix} l_1 & l_2 & l_3 \\ 1 & -1 & 0 \end{pmatrix} \right|
        & l_1 + l_2 + l_3 \text{ odd} . \end{cases}

    The roots of :math:`l(l+1)` give every degree the same weight and the :math:`\sqrt2` gives odd
    couplings that of even ones. For two inputs of natural parity the even couplings are the outputs
    of natural parity and the odd ones those of pseudo parity. If both parities come in, the two
    products are taken of the sums of both parities and of their mirror images: four pointwise
    products, whatever the parities.

    In general signals may take values in irreps of degree :math:`s`: :math:`x` enters through the
    tensor harmonics :math:`Y^{l_1 s_1}_{j_1}` (:mod:`equiv.so3.tensor_harmonics`), :math:`y`
    through :math:`Y^{l_2 s_2}_{j_2}`, values are coupled point by point to :math:`s_3`, and
    :func:`equiv.so3.tensor_harmonics.generalized_gaunt` is the factor of the coupling
    :math:`(j_1, j_2, j_3)`. Any of :math:`(s_1, s_2, s_3)` = (0, 1, 1), (1, 1, 0) and (1, 1, 1)
    reaches all odd couplings. The bracket is a case of (1, 1, 0) that needs the fewest fields: it
    is :math:`-\nabla \tilde f \cdot (\hat r \times \nabla \tilde g)`, a gradient
    (:math:`l_1 = j_1 \pm 1`) times a field without divergence (:math:`l_2 = j_2`). (Xie et al. 2025
    and 2026.)

    The grid is the smallest that is exact for the degree :math:`L_1 + L_2 + L_3`. Cost per row and
    channel, with :math:`G \approx \tfrac13 (L_1 + L_2 + L_3 + 1)^2` points: :math:`3 G` times the
    number of components of each input, :math:`G` times that of each parity of the output.

    Args:
        irreps_in1: see :class:`SphericalTensorProduct`.
        irreps_in2: see :class:`SphericalTensorProduct`.
        irreps_out: see :class:`SphericalTensorProduct`.
        mode: see :class:`SphericalTensorProduct`.
        weighted: see :class:`SphericalTensorProduct`.
        rank: see :class:`SphericalTensorProduct`.
        internal_weights: see :class:`SphericalTensorProduct`.

    Raises:
        EquivError: as :class:`SphericalTensorProduct`.
    """

    def kernel_of(self, scales: Sequence[dict[int, Float[Tensor, " lm"]]]) -> PointwiseProduct:
        degree = sum(max(map(degree_of, some.values())) for some in scales)
        one_parity_each = len(scales[0]) == len(scales[1]) == 1
        kind = SignalProduct if one_parity_each else MirroredSignalProduct
        return kind(_smallest_grid(degree), scales)

    def coupling(self, l1: int, l2: int, l3: int) -> float:
        if (l1 + l2 + l3) % 2 == 0:
            return gaunt_coefficient(l1, l2, l3)
        dims = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
        return math.sqrt(dims / (2 * math.pi)) * abs(standard_3j(l1, l2, l3, 1, -1))


def _smallest_grid(degree: int) -> SphereGrid:
    """The fewest points with positive weights."""
    lebedev = [lebedev_grid(n) for n in (degree, degree + 2) if n <= 131]
    grids = [product_grid(degree), *(grid for grid in lebedev if grid.weights.min() > 0)]
    return min(grids, key=len)
