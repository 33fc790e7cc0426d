r"""Products computed point by point, in blocks that stay in the cache, with exact derivatives."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from equiv.constants import ExactConstants

Field = tuple[Float[Tensor, "points rows channels"], ...]
"""Values of a function at the points, in one or several parts."""


class PointwiseProduct(ExactConstants):
    r"""A product of three spherical tensors that is a plain product of numbers at certain points.

    .. math::
        T(x, y, z) = \sum_g (A_0 x)_g\, (A_1 y)_g\, (A_2 z)_g, \qquad
        \text{result} = \frac{\partial T}{\partial z} = A_2^T \big( A_0 x \odot A_1 y \big)

    The linear maps :math:`A_0, A_1, A_2` turn the components of an *operand* into values at points;
    quadrature weights are part of :math:`A_2`. The form is symmetric in its three operands: every
    derivative of the product, of any order, is again a product of this kind with the operands in
    other roles. Outside of a compiler this is used: rows are taken in blocks whose values stay in
    the processor's cache, and nothing but the arguments is kept for the backward pass, which
    computes the values again. With many rows that is faster than storing the values and
    reading them back, needs a fraction of the memory, and derivatives of any order are exact. To
    a compiler, which fuses and stores as it sees fit, the product shows its plain form, and so it
    does to ``torch.func``.

    Inside a block the components come first and rows and channels last, so that every :math:`A`
    is one matrix product for all rows and channels.

    A subclass gives the three maps (:meth:`field`), their adjoints (:meth:`pieces`) and the product
    of fields (:meth:`multiply`), which must be commutative, associative and symmetric with respect
    to the adjoints.

    Args:
        dims: number of components of the three operands.
        points: numbers per row and channel in the widest field; sets the length of a block.
    """

    def __init__(self, dims: tuple[int, int, int], points: int) -> None:
        super().__init__()
        self.dims = dims
        self.block = max(512, min(8192, 2**17 // points))  # columns; see benchmarks

    @abstractmethod
    def field(self, operand: int, x: Float[Tensor, "rows lm channels"]) -> Field:
        """Values at the points, :math:`A x`."""

    @abstractmethod
    def pieces(self, operand: int, field: Field) -> Sequence[Float[Tensor, "lm rows channels"]]:
        """:math:`A^T f`: successive components of the result."""

    def multiply(self, f: Field, h: Field) -> Field:
        """Product of two fields; may broadcast over channels."""
        return (f[0] * h[0],)

    def multiply_(self, f: Field, h: Field) -> Field:
        """The same, where the memory of f may be used for the result."""
        return self.multiply(f, h)

    def forward(
        self,
        x: Float[Tensor, "rows lm1 channels_or_1"],
        y: Float[Tensor, "rows lm2 channels_or_1"],
    ) -> Float[Tensor, "rows lm channels"]:
        """The product; a single channel is broadcast."""
        if (
            torch.compiler.is_compiling()
            or isinstance(x, FakeTensor)
            or torch._C._are_functorch_transforms_active()
        ):
            return self.plain(x, y)
        if x.requires_grad or y.requires_grad:
            result: Any = _Product.apply(self, (0, 1, 2), max(x.shape[2], y.shape[2]), x, y)
            return result
        return self.products((0, 1, 2), max(x.shape[2], y.shape[2]), x, y)

    def plain(
        self,
        x: Float[Tensor, "rows lm1 channels_or_1"],
        y: Float[Tensor, "rows lm2 channels_or_1"],
    ) -> Float[Tensor, "rows lm channels"]:
        """The product in plain operations on all rows at once."""
        field = self.multiply(self.field(0, x), self.field(1, y))
        return torch.cat([p.transpose(0, 1) for p in self.pieces(2, field)], dim=1)

    def products(
        self, roles: tuple[int, int, int], channels: int, x: Tensor, y: Tensor
    ) -> Float[Tensor, "rows lm channels"]:
        """Block by block: operands ``roles[0]`` and ``roles[1]`` into ``roles[2]``."""
        i, j, k = roles
        out = x.new_empty(x.shape[0], self.dims[k], channels)
        for a, b, c in zip(*self._blocks(x, y, out), strict=True):
            field = self.multiply_(self.field(i, a), self.field(j, b))
            self._write(c, k, field)
        return out

    def gradients(
        self,
        roles: tuple[int, int, int],
        needed: tuple[bool, bool],
        z: Tensor,
        x: Tensor,
        y: Tensor,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Block by block: derivatives of T by operands ``roles[0]`` and ``roles[1]``."""
        i, j, k = roles
        gx, gy = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, y))
        for a, b, c, ga, gb in zip(*self._blocks(x, y, z, gx, gy), strict=True):
            fc = self.field(k, c)
            # the wider field comes first: its memory can hold the product
            if needed[0]:
                fb = self.field(j, b)
                wide = fb[0].shape[2] >= fc[0].shape[2]
                self._write(ga, i, self.multiply_(fb, fc) if wide else self.multiply(fc, fb))
            if needed[1]:
                fa = self.field(i, a)
                wide = fa[0].shape[2] >= fc[0].shape[2]
                self._write(gb, j, self.multiply_(fa, fc) if wide else self.multiply(fc, fa))
        return gx if needed[0] else None, gy if needed[1] else None

    def _blocks(self, *tensors: Tensor) -> list[Sequence[Tensor]]:
        columns = max(t.shape[2] for t in tensors)
        rows = max(1, self.block // max(columns, 1))
        if tensors[0].shape[0] <= rows:
            return [(t,) for t in tensors] if tensors[0].shape[0] else [() for _ in tensors]
        return [t.split(rows) for t in tensors]

    def _write(self, out: Float[Tensor, "rows lm channels"], operand: int, field: Field) -> None:
        if out.shape[2] != field[0].shape[2]:  # the operand was broadcast
            field = tuple(part.sum(2, keepdim=True) for part in field)
        pieces = self.pieces(operand, field)
        if len(pieces) == 1:
            out.copy_(pieces[0].transpose(0, 1))
            return
        start = 0
        for piece in pieces:
            out[:, start : start + len(piece)].copy_(piece.transpose(0, 1))
            start += len(piece)


class _Product(torch.autograd.Function):
    """Two operands into the third; differentiable to any order."""

    @staticmethod
    def forward(
        ctx: Any, kernel: PointwiseProduct, roles: Any, channels: int, x: Tensor, y: Tensor
    ) -> Tensor:
        ctx.kernel, ctx.roles = kernel, roles
        ctx.save_for_backward(x, y)
        return kernel.products(roles, channels, x, y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y = ctx.saved_tensors
        needed = tuple(ctx.needs_input_grad[3:])
        return None, None, None, *_Gradients.apply(ctx.kernel, ctx.roles, needed, grads[0], x, y)


class _Gradients(torch.autograd.Function):
    """The derivatives of the trilinear form with respect to two operands."""

    @staticmethod
    def forward(
        ctx: Any, kernel: PointwiseProduct, roles: Any, needed: Any, z: Tensor, x: Tensor, y: Tensor
    ) -> Any:
        ctx.kernel, ctx.roles = kernel, roles
        ctx.save_for_backward(z, x, y)
        ctx.set_materialize_grads(False)
        return kernel.gradients(roles, needed, z, x, y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        z, x, y = ctx.saved_tensors
        (i, j, k), u, v = ctx.roles, grads[0], grads[1]
        c1, c2, c = x.shape[2], y.shape[2], z.shape[2]
        need_z, need_x, need_y = ctx.needs_input_grad[3:]
        gz = gx = gy = None

        def product(roles: tuple[int, int, int], channels: int, a: Tensor, b: Tensor) -> Any:
            return _Product.apply(ctx.kernel, roles, channels, a, b)

        if u is not None:  # the first result was dT/dx(z, y), and meets u
            gz = product((i, j, k), c, u, y) if need_z else None
            gy = product((k, i, j), c2, z, u) if need_y else None
        if v is not None:  # the second was dT/dy(z, x), and meets v
            if need_z:
                term = product((i, j, k), c, x, v)
                gz = term if gz is None else gz + term
            gx = product((k, j, i), c1, z, v) if need_x else None
        return None, None, None, gz, gx, gy


def components_first(
    x: Float[Tensor, "rows lm channels"], parts: Sequence[slice]
) -> Float[Tensor, "lm columns"]:
    """Some components of all rows and channels, as the columns of a contiguous matrix."""
    columns = x.transpose(0, 1)
    return torch.cat([columns[part] for part in parts]).flatten(1)
