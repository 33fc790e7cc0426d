r"""The multilinear forms behind the spatial convolutions, and their derivatives as kernels.

.. math::
    S(g, x, Z, R) &= \sum_{j \to i} \sum_{olc} \sigma_{ij}^l\; g_{ioc}\, x_{joc}\, Z_{pol}\, R_{plc}
    \\
    S(g, x, K) &= \sum_{j \to i} \sum_{oc} g_{ioc}\, x_{joc}\, K_{p,\pm o,c}

run over edges; :math:`p` is the pair of an edge, and what belongs to a pair serves both of its
directions. A convolution is the derivative by :math:`g`. The forms are linear in every argument, so
derivatives of derivatives are derivatives of the form again,

.. math::
    \partial_u \langle w, \partial_v S \rangle = \partial_u S|_{v = w},

and one kernel per argument gives gradients of every order. Nothing is stored per edge.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equiv.graph.blocks import NeighborBlocks
from equiv.graph.tracing import is_traced
from equiv.position_orientation.form_kernels import direct_library, zonal_library

G, X = 0, 1
ROWS = (G, X)
"""Arguments with one entry per row; the others have one per pair."""

LEAST_WORK = 10**5
"""Multiply-adds below which a single step is bound by the call and not worth a kernel."""

MOST_DEGREES = 16
MOST_ORIENTATIONS = 256


def usable(x: Tensor, neighbors: NeighborBlocks, degrees: int | None) -> bool:
    """Whether the kernels can be used, and are worth it.

    Args:
        x: features of the rows. Shape ``[rows, orientations, channels]``.
        neighbors: who sees whom.
        degrees: of the zonal form; ``None`` for the direct form.
    """
    if (
        neighbors.reverse is None
        or neighbors.slots.shape[1] != 2
        or x.device.type != "cpu"
        or x.dtype not in (torch.float32, torch.float64)
        or torch.compiler.is_dynamo_compiling()
    ):
        return False
    orientations, channels = int(x.shape[1]), int(x.shape[2])
    if (degrees or 1) > MOST_DEGREES or orientations > MOST_ORIENTATIONS:
        return False
    if not is_traced(x):
        work = neighbors.pair.numel() * orientations * channels * (degrees or 1)
        if work < LEAST_WORK:
            return False
    return library(degrees, orientations, channels, x.dtype) is not None


def library(
    degrees: int | None, orientations: int, channels: int, dtype: torch.dtype
) -> ctypes.CDLL | None:
    """The kernels of one form."""
    if degrees is None:
        return direct_library(orientations, channels, dtype)
    return zonal_library(orientations, degrees, channels, dtype)


def convolve(
    x: Tensor, given: tuple[Tensor, ...], neighbors: NeighborBlocks, opposite: Tensor | None
) -> Tensor:
    """The derivative of a form by its first argument.

    Args:
        x: features of the rows. Shape ``[rows, orientations, channels]``.
        given: :math:`(Z, R)` or :math:`(K)`.
        neighbors: who sees whom.
        opposite: the place of the opposite of every orientation (direct form).
    """
    return _Derivative.apply(neighbors, opposite, G, x, *given)


class _Derivative(Function):
    """The derivative of a form by one argument, as a function of the others."""

    @staticmethod
    def forward(
        ctx: Any,
        neighbors: NeighborBlocks,
        opposite: Tensor | None,
        wanted: int,
        *given: Tensor,
    ) -> Tensor:
        ctx.neighbors, ctx.opposite, ctx.wanted = neighbors, opposite, wanted
        ctx.save_for_backward(*given)
        n = neighbors
        operation = torch.ops.equiv.zonal_form if len(given) == 3 else torch.ops.equiv.direct_form
        derivative = operation(
            wanted, *given, n.first, n.second, n.pair, n.sign, n.senders, n.slots,
            *(() if len(given) == 3 else (opposite,)),
        )  # fmt: skip
        return n.total(derivative) if wanted in ROWS else derivative

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        arguments = list(ctx.saved_tensors)
        arguments.insert(ctx.wanted, grads[0])
        results: list[Tensor | None] = []
        for u in range(len(arguments)):
            if u == ctx.wanted:
                continue
            needed = ctx.needs_input_grad[3 + len(results)]
            others = [a for v, a in enumerate(arguments) if v != u]
            results.append(
                _Derivative.apply(ctx.neighbors, ctx.opposite, u, *others) if needed else None
            )
        return None, None, None, *results


@torch.library.custom_op("equiv::zonal_form", mutates_args=(), device_types="cpu")
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
    """One derivative of the zonal form, from its other arguments in order."""
    out = _zonal_like(wanted, a, b, c, first, pair)
    orientations, channels = (a if wanted in ROWS else b).shape[1:]
    degrees = (b if wanted in ROWS else c).shape[2 if wanted != 2 else 1]
    kernels = library(degrees, orientations, channels, a.dtype)
    _run(kernels, wanted, [a, b, c], [first, second, pair, sign, senders, slots, None], out)
    return out


@zonal_form.register_fake
def _(wanted, a, b, c, first, second, pair, sign, senders, slots):
    return _zonal_like(wanted, a, b, c, first, pair)


def _zonal_like(
    wanted: int, a: Tensor, b: Tensor, c: Tensor, first: Tensor, pair: Tensor
) -> Tensor:
    pairs = first.shape[0]
    if wanted in ROWS:
        return a.new_empty(pair.shape[0], *a.shape[1:])
    if wanted == 2:  # a, b = g, x and c = R
        return a.new_empty(pairs, a.shape[1], c.shape[1])
    return a.new_empty(pairs, c.shape[2], a.shape[2])  # c = Z


@torch.library.custom_op("equiv::direct_form", mutates_args=(), device_types="cpu")
def direct_form(
    wanted: int,
    a: Tensor,
    b: Tensor,
    first: Tensor,
    second: Tensor,
    pair: Tensor,
    sign: Tensor,
    senders: Tensor,
    slots: Tensor,
    opposite: Tensor | None,
) -> Tensor:
    """One derivative of the direct form, from its other arguments in order."""
    out = _direct_like(wanted, a, first, pair, opposite)
    kernels = library(None, a.shape[1], a.shape[2], a.dtype)
    _run(kernels, wanted, [a, b, None], [first, second, pair, sign, senders, slots, opposite], out)
    return out


@direct_form.register_fake
def _(wanted, a, b, first, second, pair, sign, senders, slots, opposite):
    return _direct_like(wanted, a, first, pair, opposite)


def _direct_like(
    wanted: int, a: Tensor, first: Tensor, pair: Tensor, opposite: Tensor | None
) -> Tensor:
    if wanted in ROWS:
        return a.new_empty(pair.shape[0], *a.shape[1:])
    return a.new_empty(first.shape[0] * (1 if opposite is not None else 2), *a.shape[1:])


def _run(
    kernels: ctypes.CDLL | None,
    wanted: int,
    arguments: list[Tensor | None],
    graph: list[Tensor | None],
    out: Tensor,
) -> None:
    if kernels is None:
        raise RuntimeError("no kernel for this form; a C++ compiler is needed (g++, clang++)")
    tensors = [None if t is None else t.contiguous() for t in (*graph, *arguments)]
    pair, first = graph[2], graph[0]
    assert pair is not None
    assert first is not None
    kernels.run(
        wanted,
        pair.shape[0],
        pair.shape[1],
        first.shape[0],
        *(None if t is None else t.data_ptr() for t in tensors),
        out.data_ptr(),
        torch.get_num_threads(),
    )
