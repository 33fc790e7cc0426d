r"""Convolution with kernels that are sums over degrees, and its derivatives as kernels.

.. math::
    S(g, x, Z, R) = \sum_{j \to i} \sum_{olc} \sigma_{ij}^l\; g_{ioc}\, x_{joc}\, Z_{pol}\, R_{plc}

runs over edges; :math:`p` is the pair of an edge, and :math:`\sigma` = -1 if the edge ends in the
second atom of the pair, else 1: :math:`P_l(-u) = (-1)^l P_l(u)`. The convolution is the derivative
by :math:`g`. The form is linear in every argument: four kernels give gradients of every order. The
sums over :math:`l` are done on the fly; nothing of the size pairs times orientations times channels
is ever stored.
"""

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks
from equiv.graph.tracing import suits_kernels
from equiv.multilinear import MultilinearForm
from equiv.native import load_library
from equiv.operators import operator
from equiv.position_orientation.vector_source import head
from equiv.position_orientation.zonal_kernels import SOURCE

G, X, ZONAL, RADIAL = range(4)
"""The arguments of the form."""

LEAST_WORK = 10**5
"""Multiply-adds below which a single step is bound by the call and not worth a kernel."""

MOST_DEGREES = 16
MOST_ORIENTATIONS = 256


def zonal_convolution(
    x: Float[Tensor, "rows orientations channels"],
    zonal: Float[Tensor, "pairs orientations degrees"],
    radial: Float[Tensor, "pairs degrees channels"],
    neighbors: NeighborBlocks,
) -> Float[Tensor, "rows orientations channels"]:
    r"""Sum over neighbours of radial functions times polynomials of an angle times features.

    .. math::
        y_{ioc} = \sum_{j \to i} \Big( \sum_l \sigma_{ij}^l\, Z_{pol}\, R_{plc} \Big)\, x_{joc}

    Cost: :math:`L + 2` multiply-adds per edge, orientation and channel.

    Args:
        x: features of the rows.
        zonal: polynomials of the angle between pair and orientation.
        radial: functions of the distance.
        neighbors: who sees whom.
    """
    if usable(x, zonal, neighbors):
        return _Zonal(neighbors).derivative(G, None, x, zonal, radial)
    even = neighbors.from_pairs(zonal[..., 0::2] @ radial[:, 0::2])
    odd = neighbors.from_pairs(zonal[..., 1::2] @ radial[:, 1::2])
    sigma = neighbors.sign.to(x.dtype)[:, :, None, None]
    return neighbors.total(((even + sigma * odd) * neighbors.gather(x)).sum(1))


def usable(x: Tensor, zonal: Tensor, neighbors: NeighborBlocks) -> bool:
    """Whether the kernels can be used, and are worth it."""
    orientations, channels, degrees = *x.shape[1:], zonal.shape[2]
    if (
        neighbors.reverse is None
        or neighbors.slots.shape[1] != 2
        or not suits_kernels(x, zonal.numel() * channels, LEAST_WORK)
        or degrees > MOST_DEGREES
        or orientations > MOST_ORIENTATIONS
    ):
        return False
    return _library(int(orientations), int(degrees), int(channels), x.dtype) is not None


class _Zonal(MultilinearForm):
    def __init__(self, neighbors: NeighborBlocks) -> None:
        self.neighbors = neighbors

    def compute(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        n = self.neighbors
        index = n.first, n.second, n.pair, n.sign, n.senders, n.slots
        found = []
        for u in wanted:
            derivative = torch.ops.equiv.zonal_form(u, *given[:u], *given[u + 1 :], *index)
            found.append(n.total(derivative) if u in (G, X) else derivative)
        return found


@operator("equiv::zonal_form")
def zonal_form(
    wanted: int,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    first: Tensor,
    second: Tensor,
    pair: Tensor,
    sign: Tensor,
    senders: Tensor,
    slots: Tensor,
) -> Tensor:
    """One derivative of the form, from its other arguments in order."""
    out = _like(wanted, a, b, c, first, pair)
    degrees = c.shape[2] if wanted == RADIAL else c.shape[1]
    library = _library(a.shape[1], degrees, a.shape[2], a.dtype)
    if library is None:
        raise RuntimeError("no kernel for this form; a C++ compiler is needed (g++, clang++)")
    tensors = [t.contiguous() for t in (first, second, pair, sign, senders, slots, a, b, c)]
    library.run(
        wanted,
        *pair.shape,
        first.shape[0],
        *(t.data_ptr() for t in tensors),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


@zonal_form.register_fake
def _(wanted, a, b, c, first, second, pair, sign, senders, slots):
    return _like(wanted, a, b, c, first, pair)


def _like(wanted: int, a: Tensor, b: Tensor, c: Tensor, first: Tensor, pair: Tensor) -> Tensor:
    if wanted in (G, X):
        return a.new_empty(pair.shape[0], *a.shape[1:])
    if wanted == ZONAL:  # c = R
        return a.new_empty(first.shape[0], a.shape[1], c.shape[1])
    return a.new_empty(first.shape[0], c.shape[2], a.shape[2])  # c = Z


@cache
def _library(
    orientations: int, degrees: int, channels: int, dtype: torch.dtype
) -> ctypes.CDLL | None:
    library = load_library(head(dtype, channels, N=orientations, D=degrees) + SOURCE)
    if library is not None:
        library.run.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_void_p] * 10 + [ctypes.c_int64]
        library.run.restype = None
    return library
