"""Rows that belong together, and sums over them whose gradients are gathers."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.graph.adjoint import linear_map
from equiv.graph.sorting import sorting_order


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
        order = sorting_order(of)
        start = torch.cumsum(counts, 0) - counts
        column = torch.arange(rows, device=of.device) - start[of[order]]
        table = of.new_full((num_groups, int(counts.max()) if rows else 0), rows)
        table[of[order], column] = order
        return cls(of, table)

    def total(self, x: Float[Tensor, "rows *rest"]) -> Float[Tensor, "groups *rest"]:
        """The sum of every group."""
        return linear_map(x, self._total, self._spread)

    def spread(self, x: Float[Tensor, "groups *rest"]) -> Float[Tensor, "rows *rest"]:
        """What the group of every row has: the adjoint of :meth:`total`."""
        return linear_map(x, self._spread, self._total)

    def _total(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(1, *x.shape[1:])])[self.table].sum(1)

    def _spread(self, x: Tensor) -> Tensor:
        return x[self.of]
