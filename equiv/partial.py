"""Gradients by tensors that may depend on one another."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def partial_gradients(
    function: Callable[..., Any],
    tensors: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    r"""Partial derivatives of a function, differentiable: what a ``backward`` has to return.

    .. math::
        \partial_{x_k} \langle g, f(x_1, \dots, x_n) \rangle \quad
        \text{at fixed } x_m,\; m \ne k

    To call ``torch.autograd.grad`` for saved tensors inside of a ``backward`` is a trap. If one was
    computed from another, as charges are from positions, it follows that path too and gives total
    derivatives; then the engine goes the same path again and counts it twice. Here the function is
    taken of aliases of the tensors, which nothing else was computed from.

    Args:
        function: one or several tensors, by operations that torch can differentiate.
        tensors: the saved arguments.
        needed: by which of them (``ctx.needs_input_grad``, without what is no tensor).
        grads: what came in for each tensor that the function gives.
    """
    with torch.enable_grad():
        aliases = [None if t is None else t.view_as(t) for t in tensors]
        wanted: Any = [t for t, need in zip(aliases, needed, strict=True) if need]
        found = iter(
            torch.autograd.grad(
                function(*aliases), wanted, grads, create_graph=True, materialize_grads=True
            )
        )
    return [next(found) if need else None for need in needed]
