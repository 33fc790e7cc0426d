r"""GELU, cheap to differentiate twice."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from equiv.graph.tracing import is_traced

CHUNK = 1 << 15
"""Numbers that are worked on while they are in the cache."""


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""The Gaussian error linear unit :math:`x\, \Phi(x)`.

    .. math::
        f' = \Phi + x \varphi, \qquad f'' = (2 - x^2)\, \varphi

    with the normal distribution :math:`\Phi` and its density :math:`\varphi`. The second derivative
    is a dozen passes over memory in torch, and here those of one chunk are made in the cache.
    """
    if (
        x.device.type != "cpu"
        or not x.requires_grad
        or torch.compiler.is_dynamo_compiling()
        or is_traced(x)
        or x.numel() < CHUNK
    ):
        return torch.nn.functional.gelu(x)
    return _Gelu.apply(x.contiguous())


class _Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.nn.functional.gelu(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _GeluBackward.apply(grads[0], *ctx.saved_tensors)


class _GeluBackward(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        g = g.contiguous()
        ctx.save_for_backward(g, x)
        return torch.ops.aten.gelu_backward(g, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        (u,) = grads
        if torch.is_grad_enabled():  # somebody wants a third derivative
            density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
            slope = 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density
            return u * slope, u * g * (2 - x.square()) * density
        u = u.contiguous()
        by_g, by_x = torch.empty_like(g), torch.empty_like(g)
        flat = (t.view(-1).split(CHUNK) for t in (u, g, x, by_g, by_x))
        for u_, g_, x_, by_g_, by_x_ in zip(*flat, strict=True):
            torch.ops.aten.gelu_backward(u_, x_, grad_input=by_g_)
            square = x_.square()
            torch.exp(square * -0.5, out=by_x_)
            by_x_.mul_(square.sub_(2).mul_(u_).mul_(g_)).mul_(-1 / math.sqrt(2 * math.pi))
        return by_g, by_x
