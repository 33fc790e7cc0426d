"""mace-torch's coupling tensors of the many-body product, expanded in ours."""

from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError


def expand_couplings(
    theirs: Float[Tensor, "m *components paths"], ours: Float[Tensor, "k m *components"], name: str
) -> tuple[Float[Tensor, "k paths"], float]:
    r"""Coefficients of their couplings in our orthonormal basis.

    .. math::
        \operatorname{sym} U_p = \sum_k C_{kp}\, B_k, \qquad C_{kp} = \langle B_k, U_p \rangle

    mace-torch's tensors :math:`U` (more of them than are independent, unless made with
    ``use_reduced_cg``) meet a power of one vector, so only their symmetric part counts, and our
    tensors :math:`B` are an orthonormal basis of all that can be symmetric and equivariant.

    Returns:
        The coefficients, and the largest component of :math:`U` that the basis does not reach.

    Raises:
        EquivError: shapes disagree, or the rest is larger than single precision explains.
    """
    nu = theirs.ndim - 2
    if theirs.shape[:-1] != ours.shape[1:]:
        raise EquivError(
            f"{name}: U has shape {tuple(theirs.shape)}, expected {tuple(ours.shape[1:])} and paths"
        )
    symmetric = torch.zeros_like(theirs)
    orders = list(permutations(range(1, nu + 1)))
    for order in orders:
        symmetric += theirs.permute(0, *order, nu + 1)
    symmetric /= len(orders)
    matrix, target = ours.flatten(1).T, symmetric.reshape(-1, theirs.shape[-1])
    coefficients = matrix.T @ target
    residual = (matrix @ coefficients - target).abs().max().item() if target.numel() else 0.0
    # float32 models store their couplings in float32
    if residual > 1e-5 * max(target.abs().max().item(), 1.0):
        raise EquivError(
            f"{name}: the order-{nu} couplings are not equivariant in e3nn's conventions "
            f"(residual {residual:.1e}); the state is damaged or from another program"
        )
    return coefficients, residual
