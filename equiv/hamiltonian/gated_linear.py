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
    call,
    gates,
    ints,
    library,
    linear,
    norms,
    pointers,
    possible,
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


class _Gates:
    """The numbers by which features of some rows are multiplied, and what led to them."""

    def __init__(self, layers: GatedMaps, x: Tensor, weights: Sequence[Tensor]) -> None:
        rows, even = layers.rows, layers.even
        n, _, channels = x.shape
        w1, b1, w2, b2 = weights
        self.sizes = ints(*rows.sizes(n), channels, even)
        self.invariants = x.new_empty(n, even + len(rows.degrees) * channels)
        self.size = x.new_empty(n)
        library(x).norms(*self.sizes, *pointers(x, self.invariants, self.size))
        self.before = torch.addmm(b1, self.invariants, w1, alpha=layers.scales[0])
        self.hidden = nn.functional.silu(self.before)
        self.out = torch.addmm(b2, self.hidden, w2, alpha=layers.scales[1])


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
        gates, factor = _Gates(layers, x[part], weights[:4]), some_of(scale, part)
        given = pointers(x[part], gates.size, gates.out, factor)
        maps = _for_maps(layers, x, weights[4:], [y[part] for y in results])
        library(x).gated_maps(*gates.sizes, *given, *maps)


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
        gates, factor = _Gates(layers, x[part], weights[:4]), some_of(scale, part)
        g_size, g_out = torch.empty_like(gates.size), torch.empty_like(gates.out)
        given = pointers(x[part], gates.size, gates.out, factor)
        maps = _for_maps(layers, x, weights[4:], [g[part] for g in grads], into[4:])
        found = pointers(gx[part], g_size, g_out, some_of(g_scale, part))
        cpp.gated_maps_back(*gates.sizes, *given, *maps, *found)
        into[3].add_(g_out.sum(0))
        into[2].addmm_(gates.hidden.T, g_out, alpha=scale2)
        g_before = torch.ops.aten.silu_backward(g_out @ w2.T * scale2, gates.before)
        into[1].add_(g_before.sum(0))
        into[0].addmm_(gates.invariants.T, g_before, alpha=scale1)
        g_invariants = (g_before * scale1) @ w1.T
        given = (x[part], gates.invariants, gates.size, g_invariants, g_size, gx[part])
        cpp.norms_back(*gates.sizes, *pointers(*given))
    return gx, g_scale


def _for_maps(layers: GatedMaps, x: Tensor, *tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """How many maps there are, their grades, scales, and where some tensors of each are, for C."""
    number = ctypes.c_float if x.dtype is torch.float32 else ctypes.c_double
    count = len(layers.maps)
    grades = (ctypes.c_int64 * count)(*(grades for _, grades, _ in layers.maps))
    scales = (number * count)(*(scale for _, _, scale in layers.maps))
    places = ((ctypes.c_void_p * count)(*(t.data_ptr() for t in each)) for each in tensors)
    return (*ints(count), grades, scales, *places)


def some_of(scale: Tensor | None, part: slice) -> Tensor | None:
    """Some rows of what may not be there."""
    return None if scale is None else scale[part]


def row_blocks(x: Tensor) -> list[slice]:
    """Slices of the rows of x with :data:`BLOCK` numbers each, eight rows at least."""
    size = max(8, BLOCK // max(1, x.shape[1] * x.shape[2]))
    return [slice(start, min(start + size, len(x))) for start in range(0, len(x), size)]
