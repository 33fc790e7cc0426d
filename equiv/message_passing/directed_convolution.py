"""Messages whose weights differ for the two directions of an edge."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.graph.blocks import NeighborBlocks
from equiv.message_passing.convolution import natural_paths
from equiv.nn.linear import degree_sizes
from equiv.so3 import wigner_3j


class DirectedConvolution(ExactConstants):
    r"""Tensor-product convolution with weights of every edge, not of every pair.

    .. math::
        m_{i,\,l_3 m_3,\,p c} = \sqrt{2 l_3 + 1} \sum_{j \to i} R_{j \to i,\,pc} \sum_{m_1 m_2}
        \begin{pmatrix} l_1 & l_2 & l_3 \\ m_1 & m_2 & m_3 \end{pmatrix} h_{j,\,l_1 m_1,\,c}\;
        Y_{l_2 m_2}(\hat r_{ij})

    This is :class:`equiv.message_passing.ClebschGordanConvolution`, path for path, with harmonics
    and weights in the slots of the neighbour blocks: the weights may tell sender from receiver. One
    batched matrix product per path. Rotations and reflections act on the :math:`lm` axes.

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
        self.paths = natural_paths(degree_in, edge_degree, degree_out)
        for l1, l2, l3 in self.paths:
            coupling = math.sqrt(2 * l3 + 1) * wigner_3j(l1, l2, l3)
            self.register_constant(f"coupling_{l1}{l2}{l3}", coupling.permute(1, 0, 2).flatten(1))

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
        harmonics: Float[Tensor, "blocks width lm_edge"],
        weights: Float[Tensor, "blocks width paths_channels"],
        neighbors: NeighborBlocks,
    ) -> list[Float[Tensor, "rows m paths_channels"]]:
        """Messages of every degree; weights of padded slots are zero."""
        blocks, width = neighbors.pair.shape
        edge = harmonics.split(degree_sizes(self.edge_degree), dim=-1)
        sent = neighbors.gather(features).split(degree_sizes(self.degree_in), dim=-2)
        radial = weights.unflatten(-1, (len(self.paths), 1, self.channels)).unbind(2)
        messages: list[list[Tensor]] = [[] for _ in range(self.degree_out + 1)]
        for (l1, l2, l3), r in zip(self.paths, radial, strict=True):
            y = edge[l2] @ getattr(self, f"coupling_{l1}{l2}{l3}")
            y = y.reshape(blocks, width * (2 * l1 + 1), 2 * l3 + 1)
            messages[l3].append(y.transpose(1, 2) @ (sent[l1] * r).flatten(1, 2))
        return [neighbors.total(torch.cat(parts, dim=-1)) for parts in messages]

    def extra_repr(self) -> str:
        return (
            f"l_in={self.degree_in}, l_edge={self.edge_degree}, l_out={self.degree_out}, "
            f"channels={self.channels}, paths={len(self.paths)}"
        )
