r"""Products channel by channel, given by the list of their coefficients."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.tensor_products.coupling_kernel import Table, coupling_library
from equiv.tensor_products.forms import Form, Kernel, W, X, Y, Z
from equiv.tensor_products.lanes import Components

_OTHERS = ((Y, Z, W), (X, Z, W), (X, Y, W), (X, Y, Z))
"""For each operand the two whose products are summed first, and the one that multiplies the sum."""


class Couplings(Form):
    r"""A form that is linear in each of four operands.

    .. math::
        S(x, y, z, w) = \sum_{n c} C_n\; x_{i_n c}\; y_{j_n c}\; z_{k_n c}\; w_{p_n c}

    over the entries :math:`n` of a table: components :math:`i, j, k` of the operands, the path
    :math:`p` and a coefficient. Cost: two multiplications for each entry, row and channel
    (:mod:`equiv.tensor_products.coupling_kernel`); nothing is stored in between. Derivatives of any
    order are as fast.

    Args:
        operands: where the components of x, y, z and the weights are.
        channels: how many there are.
        entries: the table, ``i, j, k, p`` in each row, with ``p = -1`` where there is no weight.
        coefficients: C.
    """

    def __init__(
        self,
        operands: tuple[Components, Components, Components, Components],
        channels: int,
        entries: Int[Tensor, "entries 4"],
        coefficients: Float[Tensor, " entries"],
    ) -> None:
        super().__init__(operands, channels)
        self.entries, self.coefficients = entries, coefficients.to(torch.float64)

    def available(self, dtype: torch.dtype) -> bool:
        return coupling_library(dtype) is not None

    def kernel(self, dtype: torch.dtype) -> Kernel:
        library: Any = coupling_library(dtype)
        tables, kept = zip(*(self._table(n, dtype) for n in range(4)), strict=True)
        pointers = [ctypes.pointer(table) for table in tables]

        def run(rows: int, channels: int, threads: int, operands: Any) -> None:
            library.couple(rows, channels, threads, operands, *pointers)

        return Kernel(self, run, kept)

    def _table(self, wanted: int, dtype: torch.dtype) -> tuple[Table, Any]:
        """The entries as the kernel reads them: sorted by one operand."""
        entries, coefficients = self.entries, self.coefficients
        if wanted == W:
            some = entries[:, W] >= 0
            entries, coefficients = entries[some], coefficients[some]
        first, second, factor = _OTHERS[wanted]
        keys = entries[:, [wanted, factor, first, second]]
        order = torch.unique(keys, dim=0, return_inverse=True)[1].argsort(stable=True)
        keys, numbers = keys[order], coefficients[order].to(dtype)
        heads, counts = torch.unique_consecutive(keys[:, :2], dim=0, return_counts=True)
        sums = torch.cat([heads, counts.cumsum(0)[:, None]], dim=1).to(torch.int32).contiguous()
        pairs = keys[:, 2:].to(torch.int32).contiguous()
        table = Table(len(sums), sums.data_ptr(), pairs.data_ptr(), numbers.data_ptr())
        return table, (sums, pairs, numbers)
