r"""One layer of a network of functions of position and orientation."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.graph.blocks import NeighborBlocks
from equiv.position_orientation.attention import NeighborAttention
from equiv.position_orientation.blockwise import blockwise
from equiv.position_orientation.fiber import FiberConvolution
from equiv.position_orientation.gelu import gelu
from equiv.position_orientation.normalization import normalize
from equiv.position_orientation.samples import SpatialConvolution


class ResidualPerceptron(nn.Module):
    r"""Normalisation and a perceptron on the channels of every point by itself, to be added.

    .. math::
        \lambda \odot \big( W_2\, \mathrm{GELU}(W_1\, \mathrm{LN}(y) + b_1) + b_2 \big)

    A condition :math:`u` (time, noise) acts on the normalised features, :math:`\mathrm{LN}(y) \odot
    (1 + u A) + u B`, with :math:`A = B = 0` at birth.

    Args:
        channels: of the features.
        widening: hidden channels over channels.
        layer_scale: :math:`\lambda` at birth; ``None`` for 1, not learned.
        condition: numbers of the condition.
    """

    def __init__(
        self,
        channels: int,
        *,
        widening: int = 4,
        layer_scale: float | None = None,
        condition: int = 0,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first = nn.Linear(channels, widening * channels)
        self.second = nn.Linear(widening * channels, channels)
        self.layer_scale = (
            None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale))
        )
        self.modulation = None
        if condition:
            self.modulation = nn.Linear(condition, 2 * channels)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def perceptron(
        self,
        y: Float[Tensor, "rows *orientations channels"],
        condition: Float[Tensor, "rows condition"] | None = None,
    ) -> Float[Tensor, "rows *orientations channels"]:
        """What is to be added to the features, from what the convolution has gathered."""
        y = normalize(y, self.norm.eps)
        w, bias = self.first.weight, self.first.bias
        if self.modulation is not None and condition is not None:
            y = y * self.norm.weight + self.norm.bias
            factor, term = self.modulation(condition).chunk(2, -1)
            shape = (y.shape[0], *[1] * (y.ndim - 2), y.shape[-1])
            y = y * (1 + factor.view(shape)) + term.view(shape)
        else:  # the scales of the norm are cheaper to apply to the weights
            w, bias = w * self.norm.weight, bias + w @ self.norm.bias
        weights = (w, bias, self.second.weight, self.second.bias)
        if torch.is_grad_enabled():
            y = _two_layers(y, *weights)
        else:  # what is in between is several times as wide, and nobody needs it later
            y = blockwise(_two_layers, y.flatten(0, -2), *weights).view(y.shape)
        return y if self.layer_scale is None else self.layer_scale * y


def _two_layers(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return nn.functional.linear(gelu(nn.functional.linear(x, w1, b1)), w2, b2)


class OrientationBlock(ResidualPerceptron):
    r"""Separable group convolution and a perceptron around a residual connection.

    .. math::
        x \leftarrow x + \lambda \odot W_2\, \mathrm{GELU}\big(W_1\, \mathrm{LN}(\mathrm{fiber}(
        \mathrm{spatial}(x))) + b_1\big) + \lambda \odot b_2

    as in ConvNeXt: three steps mix positions, orientations and channels one after the other.

    Args:
        spatial: convolution over positions.
        fiber: convolution over orientations.
        channels: of the features.
        widening: hidden channels over channels.
        layer_scale: :math:`\lambda` at birth; ``None`` for 1, not learned.
        condition: numbers of the condition.
        attention: how much each neighbour counts; ``None`` for all the same.
    """

    def __init__(
        self,
        spatial: SpatialConvolution,
        fiber: FiberConvolution,
        channels: int,
        *,
        widening: int = 4,
        layer_scale: float | None = None,
        condition: int = 0,
        attention: NeighborAttention | None = None,
    ) -> None:
        super().__init__(channels, widening=widening, layer_scale=layer_scale, condition=condition)
        self.spatial, self.fiber, self.attention = spatial, fiber, attention

    def forward(
        self,
        x: Float[Tensor, "rows orientations channels"],
        samples: object,
        fiber: Float[Tensor, "orientations orientations functions"],
        weights: Float[Tensor, " orientations"],
        neighbors: NeighborBlocks,
        condition: Float[Tensor, "rows condition"] | None = None,
        envelope: Float[Tensor, " pairs"] | None = None,
    ) -> Float[Tensor, "rows orientations channels"]:
        """The features after the layer.

        Args:
            x: features.
            samples: of the spatial kernel at the pairs.
            fiber: samples of the fiber kernel.
            weights: of the orientations.
            neighbors: who sees whom.
            condition: of the rows.
            envelope: window of the pairs, for attention.
        """
        y = self.fiber(self.spread(x, samples, weights, neighbors, envelope), fiber, weights)
        return x + self.perceptron(y, condition)

    def spread(
        self,
        x: Float[Tensor, "rows orientations channels"],
        samples: object,
        weights: Float[Tensor, " orientations"],
        neighbors: NeighborBlocks,
        envelope: Float[Tensor, " pairs"] | None = None,
    ) -> Float[Tensor, "rows orientations channels"]:
        """The convolution over positions, with attention if there is any."""
        if self.attention is None:
            return self.spatial(x, samples, neighbors)
        return self.attention(x, samples, self.spatial, weights, neighbors, envelope)
