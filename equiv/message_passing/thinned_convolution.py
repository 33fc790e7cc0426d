"""A convolution with a sparse gate, and the maps before and after it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.graph.blocks import NeighborBlocks
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.nn.linear import SphericalLinear
from equiv.nn.mlp import RadialMLP
from equiv.nn.path_gate import PathGate, Phase


@dataclass(frozen=True)
class ConvolutionPath:
    """A path as its gate sees it.

    Attributes:
        degrees: :math:`l_1, l_2, l_3` of sender, edge and message.
    """

    degrees: tuple[int, int, int]

    @property
    def out(self) -> int:
        """The degree of the message: one path to each must stay."""
        return self.degrees[2]

    @property
    def cost(self) -> int:
        """Multiply-adds per edge and channel."""
        l1, _, l3 = self.degrees
        return (2 * l1 + 1) * (2 * l3 + 1)


class ThinnedConvolution(nn.Module):
    r"""Radial network, convolution and linear map, of which a gate keeps a share of the paths.

    .. math::
        y_{i,l_3} = \frac{1}{\sqrt{n_{l_3} C}} \sum_{p \in S \to l_3} W^p\, f_p \sum_{j \to i}
        R^p(r_{ij})\, (h_j \otimes_p Y(\hat r_{ij})), \qquad
        f_p = a_p \Big( \frac{n_{l_3}}{\sum_{p' \in S \to l_3} a_{p'}^2} \Big)^{1/2}

    :math:`n_{l_3}` of all paths lead to degree :math:`l_3`, :math:`C` is the number of channels,
    and :math:`S`, :math:`a` are paths and scores of the gate (:class:`equiv.nn.PathGate`). With
    all paths and equal scores this is the same as without a gate, and dropping some leaves the
    variance as it is.

    Until the gate is fixed :math:`f_p = 0` stands for a dropped path and everything is computed:
    other paths in every step would be other kernels. From then on the outputs of the radial
    network, the messages and the rows of :math:`W` that belong to dropped paths are not.

    The three maps are parameters of the layer that calls this; nothing here is learned but
    :math:`a`.

    Args:
        convolution: with all paths.
        sparsity: the share of them that is dropped.
        budget: ``"paths"`` or ``"flops"``.
        seed: of the random phase.
        layer: number of the gate in its model.
    """

    def __init__(
        self,
        convolution: ClebschGordanConvolution,
        sparsity: float,
        *,
        budget: str = "paths",
        seed: int = 0,
        layer: int = 0,
    ) -> None:
        super().__init__()
        paths = [ConvolutionPath(path) for path in convolution.paths]
        self.gate = PathGate(paths, sparsity, budget=budget, seed=seed, layer=layer)
        self.channels = convolution.channels
        self.kept: ClebschGordanConvolution | None = None

    def forward(
        self,
        convolution: ClebschGordanConvolution,
        radial_mlp: RadialMLP,
        linear: SphericalLinear,
        features: Float[Tensor, "rows lm_in channels"],
        harmonics: Float[Tensor, "pairs lm_edge"],
        radial: Float[Tensor, "pairs num_radial"],
        neighbors: NeighborBlocks,
    ) -> Float[Tensor, "rows lm channels_out"]:
        """The mixed messages."""
        factors = self.factors().repeat_interleave(self.channels)
        if int(self.gate.phase) != Phase.FIXED:
            everything = factors.new_zeros(convolution.weight_numel)
            everything = everything.index_copy(0, self.columns(), factors)
            weights = radial_mlp(radial) * everything
            return linear(convolution(features, harmonics, weights, neighbors))
        selection = self.gate.selection
        if self.kept is None or self.kept.selected != selection:
            self.kept = convolution.thinned(selection)
        weights = radial_mlp(radial, self.columns()) * factors
        messages = self.kept(features, harmonics, weights, neighbors)
        return linear(messages, self.rows())

    def factors(self) -> Float[Tensor, " kept"]:
        """:math:`f_p` of the kept paths."""
        ends = [path.out for path in self.gate.paths]
        scale = [math.sqrt(ends.count(ends[p]) / (2 * ends[p] + 1)) for p in self.gate.selection]
        coefficients = self.gate.coefficients()
        return coefficients * coefficients.new_tensor(scale)

    def columns(self) -> Tensor:
        """Places of the kept paths among the outputs of the radial network."""
        return self._channels_of(self.gate.selection)

    def rows(self) -> Sequence[Tensor]:
        """Places of the kept paths among the inputs of the linear map, degree by degree."""
        found = []
        for degree in self.gate.outputs:
            mine = [p for p, path in enumerate(self.gate.paths) if path.out == degree]
            found.append(self._channels_of([mine.index(p) for p in mine if self.gate.kept[p]]))
        return found

    def _channels_of(self, places: Sequence[int]) -> Tensor:
        index = torch.tensor(places, device=self.gate.scores.device)[:, None] * self.channels
        return (index + torch.arange(self.channels, device=index.device)).flatten()
