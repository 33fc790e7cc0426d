"""The long-range energy of a finite system from its coefficients in three nested bases."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.graph.adjoint import linear_map
from equiv.long_range.nested_basis import NestedBasis


class TuckerKernel:
    r"""The kernel :math:`\Phi = \sum_k w_k\, (B_k^x \otimes B_k^y \otimes B_k^z)\, C`.

    Symmetric and positive semi-definite at any tolerance: all weights and matrices are.
    """

    def __init__(self, axes: Sequence[NestedBasis], weights: Sequence[float]) -> None:
        self.axes, self.weights = axes, weights

    def apply(self, c: Float[Tensor, "rx ry rz"]) -> Float[Tensor, "rx ry rz"]:
        """One product with the kernel; without a graph."""
        total = torch.zeros_like(c)
        for k, weight in enumerate(self.weights):
            x, y, z = (axis.cores[k] for axis in self.axes)
            r1, r2, r3 = len(x), len(y), len(z)
            term = ((weight * x) @ c[:r1, :r2, :r3].reshape(r1, -1)).view(r1, r2, r3)
            total[:r1, :r2, :r3] += torch.matmul(y, term) @ z
        return total

    def energy(self, c: Float[Tensor, "rx ry rz"]) -> Tensor:
        r""":math:`\tfrac12 \langle C, K C \rangle`, differentiable to any order."""
        return cast(Tensor, _Quadratic.apply(c, self))


class _Quadratic(torch.autograd.Function):
    """The energy keeps K C, so that a first gradient costs nothing more."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, kernel: TuckerKernel) -> Tensor:
        product = kernel.apply(c)
        ctx.kernel = kernel
        ctx.save_for_backward(c, product)
        return 0.5 * (c * product).double().sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        c, product = ctx.saved_tensors
        if torch.is_grad_enabled():
            product = linear_map(c, ctx.kernel.apply, ctx.kernel.apply)  # its own adjoint
        return grads[0].to(c.dtype) * product, None


def contract(grid: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The three-fold product of a grid [nx, ny, nz] with matrices [nx, rx], [ny, ry], [nz, rz]."""
    x, y, z = matrices
    inner = torch.matmul(y.mT, torch.matmul(grid, z))
    return (x.mT @ inner.reshape(len(x), -1)).view(x.shape[1], *inner.shape[1:])
