"""From invariant features to one number per atom."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.nn.mlp import SILU_GAIN


class LinearReadout(nn.Module):
    r"""One number per atom, a weighted sum of its invariant channels.

    .. math::
        e_i = x_i \cdot w / \sqrt{n}

    Args:
        channels: :math:`n`, invariant channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 1))

    def forward(self, x: Float[Tensor, "atoms channels"]) -> Float[Tensor, " atoms"]:
        """Contribution of every atom."""
        return (x @ self.weight).squeeze(-1) / math.sqrt(self.weight.shape[0])


class NonlinearReadout(nn.Module):
    r"""One number per atom through one hidden layer without bias.

    .. math::
        e_i = g\, \mathrm{silu}(x_i W / \sqrt{n}) \cdot w / \sqrt{h}

    Args:
        channels: :math:`n`, invariant channels.
        hidden: :math:`h`, width of the hidden layer.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(channels, hidden))
        self.weight = nn.Parameter(torch.randn(hidden, 1))

    def forward(self, x: Float[Tensor, "atoms channels"]) -> Float[Tensor, " atoms"]:
        """Contribution of every atom."""
        channels, width = self.hidden.shape
        h = nn.functional.silu(x @ self.hidden / math.sqrt(channels)) * SILU_GAIN
        return (h @ self.weight).squeeze(-1) / math.sqrt(width)
