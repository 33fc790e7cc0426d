"""Padded neighbour blocks: one row per atom, one column per neighbour."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class NeighborBlocks:
    """Which edge ends in which atom, as a rectangle.

    A sum over the neighbours of every atom is then a batched matrix product over the second axis:
    no scatter, no atomic operations, the same order of summation every time.

    Attributes:
        edge: index of the edge, ``num_edges`` where the row is padded. Shape ``[atoms, width]``.
        mask: true where there is an edge. Shape ``[atoms, width]``.
    """

    edge: Int[Tensor, "atoms width"]
    mask: Bool[Tensor, "atoms width"]


def neighbor_blocks(
    receivers: Int[Tensor, " edges"], num_atoms: int, *, multiple_of: int = 2
) -> NeighborBlocks:
    r"""Arrange edges in rows: :math:`e(i, k)` is the k-th edge that ends in atom :math:`i`.

    Args:
        receivers: the atom in which each edge ends, in ascending order.
        num_atoms: number of rows.
        multiple_of: the width (the largest number of neighbours) is rounded up to a multiple of
            this.

    Returns:
        The blocks; width zero if there are no edges. Memory is ``atoms * width``, so structures
        whose atoms differ much in their number of neighbours pay for the most crowded one.
    """
    num_edges = receivers.shape[0]
    counts = torch.bincount(receivers, minlength=num_atoms)
    width = int(counts.max()) if num_edges else 0
    width = -(-width // multiple_of) * multiple_of
    first = torch.cumsum(counts, 0) - counts
    column = torch.arange(num_edges, device=receivers.device) - first[receivers]
    edge = receivers.new_full((num_atoms, width), num_edges)
    edge[receivers, column] = torch.arange(num_edges, device=receivers.device)
    return NeighborBlocks(edge=edge, mask=edge < num_edges)
