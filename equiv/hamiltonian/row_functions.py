r"""Functions of feature tensors ``[rows, components, channels]`` with kernels of their own.

Each is defined by a few lines of torch, ``plain``, which is what compilers, GPUs and second
derivatives see. Elsewhere :mod:`equiv.hamiltonian.row_kernels` computes the same.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.row_kernels import row_library
from equiv.partial import partial_gradients
from equiv.tensor_products.lanes import is_plain


class Rows:
    """The irreps of a feature tensor, as kernels and as torch read them.

    Args:
        degrees: the irreps.
        channels: of each.
    """

    def __init__(self, degrees: Degrees, channels: int) -> None:
        self.degrees, self.channels = degrees, channels
        self.starts = torch.tensor([*degrees.starts, degrees.dim])
        self.owners = degrees.owners
        self.mean = degrees.summation / degrees.summation.sum(1, keepdim=True)

    def sizes(self, rows: int) -> tuple[int, int, int, int]:
        """Rows, components, irreps, where the irreps start: the first arguments of kernels."""
        return rows, self.degrees.dim, len(self.degrees), self.starts.data_ptr()


def linear(rows: Rows, grades: int, x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """A matrix ``weight[irrep * grades + grade]`` for each irrep and group of channels."""

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        owners = rows.owners[:, None] * grades + torch.arange(grades)
        parts = x.reshape(x.shape[0], -1, weight.shape[1]).transpose(0, 1)
        matrices = weight.index_select(0, owners.flatten().to(x.device)) * scale
        return torch.bmm(parts, matrices).transpose(0, 1).reshape(x.shape)

    if not possible(x, weight):
        return plain(x, weight)
    return call(_Linear, plain, rows, grades, scale, x, weight)


def norms(rows: Rows, even: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Even scalars and norms of the normalised rows, and the factor that normalises a row."""

    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        squares = rows.mean.to(x) @ (x * x)
        size = torch.rsqrt(1 + squares.mean((1, 2), keepdim=True))
        norm = torch.sqrt(squares * (size * size) + 1e-4)
        return torch.cat([x[:, 0, :even] * size[:, 0], norm.flatten(1)], 1), size

    return call(_Norms, plain, rows, even, x) if possible(x) else plain(x)


def gates(rows: Rows, even: int, x: Tensor, size: Tensor, out: Tensor) -> Tensor:
    """Normalised rows times gates, and what is added to even scalars."""

    def plain(x: Tensor, size: Tensor, out: Tensor) -> Tensor:
        gate = out[:, : out.shape[1] - even].unflatten(1, (-1, rows.channels))
        added = out[:, None, out.shape[1] - even :]
        added = nn_pad(added, (0, rows.channels - even, 0, rows.degrees.dim - 1))
        return torch.addcmul(added, x * size, gate.index_select(1, rows.owners.to(x.device)))

    return (
        call(_Gates, plain, rows, even, x, size, out)
        if possible(x, size, out)
        else plain(x, size, out)
    )


def inner(rows: Rows, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Sum of the scalars and inner products of all irreps of the two atoms of each pair."""

    def plain(x: Tensor) -> Tensor:
        x_i, x_j = x.index_select(0, first), x.index_select(0, second)
        product = rows.mean.to(x) @ (x_i * x_j)
        return torch.cat([x_i[:, 0] + x_j[:, 0], product.flatten(1)], 1)

    return call(_Inner, plain, rows, first, second, x) if possible(x) else plain(x)


def together(x: Tensor, first: Tensor, second: Tensor, signs: Tensor) -> Tensor:
    """Features of the first atom of each pair plus those of the second with a sign per channel."""

    def plain(x: Tensor) -> Tensor:
        return torch.addcmul(x.index_select(0, first), x.index_select(0, second), signs)

    return call(_Together, plain, first, second, signs, x) if possible(x) else plain(x)


def add_rows(x: Tensor, index: Tensor, update: Tensor) -> Tensor:
    """``x`` with ``update`` added in place to some of its rows; neither is kept."""
    return _AddRows.apply(x, index, update)  # pyright: ignore[reportReturnType]


class _AddRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, update: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(index)
        return x.index_add_(0, index, update)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (index,) = ctx.saved_tensors
        return grads[0], None, grads[0].index_select(0, index)


nn_pad = torch.nn.functional.pad


def possible(*tensors: Tensor) -> bool:
    """Whether there are kernels for these tensors."""
    return all(map(is_plain, tensors)) and row_library(tensors[0].dtype) is not None


def call(function: type[Function], *arguments: Any) -> Any:
    """Apply a function whose kernel takes contiguous tensors.

    They are made so here and not in the function: what is saved there must be what it was given,
    or second derivatives would end at the copy.
    """
    return function.apply(*(a.contiguous() if isinstance(a, Tensor) else a for a in arguments))


def library(x: Tensor) -> Any:
    """The kernels for numbers of this type."""
    return row_library(x.dtype)


def ints(*numbers: int) -> tuple[ctypes.c_int64, ...]:
    """For C."""
    return tuple(ctypes.c_int64(n) for n in numbers)


def pointers(*tensors: Tensor | None) -> tuple[ctypes.c_void_p, ...]:
    """Where the numbers of contiguous tensors are; null for ``None``."""
    return tuple(ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors)


def real(x: Tensor, value: float) -> Any:
    """A number of the type of ``x``, for C."""
    return (ctypes.c_float if x.dtype is torch.float32 else ctypes.c_double)(value)


class RowFunction(Function):
    """A function with a kernel, and with torch for derivatives of its derivative."""

    constants: int  # arguments that are not differentiable, `plain` included

    @classmethod
    def slow(cls, ctx: Any, inputs: tuple[Tensor, ...], grads: tuple[Any, ...]) -> Any:
        """Gradients that can be differentiated again."""
        needed = ctx.needs_input_grad[cls.constants :]
        return (*[None] * cls.constants, *partial_gradients(ctx.plain, inputs, needed, grads))


class _Linear(RowFunction):
    constants = 4

    @staticmethod
    def forward(
        ctx: Any, plain: Any, rows: Rows, grades: int, scale: float, x: Tensor, weight: Tensor
    ) -> Tensor:
        ctx.plain, ctx.rows, ctx.grades, ctx.scale = plain, rows, grades, scale
        ctx.save_for_backward(x, weight)
        y = torch.empty_like(x)
        n, dim, irreps, starts = rows.sizes(x.shape[0])
        library(x).linear(
            *ints(n, dim, irreps, starts, grades, weight.shape[1]),
            *pointers(x, weight, y),
            real(x, scale),
            *ints(0, 0),
        )
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Linear.slow(ctx, (x, weight), grads)
        g, rows = grads[0].contiguous(), ctx.rows
        sizes = ints(*rows.sizes(x.shape[0]), ctx.grades, weight.shape[1])
        scale, gx, gw = real(x, ctx.scale), None, None
        if ctx.needs_input_grad[4]:
            gx = torch.empty_like(x)
            library(x).linear(*sizes, *pointers(g, weight, gx), scale, *ints(1, 0))
        if ctx.needs_input_grad[5]:
            gw = torch.zeros_like(weight)
            library(x).linear_weight(*sizes, *pointers(x, g, gw), scale)
        return None, None, None, None, gx, gw


class _Norms(RowFunction):
    constants = 3

    @staticmethod
    def forward(ctx: Any, plain: Any, rows: Rows, even: int, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.plain, ctx.rows, ctx.even = plain, rows, even
        n, _, channels = x.shape
        found = x.new_empty(n, even + len(rows.degrees) * channels)
        size = x.new_empty(n, 1, 1)
        sizes = ints(*rows.sizes(n), channels, even)
        library(x).norms(*sizes, *pointers(x, found, size))
        ctx.save_for_backward(x, found, size)
        return found, size

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, found, size = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Norms.slow(ctx, (x,), grads)
        g, gs = (z.contiguous() for z in grads)
        gx = torch.zeros_like(x)
        sizes = ints(*ctx.rows.sizes(x.shape[0]), x.shape[2], ctx.even)
        library(x).norms_back(*sizes, *pointers(x, found, size, g, gs, gx))
        return None, None, None, gx


class _Gates(RowFunction):
    constants = 3

    @staticmethod
    def forward(
        ctx: Any, plain: Any, rows: Rows, even: int, x: Tensor, size: Tensor, out: Tensor
    ) -> Tensor:
        ctx.plain, ctx.rows, ctx.even = plain, rows, even
        ctx.save_for_backward(x, size, out)
        y = torch.empty_like(x)
        sizes = ints(*rows.sizes(x.shape[0]), x.shape[2], even)
        library(x).gates(*sizes, *pointers(x, size, out, y))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, size, out = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Gates.slow(ctx, (x, size, out), grads)
        g = grads[0].contiguous()
        gx, gs, gout = torch.empty_like(x), torch.empty_like(size), torch.empty_like(out)
        sizes = ints(*ctx.rows.sizes(x.shape[0]), x.shape[2], ctx.even)
        library(x).gates_back(*sizes, *pointers(x, size, out, g, gx, gs, gout))
        return None, None, None, gx, gs, gout


class _Inner(RowFunction):
    constants = 4

    @staticmethod
    def forward(
        ctx: Any, plain: Any, rows: Rows, first: Tensor, second: Tensor, x: Tensor
    ) -> Tensor:
        ctx.plain, ctx.rows, ctx.index = plain, rows, (first, second)
        ctx.save_for_backward(x)
        found = x.new_empty(len(first), (len(rows.degrees) + 1) * x.shape[2])
        sizes = ints(*rows.sizes(len(first)), x.shape[2])
        library(x).inner(*sizes, *pointers(x, first, second, found))
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Inner.slow(ctx, (x,), grads)
        first, second = ctx.index
        g, gx = grads[0].contiguous(), torch.zeros_like(x)
        sizes = ints(*ctx.rows.sizes(len(first)), x.shape[2])
        library(x).inner_back(*sizes, *pointers(x, first, second, g, gx))
        return None, None, None, None, gx


def joined(x: Tensor, first: Tensor, second: Tensor, signs: Tensor) -> Tensor:
    """What :func:`together` gives, by its kernel."""
    z = x.new_empty(len(first), *x.shape[1:])
    library(x).together(*ints(*z.shape), *pointers(x, first, second, signs, z))
    return z


def joined_back(g: Tensor, first: Tensor, second: Tensor, signs: Tensor, into: Tensor) -> None:
    """Add the gradient by ``x``, given that by the result."""
    sizes = ints(len(first), *into.shape[1:])
    library(into).together_back(*sizes, *pointers(g, first, second, signs, into))


class _Together(RowFunction):
    constants = 4

    @staticmethod
    def forward(
        ctx: Any, plain: Any, first: Tensor, second: Tensor, signs: Tensor, x: Tensor
    ) -> Tensor:
        ctx.plain, ctx.index, ctx.signs = plain, (first, second), signs
        ctx.save_for_backward(x)
        return joined(x, first, second, ctx.signs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Together.slow(ctx, (x,), grads)
        first, second = ctx.index
        gx = torch.zeros_like(x)
        joined_back(grads[0].contiguous(), first, second, ctx.signs, gx)
        return None, None, None, None, gx
