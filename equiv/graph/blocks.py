"""Padded neighbour blocks: one row per atom, one column per neighbour."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function

from equiv.graph.groups import Groups


@dataclass(frozen=True)
class NeighborBlocks:
    r"""Which atoms send to which, as a rectangle with a slot for every edge.

    Slot :math:`(b, k)` is the k-th edge of block :math:`b`. Usually a block is all that one row's
    atom receives; where the numbers of neighbours are very uneven, crowded atoms own several
    blocks. A sum over neighbours is then a batched matrix product over the second axis: no scatter,
    no atomic operations, the same order of summation every time.

    Every edge :math:`j \to i` has a reverse edge :math:`i \to j`, so the slots come in pairs.
    ``reverse`` exchanges the two, and what an atom sends lies in the reverses of its own slots:

    .. math::
        \sum_{s\,:\,\mathrm{sender}(s) = i} y_s = \sum_{s\,:\,\mathrm{receiver}(s) = i}
        y_{\mathrm{reverse}(s)}

    A padded slot is its own reverse, sent by its own receiver; what it carries must be masked, or
    multiplied by something that is zero.

    Attributes:
        senders: row of the sending atom. Shape ``[blocks, width]``.
        mask: true where there is an edge. Shape ``[blocks, width]``.
        reverse: slot of the reverse edge, counted along the flattened blocks. Shape ``[blocks,
            width]``; ``None`` if some edge has none.
        parts: the blocks of each row; ``None`` if blocks are rows.
    """

    senders: Int[Tensor, "blocks width"]
    mask: Bool[Tensor, "blocks width"]
    reverse: Int[Tensor, "blocks width"] | None = None
    parts: Groups | None = None

    def gather(self, x: Float[Tensor, "rows *rest"]) -> Float[Tensor, "blocks width *rest"]:
        """What every slot's sender has. Reads and writes each value once per slot.

        The gradient is :meth:`collect`, a gather as well; both can be differentiated any number of
        times.
        """
        if self.reverse is None:
            return x[self.senders]
        return _Gather.apply(x, self)

    def collect(self, y: Float[Tensor, "blocks width *rest"]) -> Float[Tensor, "rows *rest"]:
        """The sum over what every row's atom has sent: the adjoint of :meth:`gather`."""
        if self.reverse is None:
            rows = y.shape[0] if self.parts is None else self.parts.table.shape[0]
            zeros = y.new_zeros(rows, *y.shape[2:])
            return zeros.index_add(0, self.senders.flatten(), y.flatten(0, 1))
        return _Collect.apply(y, self)

    def total(self, x: Float[Tensor, "blocks *rest"]) -> Float[Tensor, "rows *rest"]:
        """Add up the blocks of every row."""
        return x if self.parts is None else self.parts.total(x)

    def spread(self, x: Float[Tensor, "rows *rest"]) -> Float[Tensor, "blocks *rest"]:
        """Give every block what its row has: the adjoint of :meth:`total`."""
        return x if self.parts is None else self.parts.spread(x)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: NeighborBlocks) -> Tensor:
        ctx.blocks = blocks
        return x[blocks.senders]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Collect.apply(grad, ctx.blocks), None


class _Collect(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, blocks: NeighborBlocks) -> Tensor:
        ctx.blocks = blocks
        return blocks.total(y.flatten(0, 1)[blocks.reverse].sum(1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(grad, ctx.blocks), None


def neighbor_blocks(
    senders: Int[Tensor, " edges"],
    receivers: Int[Tensor, " edges"],
    shifts: Float[Tensor, "edges 3"],
    num_rows: int,
    *,
    multiple_of: int = 4,
    least_width: int = 0,
) -> tuple[NeighborBlocks, Int[Tensor, "blocks width"]]:
    r"""Arrange edges in blocks and pair them with their reverses.

    The width is the largest number of neighbours, rounded up, unless splitting crowded rows into
    several blocks saves memory: then it is the width for which :math:`\mathrm{blocks} \cdot
    (\mathrm{width} + c)` is least, :math:`c` = :data:`BLOCK_COST`.

    Args:
        senders: row of the atom in which each edge begins.
        receivers: row of the atom in which each edge ends, in any order.
        shifts: lattice vectors added to the sender, in units of the cell rows.
        num_rows: number of rows; rows without edges get one empty block.
        multiple_of: the width is a multiple of this.
        least_width: the smallest width.

    Returns:
        The blocks, and the edge in each slot (the number of edges where padded).
    """
    num_edges, device = receivers.shape[0], receivers.device
    counts = torch.bincount(receivers, minlength=num_rows)
    order = torch.argsort(receivers, stable=True)
    start = torch.cumsum(counts, 0) - counts
    place = torch.arange(num_edges, device=device) - start[receivers[order]]
    width, split = _best_width(counts, multiple_of, least_width)

    parts, first_block, num_blocks = None, torch.arange(num_rows, device=device), num_rows
    if split:
        blocks_of = ((counts + width - 1) // width).clamp(min=1)
        owner = torch.repeat_interleave(first_block, blocks_of)
        first_block, num_blocks = torch.cumsum(blocks_of, 0) - blocks_of, owner.shape[0]
        parts = Groups.from_index(owner, num_rows)
    slot = torch.empty_like(order)
    if num_edges:
        slot[order] = first_block[receivers[order]] * width + place
    edge = receivers.new_full((num_blocks * width,), num_edges)
    edge[slot] = torch.arange(num_edges, device=device)

    owners = torch.arange(num_blocks, device=device) if parts is None else parts.of
    sent = owners.repeat_interleave(width)
    sent[slot] = senders
    partner = reverse_edges(senders, receivers, shifts)
    reverse = None
    if partner is not None:
        reverse = torch.arange(num_blocks * width, device=device)
        reverse[slot] = slot[partner]
        reverse = reverse.view(num_blocks, width)
    shape = (num_blocks, width)
    edge = edge.view(shape)
    return NeighborBlocks(sent.view(shape), edge < num_edges, reverse, parts), edge


BLOCK_COST = 4
"""What one more block costs, in slots: its messages are written and read once per block."""


def _best_width(
    counts: Int[Tensor, " rows"], multiple_of: int, least_width: int
) -> tuple[int, bool]:
    """The width of the blocks, and whether rows are split to fit into it."""
    most = int(counts.max()) if counts.shape[0] else 0
    full = max(-(-most // multiple_of) * multiple_of, least_width)
    cost = counts.shape[0] * (full + BLOCK_COST)
    # Splitting takes one more pass over the messages, so it must save a good part.
    best, least = full, 0.7 * cost
    histogram = torch.bincount(counts)
    sizes = torch.arange(histogram.shape[0], device=counts.device)
    for width in range(max(multiple_of, least_width), full, multiple_of):
        blocks = int((((sizes + width - 1) // width).clamp(min=1) * histogram).sum())
        if blocks * (width + BLOCK_COST) < least:
            best, least = width, blocks * (width + BLOCK_COST)
    return best, best < full


def reverse_edges(
    senders: Int[Tensor, " edges"],
    receivers: Int[Tensor, " edges"],
    shifts: Float[Tensor, "edges 3"],
) -> Int[Tensor, " edges"] | None:
    """The edge that runs the other way for each edge, or ``None`` if some edge has none."""
    if senders.shape[0] == 0:
        return torch.zeros_like(senders)
    whole = shifts.to(torch.int64)
    # One integer for every edge and its reverse alike in form: pair of atoms, then shift.
    reach = int(whole.abs().max())
    base, atoms = 2 * reach + 1, int(torch.maximum(senders, receivers).max()) + 1
    if atoms**2 * base**3 >= 2**62:
        return None
    weights = whole.new_tensor([base * base, base, 1])
    forward = ((receivers * atoms + senders) * base**3) + ((whole + reach) * weights).sum(-1)
    backward = ((senders * atoms + receivers) * base**3) + ((reach - whole) * weights).sum(-1)
    by_forward, by_backward = torch.argsort(forward), torch.argsort(backward)
    if not torch.equal(forward[by_forward], backward[by_backward]):
        return None
    partner = torch.empty_like(by_forward)
    partner[by_forward] = by_backward
    return partner
