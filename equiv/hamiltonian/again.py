"""Computing once more what would cost more to keep."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equiv.partial import partial_gradients


def again(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, of which only the arguments are kept for the backward pass.

    Worth it where the function is cheap and makes large tensors on its way. It must not depend on
    other tensors that need a gradient. Derivatives of any order.
    """
    if not torch.is_grad_enabled():
        return function(*tensors)
    return _Again.apply(function, *tensors)  # pyright: ignore[reportReturnType]


class _Again(Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        needed = ctx.needs_input_grad[1:]
        return None, *_gradients(ctx.function, ctx.saved_tensors, needed, grads[0])


def _gradients(
    function: Callable[..., Tensor],
    tensors: tuple[Tensor, ...],
    needed: tuple[bool, ...],
    grad: Tensor,
) -> list[Tensor | None]:
    if torch.is_grad_enabled():
        return partial_gradients(function, tensors, needed, (grad,))
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
        result = function(*leaves)
    wanted = [t for t, need in zip(leaves, needed, strict=True) if need]
    found = iter(torch.autograd.grad(result, wanted, grad, materialize_grads=True))
    return [next(found) if need else None for need in needed]
