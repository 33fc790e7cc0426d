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
    :math:`m` to :math:`m`. One frame serves a pair of atoms in both directions: the two differ by
    an inversion, which multiplies a path by :math:`(-1)^{l_2}`.

    Messages are kept for every path, as the map demands, so features need not be turned: the
    product :math:`D \kappa D^\mathsf{T}` of each pair of atoms is what the harmonics and the
    couplings give in the Clebsch-Gordan form, and all else is the same. It takes
    :math:`2 \min(l_1, l_3) + 1` multiply-adds for each element instead of :math:`(L_2+1)^2`; the
    Wigner matrices come on top. Scalar senders need no frame.

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
        weights = weights.unflatten(-1, (-1, self.channels))
        maps = self._maps(harmonics)
        if self.form.usable(features, neighbors):
            return self._by_degree(self.form.messages(features, maps, weights, neighbors))
        blocks, width = neighbors.pair.shape
        sign = neighbors.sign.to(maps.dtype).unsqueeze(-1)
        sizes = [(2 * l1 + 1) * (2 * l3 + 1) for l1, _, l3 in self.paths]
        sent = neighbors.gather(features).split(degree_sizes(self.degree_in), dim=-2)
        radial = neighbors.from_pairs(weights).unsqueeze(3).unbind(2)
        messages: list[list[Tensor]] = [[] for _ in range(self.degree_out + 1)]
        of_paths = neighbors.from_pairs(maps).split(sizes, dim=-1)
        for (l1, l2, l3), y, r in zip(self.paths, of_paths, radial, strict=True):
            y = y * sign if l2 % 2 else y
            y = y.reshape(blocks, width * (2 * l1 + 1), 2 * l3 + 1)
            messages[l3].append(y.transpose(1, 2) @ (sent[l1] * r).flatten(1, 2))
        return [neighbors.total(torch.cat(parts, dim=-1)) for parts in messages]

    def _maps(self, harmonics: Float[Tensor, "pairs lm_edge"]) -> Float[Tensor, "pairs couplings"]:
        """The matrices from sender to message of all paths, one after the other."""
        frames = self.wigner(edge_rotations(harmonics[:, 1:4]))
        maps = []
        for l1, l3, _ in self._groups:
            low = min(l1, l3)
            left, right = (frames[l][:, None, :, l - low : l + low + 1] for l in (l1, l3))
            kappa = getattr(self, f"kappa_{l1}_{l3}").T.unsqueeze(1)  # [path, 1, m]
            maps.append(((left * kappa) @ right.mT).flatten(1))
        return torch.cat(maps, dim=1)

    def _by_degree(self, messages: Float[Tensor, "rows out channels"]) -> list[Tensor]:
        sizes = [(2 * l + 1) * n for l, n in enumerate(self._ends())]
        return [
            part.unflatten(1, (2 * l + 1, -1)).flatten(2)
            for l, part in enumerate(messages.split(sizes, dim=1))
        ]
