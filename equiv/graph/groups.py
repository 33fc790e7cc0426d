"""Rows that belong together, and sums over them whose gradients are gathers."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True)
class Groups:
    """A partition of rows into groups, told in both directions.

    Sums run over a padded table instead of scattering, so they need no atomic operations and add in
    the same order every time.

    Attributes:
        of: the group of each row. Shape ``[rows]``.
        table: the rows of each group, padded by the number of rows. Shape ``[groups, most]``.
    """

    of: Int[Tensor, " rows"]
    table: Int[Tensor, "groups most"]

    @classmethod
    def from_index(cls, of: Int[Tensor, " rows"], num_groups: int) -> "Groups":
        """From the group of each row, in any order."""
        rows = of.shape[0]
        counts = torch.bincount(of, minlength=num_groups)
        order = torch.argsort(of, stable=True)
        start = torch.cumsum(counts, 0) - counts
        column = torch.arange(rows, device=of.device) - start[of[order]]
        table = of.new_full((num_groups, int(counts.max()) if rows else 0), rows)
        table[of[order], column] = order
        return cls(of, table)

    def total(self, x: Float[Tensor, "rows *rest"]) -> Float[Tensor, "groups *rest"]:
        """The sum of every group; differentiable any number of times."""
        return _Total.apply(x, self.of, self.table)

    def spread(self, x: Float[Tensor, "groups *rest"]) -> Float[Tensor, "rows *rest"]:
        """What the group of every row has: the adjoint of :meth:`total`."""
        return _Spread.apply(x, self.of, self.table)


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, of: Tensor, table: Tensor) -> Tensor:
        ctx.groups = of, table
        return torch.cat([x, x.new_zeros(1, *x.shape[1:])])[table].sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Spread.apply(grad, *ctx.groups), None, None


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, of: Tensor, table: Tensor) -> Tensor:
        ctx.groups = of, table
        return x[of]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Total.apply(grad, *ctx.groups), None, None
