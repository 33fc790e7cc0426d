r"""The dense definition of a tensor product, which every other method is held against."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3 import Irreps
from equiv.tensor_products.paths import (
    Instructions,
    IrrepNormalization,
    Mode,
    PathNormalization,
    PathTensorProduct,
)
from equiv.tensor_products.protocol import TensorProduct

_MAX_ELEMENTS = 2**27  # 1 GiB of float64


class ReferenceTensorProduct(PathTensorProduct):
    r"""The tensor product written out as one dense array.

    .. math::
        z_k = \sum_{ij} \Big( K^{(0)}_{kij} + \sum_n w_n K^{(n)}_{kij} \Big) x_i\, y_j

    :math:`K^{(n)}` is the map of weight :math:`n` alone and :math:`K^{(0)}` that of the paths
    without weight, filled in number by number from the definition in :class:`PathTensorProduct`,
    whose arguments these are. Memory and cost per row: ``weight_numel * out.dim * in1.dim *
    in2.dim``. For tests and for reading.

    Raises:
        EquivError: in addition, the array would exceed 1 GiB.
    """

    def __init__(
        self,
        irreps_in1: str | Irreps,
        irreps_in2: str | Irreps,
        irreps_out: str | Irreps,
        *,
        mode: Mode = "uvw",
        instructions: Instructions | None = None,
        irrep_normalization: IrrepNormalization = "component",
        path_normalization: PathNormalization = "element",
        internal_weights: bool = True,
    ) -> None:
        super().__init__(
            irreps_in1,
            irreps_in2,
            irreps_out,
            mode=mode,
            instructions=instructions,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
            internal_weights=internal_weights,
        )
        shape = (
            1 + self.weight_numel,
            self.irreps_out.dim,
            self.irreps_in1.dim,
            self.irreps_in2.dim,
        )
        if math.prod(shape) > _MAX_ELEMENTS:
            raise EquivError(
                f"reference: the dense array of shape {shape} would need "
                f"{math.prod(shape) / 2**27:.0f} GiB; it is for small products, use "
                "method='clebsch_gordan'"
            )
        self.maps: Tensor
        self.register_constant("maps", self._fill(torch.zeros(shape, dtype=torch.float64)))

    def _fill(self, maps: Tensor) -> Tensor:
        for n, (i, j, k), coupling in self.entries():
            maps[0 if n is None else n + 1, k, i, j] += coupling.permute(2, 0, 1)
        return maps

    def multiply(
        self,
        x1: Float[Tensor, "rows in1"],
        x2: Float[Tensor, "rows in2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows out"]:
        out = torch.einsum("kij,ni,nj->nk", self.maps[0], x1, x2)
        if weight is None:
            return out
        return out + torch.einsum(
            "wkij,nw,ni,nj->nk", self.maps[1:], weight.expand(len(x1), -1), x1, x2
        )


def measured_coefficients(
    product: TensorProduct, weight: Float[Tensor, " weights"] | None = None
) -> Float[Tensor, "in1 in2 out"]:
    r"""The array of any tensor product, measured by multiplying unit vectors.

    .. math::
        K_{ijk} = z_k(e_i, e_j), \qquad z_k(x, y) = \sum_{ij} K_{ijk}\, x_i\, y_j

    What a product really does, in its own dtype, to be compared with its definition
    :meth:`TensorProduct.dense_coefficients`.

    Args:
        product: a tensor product of any method.
        weight: weights shared by all rows; default the internal ones.
    """
    like = weight if weight is not None else next(iter([*product.parameters(), *product.buffers()]))
    x1 = torch.eye(product.irreps_in1.dim, dtype=like.dtype, device=like.device)
    x2 = torch.eye(product.irreps_in2.dim, dtype=like.dtype, device=like.device)
    return product(x1.unsqueeze(1), x2.unsqueeze(0), weight)
