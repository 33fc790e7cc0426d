r"""Functions of rows, a few rows at a time: nothing in between is stored."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from equiv.graph.tracing import is_traced
from equiv.needed import is_needed
from equiv.partial import partial_gradients

ROWS = 1024
"""Rows whose intermediate results stay in the cache together."""


def blockwise(
    function: Callable[..., Tensor], x: Float[Tensor, "rows n"], *weights: Tensor
) -> Float[Tensor, "rows m"]:
    r"""``function(x, *weights)`` of rows that do not see each other, block by block.

    What is between input and result stays in the cache and is forgotten; derivatives make it anew.
    Worth it where that is much more than input and result: it takes one more evaluation per
    derivative, and no memory. Can be differentiated any number of times.

    Args:
        function: of a few rows and the weights.
        x: the rows.
        weights: all else that it depends on.
    """
    if (
        x.device.type != "cpu"
        or x.shape[0] <= ROWS
        or torch.compiler.is_dynamo_compiling()
        or is_traced(x)
    ):
        return function(x, *weights)
    # Of leaves the engine does not tell whether their gradients are wanted.
    return _Blockwise.apply(function, x, *(w.view_as(w) for w in weights))


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, rows, ROWS))


class _Blockwise(Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], x: Tensor, *weights: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x, *weights)
        out = None
        for here in _blocks(x.shape[0]):
            y = function(x[here], *weights)
            if out is None:
                out = y.new_empty(x.shape[0], *y.shape[1:])
            out[here] = y
        assert out is not None
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        needed = [is_needed(ctx, 1 + k, k) for k in range(1 + len(weights))]
        found = _Gradients.apply(ctx.function, needed, grads[0], x, *weights)
        found = iter(found)
        return None, *(next(found) if n else None for n in needed)


class _Gradients(Function):
    """The gradients by rows and weights, as far as needed, as functions of all of them."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        needed: list[bool],
        g: Tensor,
        x: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.function, ctx.needed = function, needed
        ctx.save_for_backward(g, x, *weights)
        sums = [w.new_zeros(w.shape) for w, n in zip(weights, needed[1:], strict=True) if n]
        by_x = torch.empty_like(x) if needed[0] else None
        for here in _blocks(x.shape[0]):
            with torch.enable_grad():
                given = [t.detach().requires_grad_(n) for t, n in zip(
                    (x[here], *weights), needed, strict=True
                )]  # fmt: skip
                found = list(_first(function, needed, g[here], *given))
            if by_x is not None:
                by_x[here] = found.pop(0)
            for total, part in zip(sums, found, strict=True):
                total += part
        return (by_x, *sums) if by_x is not None else tuple(sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        g, x, *weights = ctx.saved_tensors
        function, needed = ctx.function, ctx.needed
        if torch.is_grad_enabled():  # somebody wants a third derivative

            def first(*given: Tensor) -> tuple[Tensor, ...]:
                return _first(function, needed, *given, create_graph=True)

            asked = ctx.needs_input_grad[2:]
            return None, None, *partial_gradients(first, (g, x, *weights), asked, grads)
        of_rows = grads[:1] if needed[0] else ()
        of_weights = grads[len(of_rows) :]
        by_g, by_x = torch.empty_like(g), torch.empty_like(x)
        sums = [w.new_zeros(w.shape) for w in weights]
        for here in _blocks(x.shape[0]):
            with torch.enable_grad():
                given = [t.detach().requires_grad_() for t in (g[here], x[here], *weights)]
                u = [*(t[here] for t in of_rows), *of_weights]
                found = _first(function, needed, *given, create_graph=True)
                by_g[here], by_x[here], *parts = torch.autograd.grad(
                    found, given, u, materialize_grads=True
                )
            for total, part in zip(sums, parts, strict=True):
                total += part
        return None, None, by_g, by_x, *sums


def _first(
    function: Callable[..., Tensor],
    needed: list[bool],
    g: Tensor,
    *arguments: Tensor,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """The gradients that are needed."""
    wanted = [t for t, n in zip(arguments, needed, strict=True) if n]
    return torch.autograd.grad(function(*arguments), wanted, g, create_graph=create_graph)
