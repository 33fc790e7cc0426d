r"""Convolution with kernels that are sums over degrees."""

from jaxtyping import Float
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks
from equiv.position_orientation.forms import convolve, usable


def zonal_convolution(
    x: Float[Tensor, "rows orientations channels"],
    zonal: Float[Tensor, "pairs orientations degrees"],
    radial: Float[Tensor, "pairs degrees channels"],
    neighbors: NeighborBlocks,
) -> Float[Tensor, "rows orientations channels"]:
    r"""Sum over neighbours of radial functions times polynomials of an angle times features.

    .. math::
        y_{ioc} = \sum_{j \to i} \Big( \sum_l \sigma_{ij}^l\, Z_{pol}\, R_{plc} \Big)\, x_{joc}

    :math:`p` is the pair of the edge, and :math:`\sigma` = -1 if the edge ends in the second atom
    of the pair, else 1: :math:`P_l(-u) = (-1)^l P_l(u)`.

    Args:
        x: features of the rows.
        zonal: polynomials of the angle between pair and orientation.
        radial: functions of the distance.
        neighbors: who sees whom.
    """
    if usable(x, neighbors, zonal.shape[2]):
        return convolve(x, (zonal, radial), neighbors, None)
    even = neighbors.from_pairs(zonal[..., 0::2] @ radial[:, 0::2])
    odd = neighbors.from_pairs(zonal[..., 1::2] @ radial[:, 1::2])
    sigma = neighbors.sign.to(x.dtype)[:, :, None, None]
    return neighbors.total(((even + sigma * odd) * neighbors.gather(x)).sum(1))
