r"""What atoms tell each other, tensors coupled with directions."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.hamiltonian.coupling_paths import PathProduct
from equiv.hamiltonian.message_kernel import message_library
from equiv.hamiltonian.pair_functions import Atoms, arranged, arranged_back, path_weights
from equiv.hamiltonian.row_functions import RowFunction, call, ints, pointers, possible


class Messages(ExactConstants):
    r"""What every atom hears of all others.

    .. math::
        z_i = \sum_{j} \sum_{p \in S} w^p_{ij} \odot \big( x_j \otimes_p Y(\hat r_{ij}) \big)

    :math:`p` runs over a selection :math:`S` of the even couplings. The weights are those of pairs,
    the same both ways (:math:`Y(-\hat r) = (-1)^l Y(\hat r)`), and are not kept for the backward
    pass. Cost, for each pair and channel: two multiply-adds for every bracket that is not zero, and
    twice that backwards.

    Args:
        product: the couplings, of natural degrees that :math:`x`, :math:`Y` and :math:`z` share.
    """

    def __init__(self, product: PathProduct) -> None:
        super().__init__()
        self.product = product
        signs = [(-1.0) ** l for _, l in product.second.irreps]
        self.register_constant("signs", product.second.spread(signs))
        self.signs: Tensor
        self._tables: dict[tuple[int, ...], MessageTable] = {}

    def forward(
        self,
        x: Float[Tensor, "atoms components channels"],
        y: Float[Tensor, "pairs components"],
        pairs: Atoms,
        hidden: Float[Tensor, "pairs hidden"],
        rows: Float[Tensor, "paths hidden channels"],
        factors: Float[Tensor, " selected"],
        selection: tuple[int, ...],
    ) -> Float[Tensor, "atoms components channels"]:
        r"""The messages of all pairs.

        Args:
            x: features of the atoms.
            y: harmonics of the direction from the first atom of each pair to the second.
            pairs: both atoms of every pair.
            hidden: of the weights :math:`w^p_{ij} = c_p\, h_{ij} R^p`, which are made when they are
                needed.
            rows: :math:`R`, of all paths.
            factors: :math:`c`, of the selected ones.
            selection: the paths :math:`S`.
        """

        def plain(x: Tensor, y: Tensor, hidden: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
            first, second = pairs
            weights = path_weights(hidden, rows, factors, selection)
            told = self.product(
                x.index_select(0, torch.cat([second, first])),
                torch.cat([y, y * self.signs.to(y.dtype)]).unsqueeze(-1),
                torch.cat([weights, weights]),
                selection,
            )
            zero = x.new_zeros(len(x), *told.shape[1:])
            return zero.index_add(0, torch.cat([first, second]), told)

        if not possible(x, y, hidden, rows, factors):
            return plain(x, y, hidden, rows, factors)
        if selection not in self._tables:
            self._tables = {selection: MessageTable(self.product, selection)}
        table, signs = self._tables[selection], self.signs.to(x.dtype)
        return call(_Messages, plain, table, pairs, signs, x, y, hidden, rows, factors)


class MessageTable:
    """The couplings of some paths, by path and component of the result, as the kernel reads them.

    Args:
        product: with all paths.
        selection: those to compute.
    """

    def __init__(self, product: PathProduct, selection: tuple[int, ...]) -> None:
        self.selection = torch.tensor(selection)
        entries, coefficients = product.entries(selection)
        x, y, z, path = entries.unbind(1)
        order = (path * product.out.dim + z).sort(stable=True).indices
        heads = torch.stack([path, z], 1)[order]
        heads, counts = torch.unique_consecutive(heads, dim=0, return_counts=True)
        self.sums = torch.cat([heads, counts.cumsum(0)[:, None]], 1).to(torch.int32).contiguous()
        self.entries = torch.stack([x, y], 1)[order].to(torch.int32).contiguous()
        self.coefficients = {
            dtype: coefficients[order].to(dtype) for dtype in (torch.float32, torch.float64)
        }

    def pointers(self, dtype: torch.dtype) -> "_Table":
        """Sizes and places."""
        tensors = (self.sums, self.entries, self.coefficients[dtype])
        return _Table(len(self.sums), len(self.entries), *(t.data_ptr() for t in tensors))


class _Table(ctypes.Structure):
    _fields_ = (
        ("sums", ctypes.c_int64),
        ("entries", ctypes.c_int64),
        ("sum", ctypes.c_void_p),
        ("entry", ctypes.c_void_p),
        ("coefficient", ctypes.c_void_p),
    )


class _Pairs(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("sign", ctypes.c_void_p),
    )


class _Messages(RowFunction):
    constants = 4

    @staticmethod
    def forward(
        ctx: Any, plain: Any, table: MessageTable, pairs: Atoms, signs: Tensor, *given: Tensor
    ) -> Tensor:
        ctx.plain, ctx.table, ctx.pairs, ctx.signs = plain, table, pairs, signs
        ctx.save_for_backward(*given)
        x, y, hidden, rows, factors = given
        z = torch.zeros_like(x)
        weights = hidden @ arranged(table.selection, rows, factors)
        _run("messages", ctx, torch.get_num_threads(), x, y, weights, z)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        given, index = ctx.saved_tensors, ctx.table.selection
        if torch.is_grad_enabled():
            return _Messages.slow(ctx, given, grads)
        x, y, hidden, rows, factors = given
        matrix = arranged(index, rows, factors)
        weights = hidden @ matrix
        gx, gw = torch.zeros_like(x), torch.zeros_like(weights)
        gy = torch.zeros_like(y) if ctx.needs_input_grad[5] else None
        threads = torch.get_num_threads() if gy is None else 1  # channels share gy
        _run("messages_back", ctx, threads, x, y, weights, grads[0].contiguous(), gx, gw, gy)
        of_matrix = arranged_back(index, rows, factors, hidden.T @ gw)
        return None, None, None, None, gx, gy, gw @ matrix.T, *of_matrix


def _run(name: str, ctx: Any, threads: int, *tensors: Tensor | None) -> None:
    """Call a kernel with x, y, weights and what else it takes."""
    x, y, weights = (t for t in tensors[:3] if t is not None)
    paths = len(ctx.table.selection)
    sizes = (ctypes.c_int64 * 4)(x.shape[1], y.shape[1], paths, x.shape[2])
    first, second = (atoms.contiguous() for atoms in ctx.pairs)
    pairs = _Pairs(len(weights), first.data_ptr(), second.data_ptr(), ctx.signs.data_ptr())
    structures = map(ctypes.byref, (ctx.table.pointers(x.dtype), pairs))
    library: Any = message_library(x.dtype)
    getattr(library, name)(sizes, *structures, *ints(threads), *pointers(*tensors))
