"""Convolutions with couplings that the product fixes and weights of rank one."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.graph.blocks import NeighborBlocks
from equiv.message_passing.pair_form import PairForm
from equiv.message_passing.pair_kernels import Path
from equiv.nn.linear import degree_sizes
from equiv.so3 import gaunt_coefficient, wigner_3j
from equiv.so3.recoupling import wigner_6j


class RankOneConvolution(ExactConstants):
    r"""Tensor-product convolution that is one bilinear map of the features and the harmonics.

    .. math::
        m_{i,\,l_3 m_3,\,c} = \sum_{j \to i} C_{ij,\,l_3 c} \sum_{l_1 l_2} \sum_t
        \kappa^t_{l_1 l_2 l_3} \sum_{m_1 m_2} w^{(l_1 l_2 l_3)}_{m_1 m_2 m_3}\;
        A_{ij,\,l_1 c}\, h_{j,\,l_1 m_1,\,c}\; B^t_{ij,\,l_2}\, Y_{l_2 m_2}(\hat r_{ij})

    The couplings :math:`\kappa` belong to the product (:meth:`coupling`; some products have more
    than one term :math:`t`); only those of natural parity enter, :math:`l_1 + l_2 + l_3` even. The
    radial weights are :math:`A` and :math:`C`, one for each degree of the sender and of the message
    and each channel, and :math:`B`, one for each degree of the edge. Where the Clebsch-Gordan
    convolution has a weight for each path :math:`(l_1, l_2, l_3)` and channel, these are rank-one
    weights :math:`A_{l_1} B_{l_2} C_{l_3}`. Scalar senders couple only :math:`l_2 = l_3`; then
    there is only :math:`C`, and the map is the same.

    Because :math:`B` does not depend on the channel, the sum over :math:`l_2` is one matrix product
    per pair of atoms for all channels. Where the product is defined by points on a sphere or by
    matrices, the sum over these is part of the constants. What remains is a map from degree
    :math:`l_1` to degree :math:`l_3` on every edge, summed over neighbours as in the
    Clebsch-Gordan convolution; messages have one block of channels per degree, not one per path.

    Constants are scaled so that messages of one edge have unit variance for independent features
    and weights of unit variance.

    Rotations and reflections act on the :math:`lm` axes; permuting neighbours changes nothing.

    Cost per edge and channel, in multiply-adds: :math:`(L_1+1)^2 (L_3+1)^2`; per pair of atoms
    :math:`(L_1+1)^2 (L_2+1)^2 (L_3+1)^2`.

    Args:
        degree_in: :math:`L_1`, highest degree of the senders' features.
        edge_degree: :math:`L_2`, highest degree of the spherical harmonics.
        degree_out: :math:`L_3`, highest degree of the messages, at most ``degree_in +
            edge_degree``.
        channels: channels per degree, the same for sender and message.
    """

    terms: int = 1

    def __init__(self, degree_in: int, edge_degree: int, degree_out: int, channels: int) -> None:
        super().__init__()
        self.degree_in, self.edge_degree, self.degree_out = degree_in, edge_degree, degree_out
        self.channels = channels
        # One map from the sender's degree to the message's for each pair of the two.
        self.paths = [(l1, l3) for l1 in range(degree_in + 1) for l3 in range(degree_out + 1)]
        scale = [self._scale(l3) for l3 in range(degree_out + 1)]
        blocks = []
        for l1, l3 in self.paths:
            block = torch.zeros(
                self.terms, (edge_degree + 1) ** 2, 2 * l1 + 1, 2 * l3 + 1, dtype=torch.float64
            )
            for l2 in self._edge_degrees(l1, l3):
                w = wigner_3j(l1, l2, l3).permute(1, 0, 2)
                for t in range(self.terms):
                    factor = scale[l3] * self._balanced(t, l1, l2, l3)
                    block[t, l2**2 : (l2 + 1) ** 2] = factor * w
            blocks.append(block.flatten(0, 1).flatten(1))
        self.register_constant("couplings", torch.cat(blocks, dim=1))
        self.couplings: Tensor
        senders = degree_in + 1  # messages of a degree lie by component, then sender's degree
        self.form = PairForm(
            tuple(
                Path(l1**2, 2 * l1 + 1, senders * l3**2 + l1, senders, 2 * l3 + 1, (l1 + l3) % 2)
                for l1, l3 in self.paths
            ),
            (degree_in + 1) ** 2,
            senders * (degree_out + 1) ** 2,
        )

    def _edge_degrees(self, l1: int, l3: int) -> range:
        return range(abs(l1 - l3), min(l1 + l3, self.edge_degree) + 1, 2)

    def _balanced(self, term: int, l1: int, l2: int, l3: int) -> float:
        """The coupling for components of unit variance; scalar senders know one coupling only."""
        if not self.degree_in:
            return float(term == 0)
        return self.coupling(term, l1, l2, l3) / math.sqrt((2 * l1 + 1) * (2 * l2 + 1))

    def _scale(self, l3: int) -> float:
        variance = sum(
            self._balanced(t, l1, l2, l3) ** 2 / (2 * l3 + 1)
            for l1 in range(self.degree_in + 1)
            for l2 in self._edge_degrees(l1, l3)
            for t in range(self.terms)
        )
        return 1 / math.sqrt(variance) if variance else 0.0

    @abstractmethod
    def coupling(self, term: int, l1: int, l2: int, l3: int) -> float:
        r""":math:`\kappa` up to a factor of each :math:`l_3`, with respect to ``wigner_3j``."""
        raise NotImplementedError

    @property
    def weight_numel(self) -> int:
        """Radial weights per edge: C, then A, then B; only C if the senders are scalars."""
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        of_messages = (self.degree_out + 1) * self.channels
        if not self.degree_in:
            return [of_messages]
        of_senders = (self.degree_in + 1) * self.channels
        return [of_messages, of_senders, self.terms * (self.edge_degree + 1)]

    def channels_out(self) -> list[int]:
        """Channels of the messages of degree 0, 1, ...: those of the senders."""
        return [self.channels] * (self.degree_out + 1)

    def forward(
        self,
        features: Float[Tensor, "rows lm_in channels"],
        harmonics: Float[Tensor, "pairs lm_edge"],
        weights: Float[Tensor, "pairs weights"],
        neighbors: NeighborBlocks,
    ) -> list[Float[Tensor, "rows m channels"]]:
        """Messages of every degree; harmonics and weights are those of the pairs' first atoms."""
        c, a, b = self._split(weights)
        edges = [harmonics * _of_components(b_t) if self.degree_in else harmonics for b_t in b]
        radial = (a.unsqueeze(2) * c.unsqueeze(1)).flatten(1, 2)  # [pairs, paths, channels]
        if self.form.usable(features, neighbors):
            maps = torch.cat(edges, dim=-1) @ self.couplings
            messages = self.form.messages(features, maps, radial, neighbors)
            sizes = [(self.degree_in + 1) * d for d in degree_sizes(self.degree_out)]
            return [
                part.unflatten(1, (-1, self.degree_in + 1)).sum(2)
                for part in messages.split(sizes, dim=1)
            ]
        return self._batched(features, edges, radial, neighbors)

    def _split(
        self, weights: Float[Tensor, "pairs weights"]
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """C and A ``[pairs, degrees, channels]``, and B of every term ``[pairs, degrees]``."""
        c, *rest = weights.split(self._sizes(), dim=-1)
        c = c.unflatten(-1, (-1, self.channels))
        if not rest:
            return c, c.new_ones(1, 1, 1), [c] * self.terms
        return c, rest[0].unflatten(-1, (-1, self.channels)), rest[1].chunk(self.terms, dim=-1)

    def _batched(
        self,
        features: Tensor,
        edges: Sequence[Tensor],
        radial: Tensor,
        neighbors: NeighborBlocks,
    ) -> list[Tensor]:
        """One batched matrix product over a receiver's neighbours for each pair of degrees."""
        blocks, width = neighbors.pair.shape
        maps = torch.cat([neighbors.directed(y) for y in edges], dim=-1) @ self.couplings
        maps = maps.split([(2 * l1 + 1) * (2 * l3 + 1) for l1, l3 in self.paths], dim=-1)
        sent = neighbors.gather(features).split(degree_sizes(self.degree_in), dim=-2)
        weights = neighbors.from_pairs(radial).unsqueeze(3).unbind(2)
        messages: list[list[Tensor]] = [[] for _ in range(self.degree_out + 1)]
        for (l1, l3), y, r in zip(self.paths, maps, weights, strict=True):
            y = y.reshape(blocks, width * (2 * l1 + 1), 2 * l3 + 1)
            messages[l3].append(y.transpose(1, 2) @ (sent[l1] * r).flatten(1, 2))
        return [neighbors.total(sum(rest, first)) for first, *rest in messages]

    def extra_repr(self) -> str:
        return (
            f"l_in={self.degree_in}, l_edge={self.edge_degree}, l_out={self.degree_out}, "
            f"channels={self.channels}"
        )


def _of_components(x: Float[Tensor, "pairs degrees"]) -> Float[Tensor, "pairs lm"]:
    """Repeat what belongs to a degree for its components."""
    return torch.cat(
        [x_l.expand(-1, 2 * l + 1) for l, x_l in enumerate(x.split(1, dim=-1))], dim=-1
    )


class GauntConvolution(RankOneConvolution):
    r"""Convolution with Gaunt products of signals on the sphere.

    .. math::
        m_{i,\,lm,\,c} = \sum_{j \to i} C_{ij,\,lc} \int Y_{lm}(r) \Big( \sum_{l_1 m_1}
        A_{ij,\,l_1 c}\, h_{j,\,l_1 m_1,\,c}\, Y_{l_1 m_1}(r) \Big) \Big( \sum_{l_2 m_2}
        B_{ij,\,l_2}\, Y_{l_2 m_2}(\hat r_{ij})\, Y_{l_2 m_2}(r) \Big) d\Omega

    up to a constant of each degree: :class:`RankOneConvolution` with :math:`\kappa` =
    :func:`equiv.so3.gaunt_coefficient`. The integral over :math:`r`, a sum over the points of a
    grid or of a torus, does not depend on the atoms and is taken once and for all. (Luo et al.
    2024.)
    """

    def coupling(self, term: int, l1: int, l2: int, l3: int) -> float:
        return gaunt_coefficient(l1, l2, l3)


class MatrixConvolution(RankOneConvolution):
    r"""Convolution with matrix tensor products.

    .. math::
        m_{i,\,lm,\,c} = \sum_{j \to i} C_{ij,\,lc} \sum_{ab} E^l_{ab,m}\,
        \tfrac12 \big( X_{ij,c} Y_{ij} + Y_{ij} X_{ij,c} \big)_{ab}

    with the matrices :math:`X = \sum_{l_1 m_1} A_{l_1 c}\, h_{l_1 m_1,\,c}\, E^{l_1}_{m_1}` of the
    sender's features and :math:`Y = \sum_{l_2 m_2} B_{l_2} Y_{l_2 m_2}\, E^{l_2}_{m_2}` of the
    edge, up to a constant of each degree; :math:`E` as in
    :class:`equiv.tensor_products.matrix.MatrixTensorProduct`. The anticommutator keeps natural
    parity. :class:`RankOneConvolution` with :math:`\kappa = \sqrt{(2l_1+1)(2l_2+1)(2l_3+1)}
    \begin{Bmatrix} l_1 & l_2 & l_3 \\ s & s & s \end{Bmatrix}`, where :math:`s` is half the highest
    degree, rounded up.
    """

    def coupling(self, term: int, l1: int, l2: int, l3: int) -> float:
        s = (max(self.degree_in, self.edge_degree, self.degree_out) + 1) // 2
        dims = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
        return math.sqrt(dims) * wigner_6j(l1, l2, l3, s, s, s)


class VectorSignalConvolution(RankOneConvolution):
    r"""Convolution with products of signals on the sphere and of their gradients.

    .. math::
        m_{i,\,lm,\,c} = \sum_{j \to i} C_{ij,\,lc} \int Y_{lm} \big( f_{ij,c}\, g_{ij} +
        \nabla \tilde f_{ij,c} \cdot \nabla \tilde g'_{ij} \big)\, d\Omega

    with the signals :math:`f`, :math:`g` of :class:`GauntConvolution`; :math:`g'` has radial
    weights :math:`B` of its own, and the tilde divides degree :math:`l > 0` by
    :math:`\sqrt{l(l+1)}` and drops degree 0. The odd couplings of
    :class:`equiv.tensor_products.vector_signal.VectorSignalTensorProduct` lead from natural to
    pseudo parity, which these features do not have; the scalar product of the gradients keeps
    parity, with other couplings than the product of the signals. :class:`RankOneConvolution` with
    two terms, :math:`\kappa^1` = :func:`equiv.so3.gaunt_coefficient` and

    .. math::
        \kappa^2 = \kappa^1\, \frac{l_1(l_1+1) + l_2(l_2+1) - l_3(l_3+1)}
        {2 \sqrt{l_1(l_1+1)\; l_2(l_2+1)}} \qquad (l_1, l_2 > 0).
    """

    terms = 2

    def coupling(self, term: int, l1: int, l2: int, l3: int) -> float:
        gaunt = gaunt_coefficient(l1, l2, l3)
        if not term:
            return gaunt
        e1, e2, e3 = (l * (l + 1) for l in (l1, l2, l3))
        return gaunt * (e1 + e2 - e3) / (2 * math.sqrt(e1 * e2)) if e1 and e2 else 0.0
