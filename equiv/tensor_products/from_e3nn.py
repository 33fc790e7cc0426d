"""Tensor products made with e3nn, continued here with the same weights."""

from typing import Any, get_args

import torch
from e3nn import o3

from equiv.errors import EquivError
from equiv.tensor_products.clebsch_gordan import ClebschGordanTensorProduct
from equiv.tensor_products.paths import Mode, Path


def from_e3nn(product: o3.TensorProduct) -> ClebschGordanTensorProduct:
    r"""The map of an e3nn product, number for number.

    .. math::
        z_k = \sum_{ij} K_{kij}(w)\, x_i\, y_j

    Irreps, paths, normalisation, dtype, device and internal weights are taken over (copied). If the
    product takes its weights from outside, shared or one set for each row, the same weight tensors
    fit here.

    Args:
        product: an ``e3nn.o3.TensorProduct`` or a class derived from it, such as
            ``FullyConnectedTensorProduct``.

    Raises:
        EquivError: it has paths in another mode than uvw, uvu and uuu, or output irreps that no
            path reaches.
    """
    theirs: Any = product
    foreign = sorted({i.connection_mode for i in theirs.instructions} - set(get_args(Mode)))
    if foreign:
        raise EquivError(
            f"from_e3nn: mode {', '.join(foreign)} has no counterpart here; "
            f"known are {', '.join(get_args(Mode))}"
        )
    # e3nn keeps the final factor of each path; as a variance it enters squared
    paths = [
        Path(i.i_in1, i.i_in2, i.i_out, i.connection_mode, i.has_weight, i.path_weight**2)
        for i in theirs.instructions
    ]
    copy = ClebschGordanTensorProduct(
        theirs.irreps_in1,
        theirs.irreps_in2,
        theirs.irreps_out,
        instructions=paths,
        irrep_normalization="none",
        path_normalization="none",
        internal_weights=theirs.internal_weights,
    ).to(theirs.output_mask)
    if copy.internal_weights:
        with torch.no_grad():
            copy.weight.copy_(theirs.weight)
    return copy
