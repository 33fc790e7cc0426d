r"""The Gaunt product: multiplication of functions on the sphere."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.so3 import gaunt_coefficient
from equiv.tensor_products.pointwise import PointwiseProduct
from equiv.tensor_products.sectors import SIGNS, Stacks, stack
from equiv.tensor_products.spherical import SphericalTensorProduct


class GauntTensorProduct(SphericalTensorProduct):
    r"""Spherical tensors as coefficients of functions, whose values are multiplied.

    .. math::
        f = \sum_i x_i Y_i, \quad h = \sum_j y_j Y_j, \qquad
        z_k = \int Y_k\, f\, h\, d\Omega = \sum_{ij} G_{ijk}\, x_i\, y_j

    up to the factors that keep unit variance (:class:`SphericalTensorProduct`, which explains all
    arguments). :math:`G` is the Gaunt coefficient, in each path a positive multiple
    (:func:`equiv.so3.gaunt_coefficient`) of the Clebsch-Gordan coupling if :math:`l_1 + l_2 + l_3`
    is even, and 0 if it is odd. So natural tensors only ever make natural ones, pseudo times pseudo
    is natural, natural times pseudo is pseudo: a network of natural tensors stays
    :math:`O(3)`-equivariant without any labels, and never sees a pseudovector.

    Subclasses differ in how the functions are multiplied, not in what comes out. (Luo, Chen and
    Krishnapriyan 2024, arXiv:2401.10216.)
    """

    def coupling(self, l1: int, l2: int, l3: int) -> float:
        return gaunt_coefficient(l1, l2, l3)

    @abstractmethod
    def kernel(
        self,
        scale1: Float[Tensor, " lm1"],
        scale2: Float[Tensor, " lm2"],
        scale: Float[Tensor, " lm"],
    ) -> PointwiseProduct:
        r""":math:`z_k = \gamma_k \sum_{ij} G_{ijk} (\alpha_i x_i) (\beta_j y_j)` of single stacks.

        The degrees follow from the lengths of the scales.
        """
        raise NotImplementedError

    def build(self) -> None:
        self._wanted = [
            (sign1, sign2)
            for sign1 in SIGNS
            for sign2 in SIGNS
            if self.sectors1.degrees(sign1)
            and self.sectors2.degrees(sign2)
            and self.sectors.degrees(sign1 * sign2)
        ]
        self.kernels = nn.ModuleDict()
        for sign1, sign2 in self._wanted:
            scales = self.scale1(sign1), self.scale2(sign2), self.scale(sign1 * sign2)
            self.kernels[_name(sign1, sign2)] = self.kernel(*scales)

    def couple(self, x1: Stacks, x2: Stacks) -> Stacks:
        out: dict[int, Tensor] = {}
        for sign1, sign2 in self._wanted:
            a, b = stack(x1, sign1), stack(x2, sign2)
            kernel: Any = self.kernels[_name(sign1, sign2)]
            term = kernel(a, b)
            sign = sign1 * sign2
            out[sign] = out[sign] + term if sign in out else term
        natural, pseudo = (out.get(sign) for sign in SIGNS)
        return natural, pseudo


def _name(sign1: int, sign2: int) -> str:
    names = {1: "natural", -1: "pseudo"}
    return f"{names[sign1]}_{names[sign2]}"


def degree_of(scale: Float[Tensor, " lm"]) -> int:
    """Highest degree of a stack with so many components."""
    return round(len(scale) ** 0.5) - 1


def scaled_harmonics(
    harmonics: Float[Tensor, "points lm"], scale: Float[Tensor, " lm"]
) -> Float[Tensor, "points lm"]:
    """Values at points of a function with coefficients ``scale * x``."""
    return harmonics * scale.to(torch.float64)
