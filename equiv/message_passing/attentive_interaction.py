"""Messages whose radial weights see the scalars of both atoms."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.message_passing.directed_convolution import DirectedConvolution
from equiv.message_passing.edges import Edges
from equiv.nn.linear import SphericalLinear
from equiv.nn.mlp import SILU_GAIN, RadialMLP


class AttentiveInteraction(nn.Module):
    r"""Convolution whose weights depend on distance and on invariant features of both ends.

    .. math::
        A_i = \frac{1}{\bar n} W \sum_{j \to i} w_{ij}\, R(b_{ij}, D h_j, D h_i) \otimes
        Y(\hat r_{ij}) \otimes U h_j

    :math:`D` projects the scalars of an atom to ``scalars`` numbers; the first layer of the network
    :math:`R` is split into its parts, so that no array has all of them for every edge. The features
    mixed by matrices of their own are what the layer adds to its result.

    Args:
        degree_in: highest degree of the features.
        degree_out: highest degree of the layer's result.
        edge_degree: highest degree of harmonics and messages.
        channels: channels of features and messages.
        sender_channels: channels of what neighbours send, :math:`U h_j`.
        sender_degree: its highest degree.
        num_radial: radial features.
        hidden: hidden widths of :math:`R`.
        scalars: width of :math:`D`.
        mean_neighbors: :math:`\bar n`.
    """

    def __init__(
        self,
        *,
        degree_in: int,
        degree_out: int,
        edge_degree: int,
        channels: int,
        sender_channels: int,
        sender_degree: int,
        num_radial: int,
        hidden: Sequence[int],
        scalars: int,
        mean_neighbors: float,
    ) -> None:
        super().__init__()
        self.mean_neighbors, self.sender_degree = mean_neighbors, sender_degree
        self.linear_up = SphericalLinear(channels, sender_channels, sender_degree)
        self.convolution = DirectedConvolution(
            sender_degree, edge_degree, edge_degree, sender_channels
        )
        self.down = nn.Parameter(torch.randn(channels, scalars))
        self.radial = nn.Parameter(torch.randn(num_radial, hidden[0]))
        self.sender = nn.Parameter(torch.randn(scalars, hidden[0]))
        self.receiver = nn.Parameter(torch.randn(scalars, hidden[0]))
        self.radial_mlp = RadialMLP([*hidden, self.convolution.weight_numel])
        self.linear = SphericalLinear(self.convolution.channels_out(), channels, edge_degree)
        self.skip = SphericalLinear(channels, channels, min(degree_in, degree_out))

    def forward(
        self, features: Float[Tensor, "rows lm_in channels"], edges: Edges
    ) -> tuple[Float[Tensor, "rows lm channels"], Float[Tensor, "rows lm_kept channels"]]:
        """The messages :math:`A`, and what to add to the layer's result."""
        neighbors = edges.neighbors
        scalars = features[:, 0] @ self.down / math.sqrt(self.down.shape[0])
        width = self.radial.shape[0] + 2 * self.down.shape[1]
        first = (
            neighbors.from_pairs(edges.radial @ self.radial)
            + neighbors.gather(scalars @ self.sender)
            + neighbors.spread(scalars @ self.receiver).unsqueeze(1)
        ) / math.sqrt(width)
        weights = self.radial_mlp(SILU_GAIN * nn.functional.silu(first))
        messages = self.convolution(
            self.linear_up(features[:, : (self.sender_degree + 1) ** 2]),
            neighbors.directed(edges.harmonics),
            weights * edges.slot_weights(),
            neighbors,
        )
        kept = features[:, : (self.skip.degree + 1) ** 2]
        return self.linear(messages) / self.mean_neighbors, self.skip(kept)
