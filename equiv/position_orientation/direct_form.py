r"""Convolution with kernels that are given for every pair, orientation and channel."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks
from equiv.position_orientation.forms import convolve, usable


def direct_convolution(
    x: Float[Tensor, "rows orientations channels"],
    kernels: Float[Tensor, "kernels orientations channels"],
    neighbors: NeighborBlocks,
    antipodes: Int[Tensor, " orientations"] | None,
) -> Float[Tensor, "rows orientations channels"]:
    r"""Sum over neighbours of kernel times features, channel by channel.

    .. math::
        y_{ioc} = \sum_{j \to i} k_c(r_{ij}, o)\, x_{joc}, \qquad
        k_c(r_{ji}, o) = k_c(-r_{ij}, o) = k_c(r_{ij}, -o)

    With ``antipodes`` one kernel serves both directions of a pair. Without, ``kernels`` has first
    those of all pairs, then those of all pairs in the reverse direction (if edges have reverses).

    Args:
        x: features of the rows.
        kernels: samples of the kernel.
        neighbors: who sees whom.
        antipodes: the place of the opposite of every orientation.
    """
    if usable(x, neighbors, None):
        return convolve(x, (kernels,), neighbors, antipodes)
    n = neighbors
    backward = (n.sign < 0).view(*n.sign.shape, 1, 1)
    if antipodes is None:
        pairs = n.first.shape[0]
        slots = torch.where(n.sign < 0, n.pair + pairs, n.pair) if n.slots.shape[1] > 1 else n.pair
        k = kernels[slots] * n.sign.abs().to(x.dtype).view(*n.sign.shape, 1, 1)
    else:
        k = n.from_pairs(kernels)
        k = torch.where(backward, k[:, :, antipodes], k)
    return n.total((k * n.gather(x)).sum(1))
