r"""How much each neighbour counts, learned."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.graph.blocks import NeighborBlocks
from equiv.position_orientation.samples import SpatialConvolution


class NeighborAttention(nn.Module):
    r"""Weighted mean of the neighbours' messages, with weights that look at the features.

    .. math::
        y_i = \frac{\sqrt{\bar n}\, \sum_{j} e_{ij}\, b_j\, k_{ij} \odot x_j}{1 + \sum_j e_{ij}
        b_j}, \qquad
        e_{ij} = f_{ij} \exp\Big( \tau\, \frac{\langle q_i, q_j \rangle}{|q_i| |q_j|} \Big), \qquad
        b_j = \exp(\langle u, x_j \rangle)

    per head. The products :math:`\langle q_i, q_j \rangle = \sum_o w_o\, q_i(o) \cdot q_j(o)` with
    :math:`q = W x` compare the features orientation by orientation, so they do not change when
    everything turns. The salience :math:`b_j` of the sender and the norm of the receiver make the
    weights different for the two directions of a pair, while :math:`e_{ij}` is the same for both:
    so this is the convolution without attention, of :math:`b x` and with the kernels
    :math:`e k`. :math:`f_{ij}` is the window of the cutoff; the 1 in the norm makes neighbours
    enter and leave smoothly, also the first and the last.

    Args:
        channels: of the features.
        heads: number of heads; divides the channels.
        mean_neighbors: :math:`\bar n`.
    """

    def __init__(self, channels: int, heads: int, *, mean_neighbors: float) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise EquivError(
                f"NeighborAttention: heads must divide the {channels} channels, got {heads}"
            )
        self.channels, self.heads, self.mean_neighbors = channels, heads, mean_neighbors
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.salience = nn.Linear(channels, heads, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads))

    def forward(
        self,
        x: Float[Tensor, "rows orientations channels"],
        samples: object,
        spatial: SpatialConvolution,
        weights: Float[Tensor, " orientations"],
        neighbors: NeighborBlocks,
        envelope: Float[Tensor, " pairs"] | None = None,
    ) -> Float[Tensor, "rows orientations channels"]:
        """The convolution ``spatial``, with attention."""
        z = self.norm(x)
        q = self.query(z).unflatten(-1, (self.heads, -1))
        q = q * weights.abs().sqrt()[:, None, None]
        q = q * (q.square().sum((1, 3), keepdim=True) + 1e-6).rsqrt()
        alike = (q[neighbors.first] * q[neighbors.second]).sum((1, 3))  # [pairs, heads]
        e = torch.exp(self.temperature * alike)
        if envelope is not None:
            e = e * envelope.unsqueeze(-1)
        b = torch.exp(self.salience((z * weights[:, None]).sum(1)).tanh())  # [rows, heads]
        total = neighbors.total((neighbors.from_pairs(e) * neighbors.gather(b)).sum(1))
        scale = self.channels // self.heads
        before = b.repeat_interleave(scale, -1).unsqueeze(1)
        after = (self.mean_neighbors**0.5 / (1 + total)).repeat_interleave(scale, -1).unsqueeze(1)
        emphasis = e.repeat_interleave(scale, -1)
        return spatial.own(x, samples) + after * spatial.received(
            before * x, samples, neighbors, emphasis
        )
