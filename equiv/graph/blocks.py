"""Who sees whom: pairs of atoms, and a rectangle of slots in which every atom finds its own."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equiv.graph.adjoint import linear_map
from equiv.graph.groups import Groups
from equiv.graph.sorting import sorting_order


@dataclass(frozen=True)
class NeighborBlocks:
    r"""Pairs of atoms as a list, and the same pairs as seen from every atom as a rectangle.

    Every edge :math:`j \to i` has a reverse edge :math:`i \to j` of the same length. What belongs
    to the two together (distance, radial functions, direction up to a sign) is computed once per
    pair; pair :math:`p` has the vector from its first atom to its second.

    Slot :math:`(b, k)` is the k-th edge that block :math:`b` receives. Usually a block is all that
    one row's atom receives; where the numbers of neighbours are very uneven, crowded atoms own
    several blocks. A sum over neighbours runs over the second axis: no scatter, no atomic
    operations, the same order of summation every time. All maps below come with their adjoints,
    which are gathers as well, and can be differentiated any number of times.

    A padded slot belongs to pair 0 with the sign 0, and is its own reverse.

    Attributes:
        first: row of the first atom of each pair, the receiver if the sign is positive. Shape
            ``[pairs]``.
        second: row of the second atom. Shape ``[pairs]``.
        pair: the pair in each slot. Shape ``[blocks, width]``.
        sign: 1 where the block's atom is the first of the pair, -1 where it is the second, 0 where
            there is no edge. Shape ``[blocks, width]``, int8.
        senders: row of the atom that sends. Shape ``[blocks, width]``.
        slots: the slots of each pair, counted along the flattened blocks: that of the first atom,
            then that of the second. Shape ``[pairs, 2]``, or ``[pairs, 1]`` if edges have no
            reverse.
        reverse: slot of the reverse edge. Shape ``[blocks, width]``; ``None`` if some edge has
            none.
        parts: the blocks of each row; ``None`` if blocks are rows.
    """

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    pair: Int[Tensor, "blocks width"]
    sign: Int[Tensor, "blocks width"]
    senders: Int[Tensor, "blocks width"]
    slots: Int[Tensor, "pairs directions"]
    reverse: Int[Tensor, "blocks width"] | None = None
    parts: Groups | None = None

    def gather(self, x: Float[Tensor, "rows *rest"]) -> Float[Tensor, "blocks width *rest"]:
        """What every slot's sender has. Reads and writes each value once per slot."""
        if self.reverse is None:
            return x[self.senders]
        return linear_map(x, self._gather, self._collect)

    def collect(self, y: Float[Tensor, "blocks width *rest"]) -> Float[Tensor, "rows *rest"]:
        r"""The sum over what every row's atom has sent: the adjoint of :meth:`gather`.

        .. math::
            \sum_{s\,:\,\mathrm{sender}(s) = i} y_s = \sum_{s\,:\,\mathrm{receiver}(s) = i}
            y_{\mathrm{reverse}(s)}
        """
        if self.reverse is None:
            zeros = y.new_zeros(self.num_rows, *y.shape[2:])
            return zeros.index_add(0, self.senders.flatten(), y.flatten(0, 1))
        return linear_map(y, self._collect, self._gather)

    def from_pairs(self, y: Float[Tensor, "pairs *rest"]) -> Float[Tensor, "blocks width *rest"]:
        """What every slot's pair has, and 0 in padded slots."""
        return self._from_pairs(y, self.sign.abs())

    def directed(self, harmonics: Float[Tensor, "pairs lm"]) -> Float[Tensor, "blocks width lm"]:
        r"""Spherical harmonics of the slots' vectors, and 0 in padded slots.

        .. math::
            Y_{lm}(-r) = (-1)^l\, Y_{lm}(r)
        """
        odd = self.sign.unsqueeze(-1)
        degrees = range(math.isqrt(harmonics.shape[-1]))
        signs = [(odd if l % 2 else odd.abs()).expand(-1, -1, 2 * l + 1) for l in degrees]
        return self._from_pairs(harmonics, torch.cat(signs, -1))

    def sum_pairs(self, y: Float[Tensor, "pairs *rest"]) -> Float[Tensor, "rows *rest"]:
        """The sum over the pairs that every row's atom is part of."""
        return self.total(self.from_pairs(y).sum(1))

    def differences(self, x: Float[Tensor, "rows *rest"]) -> Float[Tensor, "pairs *rest"]:
        """What the second atom of every pair has, minus what the first has."""
        return linear_map(x, self._differences, self._divergence)

    def divergence(self, y: Float[Tensor, "pairs *rest"]) -> Float[Tensor, "rows *rest"]:
        """The sum over pairs in which a row is second, minus those in which it is first.

        The adjoint of :meth:`differences`.
        """
        return linear_map(y, self._divergence, self._differences)

    def total(self, x: Float[Tensor, "blocks *rest"]) -> Float[Tensor, "rows *rest"]:
        """Add up the blocks of every row."""
        return x if self.parts is None else self.parts.total(x)

    def spread(self, x: Float[Tensor, "rows *rest"]) -> Float[Tensor, "blocks *rest"]:
        """Give every block what its row has: the adjoint of :meth:`total`."""
        return x if self.parts is None else self.parts.spread(x)

    @property
    def exists(self) -> Bool[Tensor, " pairs"]:
        """False for the pairs that pad."""
        return self.sign.flatten()[self.slots[:, 0]] != 0

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.pair.shape[0] if self.parts is None else self.parts.table.shape[0]

    def _gather(self, x: Tensor) -> Tensor:
        return x[self.senders]

    def _collect(self, y: Tensor) -> Tensor:
        return self.total(y.flatten(0, 1)[self.reverse].sum(1))

    def _from_pairs(self, y: Tensor, signs: Tensor) -> Tensor:
        signs = signs.to(y.dtype)
        signs = signs.view(*signs.shape, *[1] * (y.dim() + 1 - signs.dim()))
        return linear_map(
            y,
            lambda y: y[self.pair] * signs,
            lambda x: (x * signs).flatten(0, 1)[self.slots].sum(1),
        )

    def _differences(self, x: Tensor) -> Tensor:
        return x[self.second] - x[self.first]

    def _divergence(self, y: Tensor) -> Tensor:
        if self.reverse is None:
            zeros = y.new_zeros(self.num_rows, *y.shape[1:])
            return zeros.index_add(0, self.second, y).index_add(0, self.first, -y)
        signs = self.sign.to(y.dtype)
        signs = signs.view(*signs.shape, *[1] * (y.dim() - 1))
        return self.total(-(y[self.pair] * signs).sum(1))


def neighbor_blocks(
    senders: Int[Tensor, " edges"],
    receivers: Int[Tensor, " edges"],
    shifts: Float[Tensor, "edges 3"],
    num_rows: int,
    *,
    padded: bool = False,
) -> tuple[NeighborBlocks, Int[Tensor, " pairs"]]:
    r"""Join edges with their reverses, and arrange them in blocks.

    The width is the largest number of neighbours, rounded up, unless splitting crowded rows into
    several blocks saves memory: then it is the width for which :math:`\mathrm{blocks} \cdot
    (\mathrm{width} + c)` is least, :math:`c` = :data:`BLOCK_COST`.

    Args:
        senders: row of the atom in which each edge begins.
        receivers: row of the atom in which each edge ends, in any order.
        shifts: lattice vectors added to the sender, in units of the cell rows.
        num_rows: number of rows; rows without edges get one empty block.
        padded: whether there are at least two pairs and two slots to a block, which compilers
            want; a pair that does not exist has no slot with a sign.

    Returns:
        The blocks, and the edge that runs from the second to the first atom of each pair (the
        number of edges if the pair does not exist).
    """
    num_edges, device = receivers.shape[0], receivers.device
    counts = torch.bincount(receivers, minlength=num_rows)
    order = sorting_order(receivers)
    start = torch.cumsum(counts, 0) - counts
    place = torch.arange(num_edges, device=device) - start[receivers[order]]
    step = 8 if padded else 4
    width, split = _best_width(counts, step, step if padded else 0)

    parts, first_block, num_blocks = None, torch.arange(num_rows, device=device), num_rows
    if split:
        blocks_of = ((counts + width - 1) // width).clamp(min=1)
        owner = torch.repeat_interleave(first_block, blocks_of)
        first_block, num_blocks = torch.cumsum(blocks_of, 0) - blocks_of, owner.shape[0]
        parts = Groups.from_index(owner, num_rows)
    slot = torch.empty_like(order)
    slot[order] = first_block[receivers[order]] * width + place

    partner = reverse_edges(senders, receivers, shifts)
    edges = torch.arange(num_edges, device=device)
    edge = edges if partner is None else edges[edges < partner]
    slots = slot[edge].unsqueeze(1)
    if partner is not None:
        slots = torch.cat([slots, slot[partner[edge]].unsqueeze(1)], 1)
    first, second = receivers[edge], senders[edge]
    num_pairs = edge.shape[0]

    rectangle = (num_blocks, width)
    pair = receivers.new_zeros(num_blocks * width)
    sign = torch.zeros(num_blocks * width, dtype=torch.int8, device=device)
    for direction, value in enumerate((1, -1)[: slots.shape[1]]):
        pair[slots[:, direction]] = torch.arange(num_pairs, device=device)
        sign[slots[:, direction]] = value
    owners = torch.arange(num_blocks, device=device) if parts is None else parts.of
    sent = owners.repeat_interleave(width)
    sent[slot] = senders
    reverse = None
    if partner is not None:
        reverse = torch.arange(num_blocks * width, device=device)
        reverse[slot] = slot[partner]
        reverse = reverse.view(rectangle)
    if padded and num_pairs < 2:
        missing = 2 - num_pairs
        empty = int(torch.argmin(sign.abs()))
        first, second = (torch.cat([x, x.new_zeros(missing)]) for x in (first, second))
        slots = torch.cat([slots, slots.new_full((missing, slots.shape[1]), empty)])
        edge = torch.cat([edge, edge.new_full((missing,), num_edges)])
    blocks = NeighborBlocks(
        first=first,
        second=second,
        pair=pair.view(rectangle),
        sign=sign.view(rectangle),
        senders=sent.view(rectangle),
        slots=slots,
        reverse=reverse,
        parts=parts,
    )
    return blocks, edge


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
    x, y, z = whole.unbind(-1)
    image = (x * base + y) * base + z
    center = (reach * base + reach) * base + reach
    forward = (receivers * atoms + senders) * base**3 + (center + image)
    backward = (senders * atoms + receivers) * base**3 + (center - image)
    by_forward, by_backward = sorting_order(forward), sorting_order(backward)
    if not torch.equal(forward[by_forward], backward[by_backward]):
        return None
    partner = torch.empty_like(by_forward)
    partner[by_forward] = by_backward
    return partner
