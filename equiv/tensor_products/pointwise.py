r"""Products computed point by point, in blocks that stay in the cache, with exact derivatives."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from equiv.constants import ExactConstants
from equiv.multilinear import MultilinearForm

Field = tuple[Float[Tensor, "points rows channels"], ...]
"""Values of a function at the points, in one or several parts."""


class PointwiseProduct(ExactConstants, MultilinearForm):
    r"""A product of three spherical tensors that is a plain product of numbers at certain points.

    .. math::
        T(x, y, z) = \sum_g (A_0 x)_g\, (A_1 y)_g\, (A_2 z)_g, \qquad
        \text{result} = \frac{\partial T}{\partial z} = A_2^T \big( A_0 x \odot A_1 y \big)

    The linear maps :math:`A_0, A_1, A_2` turn the components of an *operand* into values at points;
    quadrature weights are part of :math:`A_2`. The form is symmetric in its three operands: its
    derivatives are all computed in the same way. Rows are taken in blocks whose values stay in the
    processor's cache, and nothing but the arguments is kept for the backward pass, which computes
    the values again. With many rows that is faster than storing the values and reading them back,
    needs a fraction of the memory, and derivatives of any order are exact. To a compiler, which
    fuses and stores as it sees fit, the product shows its plain form, and so it does to
    ``torch.func``.

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
        return self.derivative(2, x, y, None)

    def plain(
        self,
        x: Float[Tensor, "rows lm1 channels_or_1"],
        y: Float[Tensor, "rows lm2 channels_or_1"],
    ) -> Float[Tensor, "rows lm channels"]:
        """The product in plain operations on all rows at once."""
        field = self.multiply(self.field(0, x), self.field(1, y))
        return torch.cat([p.transpose(0, 1) for p in self.pieces(2, field)], dim=1)

    def compute(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        present = [t for t in given if t is not None]
        channels = max(t.shape[2] for t in present)
        out = []
        for k in wanted:
            own = channels if (t := given[k]) is None else t.shape[2]
            out.append(present[0].new_empty(present[0].shape[0], self.dims[k], own))
        if len(wanted) == 2:
            self._two(wanted, given, out)
            return out
        for k, result in zip(wanted, out, strict=True):
            i, j = (n for n in range(3) if n != k)
            for a, b, c in zip(*self._blocks(given[i], given[j], result), strict=True):
                self._write(c, k, self.multiply_(self.field(i, a), self.field(j, b)))
        return out

    def _two(self, wanted: Sequence[int], given: Sequence[Any], out: Sequence[Tensor]) -> None:
        """Two derivatives share the field of the third operand."""
        i, j = wanted
        k = 3 - i - j
        blocks = self._blocks(given[i], given[j], given[k], *out)
        for a, b, c, ga, gb in zip(*blocks, strict=True):
            field = self.field(k, c)
            self._write(ga, i, self.multiply_(self.field(j, b), field))
            self._write(gb, j, self.multiply_(self.field(i, a), field))

    def _blocks(self, *tensors: Any) -> list[Sequence[Tensor]]:
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


def components_first(
    x: Float[Tensor, "rows lm channels"], parts: Sequence[slice]
) -> Float[Tensor, "lm columns"]:
    """Some components of all rows and channels, as the columns of a contiguous matrix."""
    columns = x.transpose(0, 1)
    return torch.cat([columns[part] for part in parts]).flatten(1)
