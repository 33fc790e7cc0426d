r"""Products on a grid with their weights and layouts, in blocks of rows and memory used again."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Matrices = tuple[
    Float[Tensor, "points lm1"], Float[Tensor, "points lm2"], Float[Tensor, "points lm"]
]


@dataclass(frozen=True)
class Layout:
    """Where the components of all degrees up to ``l_max`` are in the rows of a tensor.

    Attributes:
        l_max: highest degree; none is missing.
        flat: whether rows are flat irreps, degree by degree, or spherical tensors.
    """

    l_max: int
    flat: bool

    @property
    def dim(self) -> int:
        """Number of components."""
        return (self.l_max + 1) ** 2


FIELD = 2**16
"""Numbers in the values of a block at all points."""

DIRECT = 16
"""Channels from which weights are multiplied while components and rows change places."""


class WeightedGridProduct:
    r"""A product on a grid with a weight for each degree and channel of all three tensors.

    .. math::
        z_{kc} = c_{kc} \sum_g B_{gk} \Big( \sum_i A_{gi}\, a_{ic}\, x_{ic} \Big)
        \Big( \sum_j A'_{gj}\, b_{jc}\, y_{jc} \Big)

    with weights :math:`a, b, c` that all rows share and all components of a degree, or none. What
    limits such a product is memory, not arithmetic. So it takes blocks of rows; multiplies whole
    rows by the weights; brings the components first, from spherical tensors or e3nn's flat layout,
    so that one matrix product takes all rows and channels; keeps all that is in between in scratch
    memory of the thread, which the next call finds in place; and computes the values again for the
    derivatives.

    Second derivatives and tracing go through ``composed``, the same map in differentiable steps.

    Args:
        layouts: of x, y and the result.
        channels: of all three.
    """

    def __init__(self, layouts: tuple[Layout, Layout, Layout], channels: int) -> None:
        self.layouts, self.channels = layouts, channels
        self.sizes = [layout.dim * channels for layout in layouts]
        index, start = [], 0
        for layout in layouts:
            for l in range(layout.l_max + 1):
                columns, m = start + torch.arange(channels), 2 * l + 1
                index.append(columns.repeat_interleave(m) if layout.flat else columns.repeat(m))
                start += channels
        # entry of a row of x, then y, then z -> weight
        self.index = torch.cat(index)

    def factors(self, weight: Float[Tensor, "1 weights"] | None) -> Sequence[Tensor | None]:
        """The weight of every entry of a row of x, y and z."""
        if weight is None:
            return None, None, None
        return (
            weight.view(-1)
            .index_select(0, self.index.to(weight.device))
            .split_with_sizes(self.sizes)
        )

    def shape(self, operand: int, rows: int) -> tuple[int, ...]:
        """Shape of rows of x, y or z."""
        size, layout = self.sizes[operand], self.layouts[operand]
        return (rows, size) if layout.flat else (rows, layout.dim, self.channels)

    def __call__(
        self,
        matrices: Matrices,
        composed: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        x: Tensor,
        y: Tensor,
        weight: Float[Tensor, "1 weights"] | None,
    ) -> Tensor:
        """The product of rows.

        Args:
            matrices: :math:`A, A', B`.
            composed: the same map.
            x: rows in the first layout.
            y: rows in the second.
            weight: those of x, then y, then z, by degree and channel.
        """
        result: Any = _Product.apply(self, matrices, composed, x, y, weight)
        return result


def is_traced(x: Tensor) -> bool:
    """Whether somebody looks at the operations rather than at the result."""
    return (
        torch.compiler.is_compiling()
        or isinstance(x, FakeTensor)
        or torch._C._are_functorch_transforms_active()
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, form: WeightedGridProduct, matrices: Any, composed: Any, x: Any, y: Any, w: Any
    ) -> Tensor:
        ctx.form, ctx.matrices, ctx.composed = form, matrices, composed
        ctx.save_for_backward(x, y, w)
        out = x.new_empty(x.shape[0], form.sizes[2])
        a, b, c = form.factors(w)
        for block, (u, v, z) in _blocks(
            form, matrices, (*(t.contiguous().flatten(1) for t in (x, y)), out)
        ):
            f, h = block.values(0, u, a), block.values(1, v, b)
            block.project(2, torch.mul(f, h, out=f))
            block.write(2, c, z)
        return out.view(form.shape(2, x.shape[0]))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y, w = ctx.saved_tensors
        form, needs, g = ctx.form, ctx.needs_input_grad[3:], grads[0]
        if torch.is_grad_enabled():  # a derivative of the derivative may be asked for
            asked = [t for t, need in zip((x, y, w), needs, strict=True) if need]
            found = iter(torch.autograd.grad(ctx.composed(x, y, w), asked, g, create_graph=True))
            return None, None, None, *(next(found) if need else None for need in needs)
        gx, gy = (x.new_empty(x.shape[0], size) for size in form.sizes[:2])
        gw = x.new_zeros(sum(form.sizes)) if needs[2] else None
        sums = gw.split(form.sizes) if gw is not None else None
        factors = form.factors(w)
        tensors = (*(t.contiguous().flatten(1) for t in (x, y, g)), gx, gy)
        for block, parts in _blocks(form, ctx.matrices, tensors):
            f, h, k = (block.values(i, parts[i], factors[i]) for i in range(3))
            for i, first, second in ((0, h, k), (1, f, k), (2, f, h)):
                if sums is None and (i == 2 or not needs[i]):
                    continue
                block.project(i, torch.mul(first, second, out=block.product))
                if sums is not None:
                    block.sum_over_rows(i, parts[i], sums[i])
                if i < 2 and needs[i]:
                    block.write(i, factors[i], parts[3 + i])
        gweight = None
        if gw is not None:
            gweight = (
                w.new_zeros(w.shape[1]).index_add_(0, form.index.to(gw.device), gw).unsqueeze(0)
            )
        rows = x.shape[0]
        return (
            *(None, None, None),
            gx.view(form.shape(0, rows)) if needs[0] else None,
            gy.view(form.shape(1, rows)) if needs[1] else None,
            gweight,
        )


class _Block:
    """Scratch memory for some rows, and what is done in it."""

    def __init__(self, form: WeightedGridProduct, points: int, rows: int, memory: Tensor) -> None:
        self.memory, c = memory, form.channels
        size = max(form.sizes) * rows
        first, second, third = (memory[i * size : (i + 1) * size] for i in range(3))
        natural = [first[: n * rows].view(rows, n) for n in form.sizes]
        columns = [third[: n * rows].view(-1, rows * c) for n in form.sizes]
        self.natural, self.columns = natural, columns
        self.spare = [second[: n * rows].view(rows, n) for n in form.sizes]
        self.channels = c
        self.first = [matrix.view(-1, rows, c) for matrix in columns]
        # long runs of channels are turned and multiplied at once, short ones one after the other
        self.direct = [i for i in range(3) if not form.layouts[i].flat and c >= DIRECT]
        # pairs of views of the same components, in the layout and with the components first
        self.pairs: list[list[tuple[Tensor, Tensor]]] = []
        for layout, rowwise, first_axis in zip(form.layouts, natural, self.first, strict=True):
            if not layout.flat:
                self.pairs.append([(rowwise.view(rows, -1, c).transpose(0, 1), first_axis)])
                continue
            degrees = range(layout.l_max + 1)
            parts = rowwise.split([(2 * l + 1) * c for l in degrees], dim=1)
            self.pairs.append(
                [
                    (part.unflatten(1, (c, -1)).permute(2, 0, 1), first_axis[l**2 : (l + 1) ** 2])
                    for l, part in enumerate(parts)
                ]
            )
        fields = memory[3 * size :][: 4 * points * c * rows].view(4, points, rows * c)
        *self.fields, self.product = fields

    def bind(self, matrices: Matrices) -> None:
        """Take the matrices of this call."""
        self.matrices = matrices

    def values(self, operand: int, x: Tensor, factors: Tensor | None) -> Tensor:
        """Values at the points of rows times factors."""
        if operand in self.direct:
            _times(self.turned(x), self.by_component(factors), self.first[operand])
        else:
            _times(x, factors, self.natural[operand])
            for rowwise, first in self.pairs[operand]:
                first.copy_(rowwise)
        return torch.mm(self.matrices[operand], self.columns[operand], out=self.fields[operand])

    def project(self, operand: int, field: Tensor) -> None:
        """The adjoint: components of a field, for :meth:`sum_over_rows` and :meth:`write`."""
        torch.mm(self.matrices[operand].T, field, out=self.columns[operand])
        if operand not in self.direct:
            for rowwise, first in self.pairs[operand]:
                rowwise.copy_(first)

    def sum_over_rows(self, operand: int, x: Tensor, total: Tensor) -> None:
        """Add the sum over rows of the components and x to the total."""
        if operand in self.direct:
            spare = self.spare[operand].view(self.first[operand].shape)
            torch.mul(self.turned(x), self.first[operand], out=spare)
            total.add_(spare.sum(1).view(-1))
        else:
            total.add_(torch.mul(x, self.natural[operand], out=self.spare[operand]).sum(0))

    def write(self, operand: int, factors: Tensor | None, out: Tensor) -> None:
        """The components times factors."""
        if operand in self.direct:
            _times(self.first[operand], self.by_component(factors), self.turned(out))
        else:
            _times(self.natural[operand], factors, out)

    def turned(self, x: Tensor) -> Float[Tensor, "lm rows channels"]:
        """Rows of spherical tensors with the components first, in their memory."""
        return x.view(x.shape[0], -1, self.channels).transpose(0, 1)

    def by_component(self, factors: Tensor | None) -> Tensor | None:
        return None if factors is None else factors.view(-1, 1, self.channels)


def _times(x: Tensor, factors: Tensor | None, out: Tensor) -> None:
    if factors is None:
        out.copy_(x)
    else:
        torch.mul(x, factors, out=out)


def _blocks(
    form: WeightedGridProduct, matrices: Matrices, tensors: Sequence[Tensor]
) -> Iterator[tuple[_Block, Sequence[Tensor]]]:
    """Rows of all tensors in blocks of about equal length, with memory for each."""
    rows, points = tensors[0].shape[0], matrices[0].shape[0]
    if not rows:
        return
    step = math.ceil(rows / math.ceil(rows * points * form.channels / FIELD))
    parts = [tensors] if step == rows else zip(*(t.split(step) for t in tensors), strict=True)
    for part in parts:
        block = _SCRATCH.block(form, points, part[0])
        block.bind(matrices)
        yield block, part


class _Scratch(threading.local):
    """Memory for numbers that no one sees, one piece for each thread and kind."""

    def __init__(self) -> None:
        self.memory: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self.blocks: WeakKeyDictionary[Any, dict[Any, _Block]] = WeakKeyDictionary()

    def block(self, form: WeightedGridProduct, points: int, like: Tensor) -> _Block:
        """A block for the rows of a tensor, made once for each number of rows."""
        rows, kind = like.shape[0], (like.dtype, like.device)
        known = self.blocks.setdefault(form, {})
        block, memory = known.get((rows, kind)), self.memory.get(kind)
        if block is None or block.memory is not memory:
            size = (3 * max(form.sizes) + 4 * points * form.channels) * rows
            with torch.inference_mode(False), torch.no_grad():
                if memory is None or len(memory) < size:
                    memory = torch.empty(size, dtype=like.dtype, device=like.device)
                    self.memory[kind] = memory
                block = _Block(form, points, rows, memory)
            if len(known) > 8:
                known.clear()
            known[rows, kind] = block
        return block


_SCRATCH = _Scratch()
