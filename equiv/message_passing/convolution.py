"""Messages: the neighbours' features times spherical harmonics of the edges, summed."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.graph.blocks import NeighborBlocks
from equiv.nn.linear import degree_sizes
from equiv.so3 import wigner_3j


class ClebschGordanConvolution(ExactConstants):
    r"""Tensor-product convolution with Clebsch-Gordan products.

    .. math::
        m_{i,\,l_3 m_3,\,p c} = \sqrt{2 l_3 + 1} \sum_{j \to i} R_{ij,pc} \sum_{m_1 m_2}
        \begin{pmatrix} l_1 & l_2 & l_3 \\ m_1 & m_2 & m_3 \end{pmatrix} h_{j,\,l_1 m_1,\,c}\;
        Y_{l_2 m_2}(\hat r_{ij})

    A path :math:`p = (l_1, l_2, l_3)` couples the degree of the sender, of the edge and of the
    message; the paths are all those allowed by the triangle rule that keep natural parity
    (:math:`l_1 + l_2 + l_3` even). :math:`c` is the channel, :math:`R` the radial weights, one per
    path and channel.

    Each path is one batched matrix product over a receiver's neighbours: no message is ever stored
    per edge and component, and nothing is scattered. Cost per edge and channel: :math:`\sum_p
    (2l_1+1)(2l_3+1)`.

    Rotations and reflections act on the :math:`lm` axes; permuting neighbours changes nothing.

    Args:
        degree_in: highest degree of the senders' features.
        edge_degree: highest degree of the spherical harmonics.
        degree_out: highest degree of the messages.
        channels: channels per degree, the same for sender and message.
    """

    def __init__(self, degree_in: int, edge_degree: int, degree_out: int, channels: int) -> None:
        super().__init__()
        self.degree_in, self.edge_degree, self.degree_out = degree_in, edge_degree, degree_out
        self.channels = channels
        self.paths = [
            (l1, l2, l3)
            for l3 in range(degree_out + 1)
            for l1 in range(degree_in + 1)
            for l2 in range(edge_degree + 1)
            if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0
        ]
        for l1, l2, l3 in self.paths:
            if l1:
                coupling = math.sqrt(2 * l3 + 1) * wigner_3j(l1, l2, l3)
                self.register_constant(
                    f"coupling_{l1}{l2}{l3}", coupling.permute(1, 0, 2).flatten(1)
                )

    @property
    def weight_numel(self) -> int:
        """Radial weights per edge, path-major: ``len(paths) * channels``."""
        return len(self.paths) * self.channels

    def channels_out(self) -> list[int]:
        """Channels of the messages of degree 0, 1, ...: number of paths times ``channels``."""
        ends = [l3 for _, _, l3 in self.paths]
        return [ends.count(l) * self.channels for l in range(self.degree_out + 1)]

    def forward(
        self,
        features: Float[Tensor, "rows lm_in channels"],
        harmonics: Float[Tensor, "pairs lm_edge"],
        weights: Float[Tensor, "pairs paths_channels"],
        neighbors: NeighborBlocks,
    ) -> list[Float[Tensor, "rows m paths_channels"]]:
        """Messages of every degree; harmonics and weights are those of the pairs' first atoms."""
        blocks, width = neighbors.pair.shape
        # Splitting instead of slicing: the gradient of a split is one concatenation, that of
        # slices is a sum of mostly zero arrays.
        edge = neighbors.directed(harmonics).split(degree_sizes(self.edge_degree), dim=-1)
        sent = neighbors.gather(features).split(degree_sizes(self.degree_in), dim=-2)
        radial = neighbors.from_pairs(weights.unflatten(-1, (len(self.paths), 1, self.channels)))
        messages: list[list[Tensor]] = [[] for _ in range(self.degree_out + 1)]
        for (l1, l2, l3), r in zip(self.paths, radial.unbind(2), strict=True):
            y = edge[l2]
            if l1:
                y = (y @ getattr(self, f"coupling_{l1}{l2}{l3}")).reshape(
                    blocks, width * (2 * l1 + 1), 2 * l3 + 1
                )
            x = (sent[l1] * r).flatten(1, 2)
            messages[l3].append(y.transpose(1, 2) @ x)
        return [neighbors.total(torch.cat(parts, dim=-1)) for parts in messages]

    def extra_repr(self) -> str:
        return (
            f"l_in={self.degree_in}, l_edge={self.edge_degree}, l_out={self.degree_out}, "
            f"channels={self.channels}, paths={len(self.paths)}"
        )


CONVOLUTIONS: dict[str, type[ClebschGordanConvolution]] = {
    "clebsch_gordan": ClebschGordanConvolution
}
"""Convolutions by the name of their tensor product, as models take it in ``product=``."""
