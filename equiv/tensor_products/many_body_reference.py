"""The many-body product as it is written on paper: what fast paths are compared with."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.so3 import symmetric_couplings


def many_body_reference(
    x: Float[Tensor, "atoms lm channels"],
    species: Int[Tensor, " atoms"],
    weights: Sequence[Float[Tensor, "elements couplings channels"]],
    *,
    degree_in: int,
    degree_out: int,
) -> Float[Tensor, "atoms m channels"]:
    r"""Every factor contracted one after the other, every atom with the weights of its element.

    .. math::
        y_{m,c} = \sum_{\nu} \sum_k w^{(\nu)}_{z,k,c} \sum_{i_1 \dots i_\nu}
        U^{(\nu)}_{k m,\, i_1 \dots i_\nu}\; x_{i_1 c} \cdots x_{i_\nu c}

    Args:
        x: spherical tensors of natural parity up to ``degree_in``.
        species: index of every atom's element.
        weights: :math:`w^{(1)}, w^{(2)}, \dots`, one tensor per order.
        degree_in: highest degree of the input.
        degree_out: degree of the output.

    Returns:
        The sum over all orders; memory is :math:`d^{\nu - 1}` per atom, channel and coupling.
    """
    total = x.new_zeros(x.shape[0], 2 * degree_out + 1, x.shape[-1])
    for order, w in enumerate(weights, start=1):
        couplings = symmetric_couplings(degree_in, order, degree_out).to(x)
        t = torch.einsum("km...i,nic->nckm...", couplings, x)
        for _ in range(order - 1):
            t = torch.einsum("nckm...i,nic->nckm...", t, x)
        total = total + torch.einsum("nkc,nckm->nmc", w[species], t)
    return total
