"""Messages of the neighbours, summed and mixed: what MACE makes many-body products of."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.edges import Edges
from equiv.nn.linear import ElementLinear, SphericalLinear
from equiv.nn.mlp import RadialMLP


class Interaction(nn.Module):
    r"""Convolution of the neighbours' features, normalised and mixed.

    .. math::
        A_i = \frac{1}{n_i}\, S_{z_i} W \sum_{j \to i} w_{ij}\, R(r_{ij}) \otimes Y(\hat r_{ij})
        \otimes U h_j, \qquad
        n_i = \bar n \ \ \text{or}\ \ 1 + \sum_{j \to i} w_{ij} \tanh (\rho \cdot b(r_{ij}))^2

    with radial features :math:`b`, a radial network :math:`R` of them, weights :math:`w_{ij}` of
    the edges (:class:`Edges`), and matrices :math:`U, W` for every degree. With ``residual`` the
    element's matrices :math:`S` act on the features instead, :math:`S_{z_i} h_i`, for the layer to
    add to its result. Rotations and reflections act on the degrees. (Batatia et al. 2022 for
    :math:`\bar n`; Batatia et al. 2024, arXiv:2401.00096, for the learnt density.)

    Args:
        degree_in: highest degree of the features.
        degree_out: highest degree of the layer's result, for the residual.
        edge_degree: highest degree of harmonics and messages.
        channels: channels of features and messages.
        sender_channels: channels of what neighbours send, :math:`U h_j`.
        sender_degree: its highest degree.
        radial_widths: radial features and hidden widths of :math:`R`.
        num_elements: how many elements there are.
        mean_neighbors: :math:`\bar n`, or ``None`` to normalise by the learnt density.
        residual: see above.
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
        num_elements: int,
        mean_neighbors: float | None,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual, self.mean_neighbors, self.sender_degree = (
            residual,
            mean_neighbors,
            sender_degree,
        )
        self.linear_up = SphericalLinear(channels, sender_channels, sender_degree)
        self.convolution = ClebschGordanConvolution(
            sender_degree, edge_degree, edge_degree, sender_channels
        )
        self.radial_mlp = RadialMLP([*radial_widths, self.convolution.weight_numel])
        self.linear = SphericalLinear(self.convolution.channels_out(), channels, edge_degree)
        degree = min(degree_in, degree_out) if residual else edge_degree
        self.skip = ElementLinear(channels, channels, degree, num_elements=num_elements)
        if mean_neighbors is None:
            self.density = nn.Parameter(torch.randn(radial_widths[0]))

    def forward(
        self, features: Float[Tensor, "rows lm_in channels"], edges: Edges
    ) -> tuple[Float[Tensor, "rows lm channels"], Float[Tensor, "rows lm_kept channels"] | None]:
        """The messages :math:`A`, and what to add to the layer's result, if anything."""
        weights = edges.weighted(self.radial_mlp(edges.radial))
        sent = self.linear_up(features[:, : (self.sender_degree + 1) ** 2])
        messages = self.convolution(sent, edges.harmonics, weights, edges.neighbors)
        mixed = self.linear(messages)
        if self.mean_neighbors is not None:
            mixed = mixed / self.mean_neighbors
        else:
            projected = edges.radial @ self.density / math.sqrt(self.density.shape[0])
            share = edges.weighted(torch.tanh(projected**2))
            mixed = mixed / (1 + edges.neighbors.sum_pairs(share))[:, None, None]
        if not self.residual:
            return self.skip(mixed, edges.counts), None
        return mixed, self.skip(features[:, : (self.skip.degree + 1) ** 2], edges.counts)
