"""Messages: the neighbours' features times spherical harmonics of the edges, summed."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.graph.blocks import NeighborBlocks
from equiv.message_passing.pair_form import PairForm
from equiv.message_passing.pair_kernels import Path
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

    Harmonics and radial weights come once per pair of atoms, not once per direction. On a CPU with
    a C++ compiler the sum is a kernel written for these degrees
    (:mod:`equiv.message_passing.pair_form`): no message is ever stored per edge, and nothing is
    scattered. Elsewhere each path is one batched matrix product over a receiver's neighbours, whose
    factors are stored. Cost per direction and channel: :math:`\sum_p (2l_1+1)(2l_3+1)`
    multiply-adds. Traffic per direction and channel: the kernel reads one radial weight per path
    and the sender's :math:`(l_\text{in} + 1)^2` features; the batched products write and read
    :math:`\sum_p (2l_1+1)` numbers besides.

    Rotations and reflections act on the :math:`lm` axes; permuting neighbours changes nothing.

    Args:
        degree_in: highest degree of the senders' features.
        edge_degree: highest degree of the spherical harmonics.
        degree_out: highest degree of the messages.
        channels: channels per degree, the same for sender and message.
        selected: the paths there are, by their place among all; by default all.
    """

    def __init__(
        self,
        degree_in: int,
        edge_degree: int,
        degree_out: int,
        channels: int,
        *,
        selected: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.degree_in, self.edge_degree, self.degree_out = degree_in, edge_degree, degree_out
        self.channels = channels
        self.paths = natural_paths(degree_in, edge_degree, degree_out)
        self._all_couplings = sum((2 * l1 + 1) * (2 * l3 + 1) for l1, _, l3 in self.paths)
        self.selected = None if selected is None else tuple(selected)
        if self.selected is not None:
            self.paths = [self.paths[p] for p in self.selected]
        blocks = []
        for l1, l2, l3 in self.paths:
            coupling = math.sqrt(2 * l3 + 1) * wigner_3j(l1, l2, l3)
            coupling = coupling.permute(1, 0, 2).flatten(1)
            rows = torch.zeros((edge_degree + 1) ** 2, coupling.shape[1], dtype=torch.float64)
            rows[l2**2 : (l2 + 1) ** 2] = coupling
            blocks.append(rows)
        self.register_constant("couplings", torch.cat(blocks, dim=1))
        self.couplings: Tensor
        self.form = self._form()

    def thinned(self, selected: Sequence[int]) -> "ClebschGordanConvolution":
        """The same with some of its paths only."""
        shape = self.degree_in, self.edge_degree, self.degree_out, self.channels
        return ClebschGordanConvolution(*shape, selected=selected).to(self.couplings)

    @property
    def weight_numel(self) -> int:
        """Radial weights per edge, path-major: ``len(paths) * channels``."""
        return len(self.paths) * self.channels

    def channels_out(self) -> list[int]:
        """Channels of the messages of degree 0, 1, ...: number of paths times ``channels``."""
        return [count * self.channels for count in self._ends()]

    def forward(
        self,
        features: Float[Tensor, "rows lm_in channels"],
        harmonics: Float[Tensor, "pairs lm_edge"],
        weights: Float[Tensor, "pairs paths_channels"],
        neighbors: NeighborBlocks,
    ) -> list[Float[Tensor, "rows m paths_channels"]]:
        """Messages of every degree; harmonics and weights are those of the pairs' first atoms."""
        weights = weights.unflatten(-1, (len(self.paths), self.channels))
        if self.form.usable(features, neighbors, num_couplings=self._all_couplings):
            messages = self.form.messages(features, harmonics @ self.couplings, weights, neighbors)
            sizes = [(2 * l + 1) * n for l, n in enumerate(self._ends())]
            return [
                part.unflatten(1, (2 * l + 1, -1)).flatten(2)
                for l, part in enumerate(messages.split(sizes, dim=1))
            ]
        return self._batched(features, harmonics, weights, neighbors)

    def _batched(
        self, features: Tensor, harmonics: Tensor, weights: Tensor, neighbors: NeighborBlocks
    ) -> list[Tensor]:
        """One batched matrix product over a receiver's neighbours for each path."""
        blocks, width = neighbors.pair.shape
        couplings = neighbors.directed(harmonics) @ self.couplings
        # Splitting instead of slicing: the gradient of a split is one concatenation, that of
        # slices is a sum of mostly zero arrays.
        couplings = couplings.split([(2 * l1 + 1) * (2 * l3 + 1) for l1, _, l3 in self.paths], -1)
        sent = neighbors.gather(features).split(degree_sizes(self.degree_in), dim=-2)
        radial = neighbors.from_pairs(weights).unsqueeze(3).unbind(2)
        messages: list[list[Tensor]] = [[] for _ in range(self.degree_out + 1)]
        for (l1, _, l3), y, r in zip(self.paths, couplings, radial, strict=True):
            y = y.reshape(blocks, width * (2 * l1 + 1), 2 * l3 + 1)
            x = (sent[l1] * r).flatten(1, 2)
            messages[l3].append(y.transpose(1, 2) @ x)
        return [neighbors.total(torch.cat(parts, dim=-1)) for parts in messages]

    def _ends(self) -> list[int]:
        """Number of paths that end in degree 0, 1, ..."""
        ends = [l3 for _, _, l3 in self.paths]
        return [ends.count(l) for l in range(self.degree_out + 1)]

    def _form(self) -> PairForm:
        """Messages lie by degree, then component, then path, as the linear maps after want them."""
        ends, start, paths = self._ends(), 0, []
        place = dict.fromkeys(range(self.degree_out + 1), 0)
        starts = []
        for l, count in enumerate(ends):
            starts.append(start)
            start += (2 * l + 1) * count
        for l1, l2, l3 in self.paths:
            paths.append(
                Path(l1**2, 2 * l1 + 1, starts[l3] + place[l3], ends[l3], 2 * l3 + 1, l2 % 2)
            )
            place[l3] += 1
        return PairForm(tuple(paths), (self.degree_in + 1) ** 2, start)

    def extra_repr(self) -> str:
        return (
            f"l_in={self.degree_in}, l_edge={self.edge_degree}, l_out={self.degree_out}, "
            f"channels={self.channels}, paths={len(self.paths)}"
        )


def natural_paths(degree_in: int, edge_degree: int, degree_out: int) -> list[tuple[int, int, int]]:
    """All :math:`(l_1, l_2, l_3)` that the triangle rule allows and that keep natural parity."""
    return [
        (l1, l2, l3)
        for l3 in range(degree_out + 1)
        for l1 in range(degree_in + 1)
        for l2 in range(edge_degree + 1)
        if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0
    ]
