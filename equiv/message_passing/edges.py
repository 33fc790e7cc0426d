"""What a message-passing layer is told about the edges, besides the atoms' features."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks


@dataclass(frozen=True)
class Edges:
    """Edges of a batch whose rows are atoms sorted by element.

    Attributes:
        harmonics: spherical harmonics of the directions. Shape ``[pairs, lm_edge]``.
        radial: radial features. Shape ``[pairs, num_radial]``.
        weight: one within the cutoff and zero beyond, or an envelope between the two. Shape
            ``[pairs]``.
        neighbors: who makes a pair with whom.
        species: position of each row's element among the model's. Shape ``[rows]``.
        counts: rows of each element.
    """

    harmonics: Float[Tensor, "pairs lm_edge"]
    radial: Float[Tensor, "pairs num_radial"]
    weight: Float[Tensor, " pairs"]
    neighbors: NeighborBlocks
    species: Int[Tensor, " rows"]
    counts: Sequence[int]
