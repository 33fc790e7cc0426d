"""Messages that know the two elements, normalised by a learnt density and gated."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.message_passing.directed_convolution import DirectedConvolution
from equiv.message_passing.edges import Edges
from equiv.nn.gate import Gate
from equiv.nn.linear import SphericalLinear
from equiv.nn.pair_mlp import ElementPairMLP


class GatedInteraction(nn.Module):
    r"""Convolution with weights of distance and elements, a density, a gate and a mixing.

    .. math::
        M_i &= \frac{W \sum_{j \to i} w_{ij}\, R(b_{ij}, z_j, z_i) \otimes Y(\hat r_{ij}) \otimes
        U h_j}{\alpha + \beta \rho_i} + V U h_i, \qquad
        \rho_i = \sum_{j \to i} w_{ij} \tanh D(b_{ij}, z_j, z_i)^2 \\
        A_i &= W' \operatorname{gate}(M_i)

    :math:`R` and :math:`D` are networks of the radial features and the two elements
    (:class:`equiv.nn.ElementPairMLP`), :math:`\alpha, \beta` learnt numbers. The gates are further
    scalars from the same sums. The features mixed by matrices of their own are what the layer adds
    to its result. (The nonlinear residual interaction of mace-torch 0.3.14 and later.)

    Args:
        degree_in: highest degree of the features.
        degree_out: highest degree of the layer's result.
        edge_degree: highest degree of harmonics and messages.
        channels: channels of features and messages.
        sender_channels: channels of what neighbours send, :math:`U h_j`.
        sender_degree: its highest degree.
        radial_widths: radial features and hidden widths of :math:`R`.
        density_hidden: hidden widths of :math:`D`.
        num_elements: how many elements there are.
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
        radial_widths: Sequence[int],
        density_hidden: Sequence[int],
        num_elements: int,
    ) -> None:
        super().__init__()
        self.sender_degree, self.edge_degree = sender_degree, edge_degree
        self.linear_up = SphericalLinear(channels, sender_channels, sender_degree)
        self.convolution = DirectedConvolution(
            sender_degree, edge_degree, edge_degree, sender_channels
        )
        widths = self.convolution.channels_out()
        self.radial_mlp = ElementPairMLP(
            [*radial_widths, self.convolution.weight_numel], num_elements=num_elements
        )
        self.density_mlp = ElementPairMLP(
            [radial_widths[0], *density_hidden, 1], num_elements=num_elements
        )
        self.linear = SphericalLinear(widths, channels, edge_degree)
        self.gates = nn.Parameter(torch.randn(widths[0], edge_degree * channels))
        own = min(sender_degree, edge_degree)
        self.linear_own = SphericalLinear(sender_channels, channels, own)
        self.gates_own = nn.Parameter(torch.randn(sender_channels, edge_degree * channels))
        self.gate = Gate(edge_degree)
        self.linear_gated = SphericalLinear(channels, channels, edge_degree)
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.beta = nn.Parameter(torch.tensor(1.0))
        self.skip = SphericalLinear(channels, channels, min(degree_in, degree_out))

    def forward(
        self, features: Float[Tensor, "rows lm_in channels"], edges: Edges
    ) -> tuple[Float[Tensor, "rows lm channels"], Float[Tensor, "rows lm_kept channels"]]:
        """The messages :math:`A`, and what to add to the layer's result."""
        neighbors = edges.neighbors
        sender = edges.species[neighbors.senders]
        receiver = neighbors.spread(edges.species).unsqueeze(1)
        radial = neighbors.from_pairs(edges.radial)
        weight = edges.slot_weights()
        share = torch.tanh(self.density_mlp(radial, sender, receiver) ** 2) * weight
        density = self.alpha + self.beta * neighbors.total(share.sum(1))

        sent = self.linear_up(features[:, : (self.sender_degree + 1) ** 2])
        messages = self.convolution(
            sent,
            neighbors.directed(edges.harmonics),
            self.radial_mlp(radial, sender, receiver) * weight,
            neighbors,
        )
        own = self.linear_own(sent[:, : (self.linear_own.degree + 1) ** 2])
        mixed = self.linear(messages) / density.unsqueeze(-1)
        mixed = mixed + nn.functional.pad(own, (0, 0, 0, mixed.shape[1] - own.shape[1]))
        gates = messages[0].squeeze(1) @ self.gates / math.sqrt(self.gates.shape[0])
        gates_own = sent[:, 0] @ self.gates_own / math.sqrt(self.gates_own.shape[0])
        gated = self.gate(mixed, gates / density + gates_own)
        kept = features[:, : (self.skip.degree + 1) ** 2]
        return self.linear_gated(gated), self.skip(kept)
