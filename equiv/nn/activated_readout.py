"""Readouts with another activation or more layers than the usual one."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.choices import choose
from equiv.nn.mlp import SILU_GAIN

TANH_GAIN = 1.5925374197228312
r""":math:`\langle \tanh(z)^2 \rangle^{-1/2}` for normal :math:`z`."""

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "silu": (nn.functional.silu, SILU_GAIN),
    "tanh": (torch.tanh, TANH_GAIN),
    "abs": (torch.abs, 1.0),
    "identity": (lambda x: x, 1.0),
}
"""Functions and the factors that keep unit second moments, by name."""


class ActivatedReadout(nn.Module):
    r"""One number per atom through one hidden layer without bias.

    .. math::
        e_i = g\, \phi(x_i W / \sqrt{n}) \cdot w / \sqrt{h}

    Args:
        channels: :math:`n`, invariant channels.
        hidden: :math:`h`, width of the hidden layer.
        activation: :math:`\phi`, a name in :data:`ACTIVATIONS`.
    """

    def __init__(self, channels: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.function, self.gain = choose(ACTIVATIONS, activation, "activation")
        self.hidden = nn.Parameter(torch.randn(channels, hidden))
        self.weight = nn.Parameter(torch.randn(hidden, 1))

    def forward(self, x: Float[Tensor, "atoms channels"]) -> Float[Tensor, " atoms"]:
        """Contribution of every atom."""
        channels, width = self.hidden.shape
        h = self.gain * self.function(x @ self.hidden / math.sqrt(channels))
        return (h @ self.weight).squeeze(-1) / math.sqrt(width)

    def extra_repr(self) -> str:
        return self.activation


class DeepReadout(nn.Module):
    r"""One number per atom through two hidden layers, the second with bias.

    .. math::
        h_i = g\, \phi(x_i W / \sqrt{n}), \qquad
        e_i = g\, \phi(h_i V / \sqrt{h} + b) \cdot w / \sqrt{h} + c

    Args:
        channels: :math:`n`, invariant channels.
        hidden: :math:`h`, width of the hidden layers.
        activation: :math:`\phi`, a name in :data:`ACTIVATIONS`.
    """

    def __init__(self, channels: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.function, self.gain = choose(ACTIVATIONS, activation, "activation")
        self.hidden = nn.Parameter(torch.randn(channels, hidden))
        self.middle = nn.Parameter(torch.randn(hidden, hidden))
        self.middle_bias = nn.Parameter(torch.zeros(hidden))
        self.weight = nn.Parameter(torch.randn(hidden, 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "atoms channels"]) -> Float[Tensor, " atoms"]:
        """Contribution of every atom."""
        channels, width = self.hidden.shape
        h = self.gain * self.function(x @ self.hidden / math.sqrt(channels))
        h = self.gain * self.function(h @ self.middle / math.sqrt(width) + self.middle_bias)
        return (h @ self.weight).squeeze(-1) / math.sqrt(width) + self.bias

    def extra_repr(self) -> str:
        return self.activation
