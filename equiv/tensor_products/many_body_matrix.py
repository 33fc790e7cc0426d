r"""Many-body products as powers of matrices."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3 import wigner_3j
from equiv.tensor_products.moments import polynomial_moment
from equiv.tensor_products.powers import PowerProduct, columns, degree_scales, from_columns


class MatrixManyBodyProduct(PowerProduct):
    r"""Powers of the matrix whose coefficients are the features.

    .. math::
        y_{lm,c} = w_{1,z,l,c}\, x_{lm,c} + \sum_{\nu=2}^{\nu_\text{max}} w_{\nu,z,l,c}\,
        \gamma_{\nu l} \sum_{ab} E^l_{ab,m} (X_c^\nu)_{ab}, \qquad
        X_c = \sum_{lm} \alpha_l\, x_{lm,c}\, E^l_m

    with :math:`E^l_{ab,m} = \sqrt{2l+1}\, w^{(s\,s\,l)}_{abm}` as in
    :class:`equiv.tensor_products.matrix.MatrixTensorProduct`, where the matrices act on the irrep
    of degree :math:`s = \lceil L/2 \rceil`. A matrix commutes with its powers, so every power is
    half an anticommutator and has natural parity: one product of matrices for each order, of
    unchanged size. Matrices hold degrees up to :math:`2s`; what a product has above is cut off, and
    that is part of the definition.

    :math:`\alpha_l^2 = 1 / (2l+1)` gives every degree an equal part; :math:`\gamma` gives every
    term mean square 1 for standard normal features
    (:func:`equiv.tensor_products.moments.polynomial_moment`).

    Cost per atom and channel in multiply-adds: :math:`(2s+1)^2 (L+1)^2` for the matrix and, for
    each further order, :math:`(2s+1)^3` for the product and :math:`(2s+1)^2 (L_\text{out}+1)^2` for
    the projection.

    Args:
        degree_in: :math:`L`, highest degree of the input.
        degree_out: highest degree of the output, at most ``degree_in``.
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
        spin = (degree_in + 1) // 2
        self.size = 2 * spin + 1
        basis = torch.cat(
            [math.sqrt(2 * l + 1) * wigner_3j(spin, spin, l) for l in range(degree_in + 1)], dim=2
        )  # [a, b, lm]
        scales = [1 / math.sqrt(2 * l + 1) for l in range(degree_in + 1)]
        matrices = basis * degree_scales(scales, degree_in)
        self.register_constant("embedding", matrices.flatten(0, 1))
        self.embedding: Tensor
        for power in range(2, correlation + 1):
            gamma = degree_scales(_power_scales(basis, matrices, degree_out, power), degree_out)
            back = basis[:, :, : (degree_out + 1) ** 2] * gamma
            self.register_constant(f"projection_{power}", back.flatten(0, 1).T)

    def powers(
        self, x: Float[Tensor, "atoms lm channels"]
    ) -> list[Float[Tensor, "atoms lm_out channels"]]:
        if self.correlation == 1:
            return []
        # Atoms and channels last: a product of matrices is one of long rows of numbers.
        matrix = (self.embedding @ columns(x)).unflatten(0, (self.size, self.size))
        terms, power = [], matrix
        for order in range(2, self.correlation + 1):
            power = _matmul(power, matrix)
            out = getattr(self, f"projection_{order}") @ power.flatten(0, 1)
            terms.append(from_columns(out, x))
        return terms


def _matmul(
    a: Float[Tensor, "i k rows"], b: Float[Tensor, "k j rows"]
) -> Float[Tensor, "i j rows"]:
    total = a[:, 0, None] * b[None, 0]
    for k in range(1, b.shape[0]):
        total = total + a[:, k, None] * b[None, k]
    return total


def _power_scales(
    basis: Float[Tensor, "a b lm"],
    matrices: Float[Tensor, "a b lm"],
    degree_out: int,
    power: int,
) -> list[float]:
    r""":math:`\gamma` of every degree; the components of a degree have the same mean square."""
    products = matrices  # [a, b, i1, i2, ...]
    for _ in range(power - 1):
        products = torch.tensordot(products.movedim(1, -1), matrices, dims=1).movedim(-2, 1)
    return [
        polynomial_moment(torch.tensordot(basis[:, :, l * l], products, dims=2)) ** -0.5
        for l in range(degree_out + 1)
    ]
