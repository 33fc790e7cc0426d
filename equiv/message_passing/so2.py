"""The Clebsch-Gordan convolution, computed in the frames of the edges."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.graph.blocks import NeighborBlocks
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.nn.linear import degree_sizes
from equiv.so3 import wigner_3j
from equiv.so3.frames import WignerMatrices, edge_rotations


class SO2Convolution(ClebschGordanConvolution):
    r"""The map of :class:`ClebschGordanConvolution`, with the same weights.

    .. math::
        m_{i,\,l_3,\,pc} = \sum_{j \to i} R_{ij,pc}\, D^{l_3}(Q_{ij})\, \kappa^p\,
        D^{l_1}(Q_{ij})^\mathsf{T}\, h_{j,\,l_1,\,c}, \qquad
        \kappa^p_{m m'} = \delta_{m m'} \sqrt{2 l_3 + 1}\, \sqrt{2 l_2 + 1}\;
        w^{(l_1 l_2 l_3)}_{m\, 0\, m}

    In a frame whose polar axis is the edge, :math:`Q_{ij}\, e_y = \hat r_{ij}`, the harmonics of
    the edge have the component :math:`m_2 = 0` only, and a path :math:`p = (l_1, l_2, l_3)` couples
    :math:`m` to :math:`m`. The features are turned into the frame, multiplied by numbers, and
    turned back while they are summed over the neighbours. One frame serves an edge and its reverse:
    the two differ by an inversion, under which degree :math:`l` gets the sign :math:`(-1)^l`.

    Messages are kept for every path, so the sum costs what it does in the Clebsch-Gordan form, and
    the rotations come on top; what is saved are the couplings :math:`(2l_1+1)(2l_2+1)(2l_3+1)` of
    each path and edge, which grow faster with the degree. Scalar senders need no frame: then this
    is :class:`ClebschGordanConvolution`.

    Cost per edge and channel, in multiply-adds: :math:`\sum_{l_1} (2l_1+1)^2 + \sum_p
    (2\min(l_1, l_3)+1)(2l_3+2)`.

    Args:
        degree_in: highest degree of the senders' features.
        edge_degree: highest degree of the spherical harmonics, at least 1 if ``degree_in`` is.
        degree_out: highest degree of the messages.
        channels: channels per degree, the same for sender and message.

    Raises:
        EquivError: scalar edges for features that are not scalar; they have no direction.
    """

    def __init__(self, degree_in: int, edge_degree: int, degree_out: int, channels: int) -> None:
        super().__init__(degree_in, edge_degree, degree_out, channels)
        if not degree_in:
            return
        if not edge_degree:
            raise EquivError(
                "so2: the frame of an edge is read from its harmonics of degree 1, so edge_degree "
                "must be at least 1; product='clebsch_gordan' has no frames"
            )
        self.wigner = WignerMatrices(max(degree_in, degree_out))
        # Paths with the same (l1, l3) follow each other.
        self._groups = [
            (l1, l3, [l2 for *_, l2, _ in group])
            for (l1, l3), group in (
                (key, list(paths))
                for key, paths in itertools.groupby(self.paths, key=lambda p: (p[0], p[2]))
            )
        ]
        for l1, l3, degrees in self._groups:
            low = min(l1, l3)
            m = torch.arange(-low, low + 1)
            kappa = [
                math.sqrt((2 * l3 + 1) * (2 * l2 + 1)) * wigner_3j(l1, l2, l3)[l1 + m, l2, l3 + m]
                for l2 in degrees
            ]
            self.register_constant(f"kappa_{l1}_{l3}", torch.stack(kappa, dim=1))  # [m, path]

    def forward(
        self,
        features: Float[Tensor, "rows lm_in channels"],
        harmonics: Float[Tensor, "pairs lm_edge"],
        weights: Float[Tensor, "pairs paths_channels"],
        neighbors: NeighborBlocks,
    ) -> list[Float[Tensor, "rows m paths_channels"]]:
        """Messages of every degree; harmonics and weights are those of the pairs' first atoms."""
        if not self.degree_in:
            return super().forward(features, harmonics, weights, neighbors)
        blocks, width = neighbors.pair.shape
        sign = neighbors.sign.to(features.dtype)[:, :, None, None]
        frames = [
            neighbors.from_pairs(d) * (sign if l % 2 else 1.0)
            for l, d in enumerate(self.wigner(edge_rotations(harmonics[:, 1:4])))
        ]
        sent = neighbors.gather(features).split(degree_sizes(self.degree_in), dim=-2)
        sent = [d.mT @ x for d, x in zip(frames, sent, strict=False)]
        radial = neighbors.from_pairs(weights.unflatten(-1, (-1, self.channels)))
        radial = radial.split([len(degrees) for *_, degrees in self._groups], dim=2)
        messages: list[list[Tensor]] = [[] for _ in range(self.degree_out + 1)]
        for (l1, l3, _), r in zip(self._groups, radial, strict=True):
            low = min(l1, l3)
            x = sent[l1][:, :, l1 - low : l1 + low + 1, None] * r.unsqueeze(2)
            x = x * getattr(self, f"kappa_{l1}_{l3}").unsqueeze(-1)  # [.., m, path, channel]
            d = frames[l3][..., l3 - low : l3 + low + 1].transpose(1, 2)  # [block, m3, slot, m]
            d = d.reshape(blocks, 2 * l3 + 1, width * (2 * low + 1))
            messages[l3].append(d @ x.flatten(3).flatten(1, 2))
        return [neighbors.total(torch.cat(parts, dim=-1)) for parts in messages]
