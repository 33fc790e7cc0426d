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
    first, second = gate.first, gate.second
    weights = (first.weight, first.bias, second.weight, second.bias, *(w.weight for w in maps))
    if not possible(x, *(w for w in weights if w is not None)):
        gated = gate(x)
        return tuple(one(gated) for one in maps)
    layers = _Layers(gate, maps)
    return call(_GatedLinear, layers, x, *weights)


class _Layers:
    """What the function needs to know of its layers beside their weights."""

    def __init__(self, gate: NormGate, maps: Sequence[IrrepLinear]) -> None:
        self.rows, self.even = gate.rows, gate.even
        self.scales = [1 / math.sqrt(len(w.weight)) for w in (gate.first, gate.second)]
        self.maps = [(w.rows, w.grades, 1 / math.sqrt(w.channels // w.grades)) for w in maps]

    def plain(self, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """The definition."""
        w1, b1, w2, b2, *matrices = weights
        invariants, size = norms(self.rows, self.even, x)
        hidden = nn.functional.silu(torch.addmm(b1, invariants, w1, alpha=self.scales[0]))
        out = torch.addmm(b2, hidden, w2, alpha=self.scales[1])
        y = gates(self.rows, self.even, x, size, out)
        return tuple(
            linear(rows, grades, y, w, scale)
            for (rows, grades, scale), w in zip(self.maps, matrices, strict=True)
        )


class _Gated:
    """Gated features of some rows, and what led to them."""

    def __init__(self, layers: _Layers, x: Tensor, weights: Sequence[Tensor]) -> None:
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
    def forward(ctx: Any, layers: _Layers, x: Tensor, *weights: Tensor) -> Any:
        ctx.layers, ctx.plain = layers, layers.plain
        ctx.save_for_backward(x, *weights)
        return _forward(layers, x, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, *weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _GatedLinear.slow(ctx, (x, *weights), grads)
        gx, found = _backward(ctx.layers, x, weights, grads)
        return None, gx, *found


def _forward(layers: _Layers, x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    results = tuple(torch.empty_like(x) for _ in layers.maps)
    for part in _blocks(x):
        gated = _Gated(layers, x[part], weights[:4])
        for (rows, grades, scale), w, y in zip(layers.maps, weights[4:], results, strict=True):
            _map(rows, grades, scale, gated.y, w, y[part])
    return results


def _backward(
    layers: _Layers, x: Tensor, weights: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Gradients by x and by the weights."""
    grads = tuple(g.contiguous() for g in grads)
    gx, found = torch.empty_like(x), [torch.zeros_like(w) for w in weights]
    w1, _, w2, _ = weights[:4]
    (scale1, scale2), cpp = layers.scales, library(x)
    for part in _blocks(x):
        gated = _Gated(layers, x[part], weights[:4])
        g_y = torch.empty_like(gated.y)
        for k, (rows, grades, scale) in enumerate(layers.maps):
            g, w = grads[k][part], weights[4 + k]
            _map(rows, grades, scale, g, w, g_y, transposed=1, add=int(k > 0))
            sizes = ints(*rows.sizes(len(g)), grades, w.shape[1])
            cpp.linear_weight(*sizes, *pointers(gated.y, g, found[4 + k]), real(x, scale))
        g_size, g_out = torch.empty_like(gated.size), torch.empty_like(gated.out)
        given = (x[part], gated.size, gated.out, g_y, gx[part], g_size, g_out)
        cpp.gates_back(*gated.sizes, *pointers(*given))
        found[3] += g_out.sum(0)
        found[2].addmm_(gated.hidden.T, g_out, alpha=scale2)
        g_before = torch.ops.aten.silu_backward(g_out @ w2.T * scale2, gated.before)
        found[1] += g_before.sum(0)
        found[0].addmm_(gated.invariants.T, g_before, alpha=scale1)
        g_invariants = (g_before * scale1) @ w1.T
        given = (x[part], gated.invariants, gated.size, g_invariants, g_size, gx[part])
        cpp.norms_back(*gated.sizes, *pointers(*given))
    return gx, found


def _map(
    rows: Rows,
    grades: int,
    scale: float,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    *,
    transposed: int = 0,
    add: int = 0,
) -> None:
    library(x).linear(
        *ints(*rows.sizes(len(x)), grades, weight.shape[1]),
        *pointers(x, weight, y),
        real(x, scale),
        *(ctypes.c_int64(flag) for flag in (transposed, add)),
    )


def _blocks(x: Tensor) -> list[slice]:
    size = max(8, BLOCK // max(1, x.shape[1] * x.shape[2]))
    return [slice(start, start + size) for start in range(0, len(x), size)]
