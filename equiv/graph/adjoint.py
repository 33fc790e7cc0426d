"""Maps that bring their own adjoint or gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Map = Callable[[Tensor], Tensor]


def linear_map(x: Tensor, forward: Map, adjoint: Map) -> Tensor:
    r"""Apply a linear map whose gradient is computed by its adjoint.

    .. math::
        y = A x, \qquad \langle g, A x \rangle = \langle A^\mathsf{T} g, x \rangle

    The gradient of a gather is a scatter, which on most hardware is slow and adds in no fixed
    order. Where the adjoint is known as another gather, this puts it in its place, in derivatives
    of every order. Dynamo, which cannot follow that, differentiates ``forward`` itself.
    """
    if torch.compiler.is_dynamo_compiling():
        return forward(x)
    return _LinearMap.apply(x, forward, adjoint)


class _LinearMap(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Map, adjoint: Map) -> Tensor:
        ctx.maps = adjoint, forward
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _LinearMap.apply(*grads, *ctx.maps), None, None


def with_gradient(x: Tensor, function: Map, gradient: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    r"""Apply a function whose gradient is known better than torch would find it.

    .. math::
        y = f(x), \qquad \mathrm{gradient}(x, g) = \partial_x \langle g, f(x) \rangle

    Differentiable as often as ``gradient`` is: to any order if that is made of operations of torch
    and of functions like this one.
    """
    return _WithGradient.apply(x, function, gradient)


class _WithGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Map, gradient: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gradient = gradient
        return function(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient(*ctx.saved_tensors, *grads), None, None
