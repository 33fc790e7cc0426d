"""The one place where tensor products are chosen by name."""

from equiv.choices import choose
from equiv.so3 import Irreps
from equiv.tensor_products.clebsch_gordan import ClebschGordanTensorProduct
from equiv.tensor_products.paths import (
    Instructions,
    IrrepNormalization,
    Mode,
    PathNormalization,
    PathTensorProduct,
)
from equiv.tensor_products.reference import ReferenceTensorProduct

TENSOR_PRODUCTS: dict[str, type[PathTensorProduct]] = {
    "clebsch_gordan": ClebschGordanTensorProduct,
    "reference": ReferenceTensorProduct,
}
"""Tensor products by the name that ``method=`` takes."""


def tensor_product(
    irreps_in1: str | Irreps,
    irreps_in2: str | Irreps,
    irreps_out: str | Irreps,
    *,
    method: str = "clebsch_gordan",
    mode: Mode = "uvw",
    instructions: Instructions | None = None,
    irrep_normalization: IrrepNormalization = "component",
    path_normalization: PathNormalization = "element",
    internal_weights: bool = True,
) -> PathTensorProduct:
    r"""Tensor product of two irreps tensors by the named method.

    .. math::
        z_k = \sum_{ij} K_{kij}(w)\, x_i\, y_j

    ``"clebsch_gordan"`` and ``"reference"`` compute the same map, :class:`PathTensorProduct`, which
    explains the arguments; the reference is the slow, readable definition.

    Raises:
        EquivError: ``method`` is unknown (the message lists the methods and names the nearest), or
            as :class:`PathTensorProduct`.

    >>> product = tensor_product("8x0e + 8x1o", "0e + 1o", "8x0e + 8x1o")
    >>> product(torch.ones(5, 32), torch.ones(5, 4)).shape
    torch.Size([5, 32])
    """
    return choose(TENSOR_PRODUCTS, method, "method")(
        irreps_in1,
        irreps_in2,
        irreps_out,
        mode=mode,
        instructions=instructions,
        irrep_normalization=irrep_normalization,
        path_normalization=path_normalization,
        internal_weights=internal_weights,
    )
