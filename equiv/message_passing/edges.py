"""What a message-passing layer is told about the edges, besides the atoms' features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks


@dataclass(frozen=True)
class Edges:
    """Edges of a batch whose rows are atoms sorted by element.

    Attributes:
        harmonics: spherical harmonics of the directions. Shape ``[pairs, lm_edge]``.
        radial: radial features. Shape ``[pairs, num_radial]``.
        weight: one within the cutoff and zero beyond, or an envelope between the two; ``None`` if
            the radial features vanish at the cutoff. Shape ``[pairs]``.
        neighbors: who makes a pair with whom.
        species: position of each row's element among the model's. Shape ``[rows]``.
        counts: rows of each element.
    """

    harmonics: Float[Tensor, "pairs lm_edge"]
    radial: Float[Tensor, "pairs num_radial"]
    weight: Float[Tensor, " pairs"] | None
    neighbors: NeighborBlocks
    species: Int[Tensor, " rows"]
    counts: Sequence[int]

    def weighted(self, x: Float[Tensor, "pairs *rest"]) -> Float[Tensor, "pairs *rest"]:
        """Multiply values that are to vanish at the cutoff by the weights, if there are any."""
        if self.weight is None:
            return x
        return x * self.weight.view(-1, *[1] * (x.dim() - 1))

    def slot_weights(self) -> Float[Tensor, "blocks width 1"]:
        """The weights in the slots of the neighbour blocks, zero where padded."""
        ones = torch.ones_like(self.radial[:, 0])
        return self.neighbors.from_pairs(ones if self.weight is None else self.weight).unsqueeze(-1)
