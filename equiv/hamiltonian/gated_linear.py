"""A gate and the linear maps behind it as one function that keeps nothing but its argument."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.hamiltonian.irrep_layers import IrrepLinear, NormGate
from equiv.hamiltonian.row_functions import (
    RowFunction,
    Rows,
    call,
    gates,
    ints,
    library,
    linear,
    norms,
    pointers,
    possible,
    real,
)

BLOCK = 2**20
"""Numbers of a block of rows, which bounds the memory for what is not kept."""


def gated_linear(
    gate: NormGate, maps: Sequence[IrrepLinear], x: Float[Tensor, "rows components channels"]
) -> tuple[Float[Tensor, "rows components channels"], ...]:
    r"""Linear maps of gated features, :math:`W_k\, \mathcal{N}(x)` for each of some maps.

    The invariants, the network of the gate and the gated features are cheap beside the maps. So
    they are computed again in the backward pass, block by block, and only ``x`` is kept.
    """
    return GatedMaps(gate, maps)(x)


class GatedMaps:
    """A gate and the maps that follow it, as the functions of rows read them.

    Args:
        gate: of the features.
        maps: of the gated features.

    Attributes:
        weights: two matrices and two biases of the gate, then those of the maps.
    """

    def __init__(self, gate: NormGate, maps: Sequence[IrrepLinear]) -> None:
        network = (gate.first.weight, gate.first.bias, gate.second.weight, gate.second.bias)
        self.weights = [w for w in (*network, *(w.weight for w in maps)) if w is not None]
        self.rows, self.even = gate.rows, gate.even
        self.scales = [1 / math.sqrt(len(w.weight)) for w in (gate.first, gate.second)]
        self.maps = [(w.rows, w.grades, 1 / math.sqrt(w.channels // w.grades)) for w in maps]

    def __call__(
        self, x: Float[Tensor, "rows components channels"], scale: Tensor | None = None
    ) -> tuple[Float[Tensor, "rows components channels"], ...]:
        """What every map gives, with a factor for each row, if there is a ``scale``."""
        given = (x, *self.weights) if scale is None else (x, *self.weights, scale)
        return call(_GatedLinear, self, *given) if possible(*given) else self.plain(*given)

    def split(self, given: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor | None]:
        """The weights, and the scale if it is there, of ``[*weights, *scale]``."""
        end = len(self.weights)
        return given[:end], given[end] if len(given) > end else None

    def plain(self, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """The definition."""
        (w1, b1, w2, b2, *matrices), factor = self.split(given)
        invariants, size = norms(self.rows, self.even, x)
        hidden = nn.functional.silu(torch.addmm(b1, invariants, w1, alpha=self.scales[0]))
        out = torch.addmm(b2, hidden, w2, alpha=self.scales[1])
        y = gates(self.rows, self.even, x, size, out)
        y = y if factor is None else y * factor[:, None, None]
        return tuple(
            linear(rows, grades, y, w, scale)
            for (rows, grades, scale), w in zip(self.maps, matrices, strict=True)
        )


class _Gated:
    """Gated features of some rows, and what led to them."""

    def __init__(self, layers: GatedMaps, x: Tensor, weights: Sequence[Tensor]) -> None:
        rows, even = layers.rows, layers.even
        n, _, channels = x.shape
        w1, b1, w2, b2 = weights
        self.sizes = ints(*rows.sizes(n), channels, even)
        self.invariants = x.new_empty(n, even + len(rows.degrees) * channels)
        self.size, self.y = x.new_empty(n), torch.empty_like(x)
        library(x).norms(*self.sizes, *pointers(x, self.invariants, self.size))
        self.before = torch.addmm(b1, self.invariants, w1, alpha=layers.scales[0])
        self.hidden = nn.functional.silu(self.before)
        self.out = torch.addmm(b2, self.hidden, w2, alpha=layers.scales[1])
        library(x).gates(*self.sizes, *pointers(x, self.size, self.out, self.y))


class _GatedLinear(RowFunction):
    constants = 1

    @staticmethod
    def forward(ctx: Any, layers: GatedMaps, x: Tensor, *given: Tensor) -> Any:
        ctx.layers, ctx.plain = layers, layers.plain
        ctx.save_for_backward(x, *given)
        results = tuple(torch.empty_like(x) for _ in layers.maps)
        forward_rows(layers, x, *layers.split(given), results)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, *given = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _GatedLinear.slow(ctx, (x, *given), grads)
        weights, scale = ctx.layers.split(given)
        found = [torch.zeros_like(w) for w in weights]
        gx, g_scale = backward_rows(ctx.layers, x, weights, scale, grads, found)
        return None, gx, *found, *(() if scale is None else (g_scale,))


def forward_rows(
    layers: GatedMaps,
    x: Tensor,
    weights: Sequence[Tensor],
    scale: Tensor | None,
    results: Sequence[Tensor],
) -> None:
    """The maps of all rows, block by block, into ``results``."""
    for part in row_blocks(x):
        gated = _Gated(layers, x[part], weights[:4])
        if scale is not None:
            gated.y *= scale[part, None, None]
        for (rows, grades, unit), w, y in zip(layers.maps, weights[4:], results, strict=True):
            _map(rows, grades, unit, gated.y, w, y[part])


def backward_rows(
    layers: GatedMaps,
    x: Tensor,
    weights: Sequence[Tensor],
    scale: Tensor | None,
    grads: Sequence[Tensor],
    into: Sequence[Tensor],
) -> tuple[Tensor, Tensor | None]:
    """Gradients by x and by the scale; those by the weights are added to ``into``."""
    grads = tuple(g.contiguous() for g in grads)
    gx = torch.empty_like(x)
    g_scale = None if scale is None else torch.empty_like(scale)
    w1, _, w2, _ = weights[:4]
    (scale1, scale2), cpp = layers.scales, library(x)
    for part in row_blocks(x):
        gated = _Gated(layers, x[part], weights[:4])
        g_y = torch.empty_like(gated.y)
        for k, (rows, grades, unit) in enumerate(layers.maps):
            _map(
                rows, grades, unit, grads[k][part], weights[4 + k], g_y, transposed=True, add=k > 0
            )
        if scale is not None and g_scale is not None:
            g_scale[part] = torch.linalg.vecdot(g_y.flatten(1), gated.y.flatten(1))
            g_y *= scale[part, None, None]
            gated.y *= scale[part, None, None]
        for k, (rows, grades, unit) in enumerate(layers.maps):
            g = grads[k][part]
            sizes = ints(*rows.sizes(len(g)), grades, weights[4 + k].shape[1])
            cpp.linear_weight(*sizes, *pointers(gated.y, g, into[4 + k]), real(x, unit))
        g_size, g_out = torch.empty_like(gated.size), torch.empty_like(gated.out)
        given = (x[part], gated.size, gated.out, g_y, gx[part], g_size, g_out)
        cpp.gates_back(*gated.sizes, *pointers(*given))
        into[3].add_(g_out.sum(0))
        into[2].addmm_(gated.hidden.T, g_out, alpha=scale2)
        g_before = torch.ops.aten.silu_backward(g_out @ w2.T * scale2, gated.before)
        into[1].add_(g_before.sum(0))
        into[0].addmm_(gated.invariants.T, g_before, alpha=scale1)
        g_invariants = (g_before * scale1) @ w1.T
        given = (x[part], gated.invariants, gated.size, g_invariants, g_size, gx[part])
        cpp.norms_back(*gated.sizes, *pointers(*given))
    return gx, g_scale


def _map(
    rows: Rows,
    grades: int,
    scale: float,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    *,
    transposed: bool = False,
    add: bool = False,
) -> None:
    library(x).linear(
        *ints(*rows.sizes(len(x)), grades, weight.shape[1]),
        *pointers(x, weight, y),
        real(x, scale),
        *(ctypes.c_int64(flag) for flag in (transposed, add)),
    )


def row_blocks(x: Tensor) -> list[slice]:
    """Slices of the rows of x with :data:`BLOCK` numbers each, eight rows at least."""
    size = max(8, BLOCK // max(1, x.shape[1] * x.shape[2]))
    return [slice(start, min(start + size, len(x))) for start in range(0, len(x), size)]
