"""Multilayer perceptron for radial functions."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

SILU_GAIN = 1.6765324703310911
r"""Makes SiLU keep unit second moment: :math:`\langle \mathrm{silu}(z)^2 \rangle^{-1/2}` for
normal :math:`z`."""


class RadialMLP(nn.Module):
    r"""Layers without bias, so that zero in gives zero out and the cutoff survives.

    .. math::
        x_{k+1} = g\, \mathrm{silu}(x_k W_k / \sqrt{n_k}), \qquad y = x_K W_K / \sqrt{n_K}

    :math:`n_k` is the width of layer :math:`k` and :math:`g` = :data:`SILU_GAIN`; weights are
    standard normal at birth, so every layer has outputs of unit variance for inputs of unit
    variance.

    Args:
        widths: input, hidden and output widths.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.weights = nn.ParameterList(
            torch.randn(n_in, n_out)
            for n_in, n_out in zip(self.widths, self.widths[1:], strict=False)
        )

    def forward(
        self, x: Float[Tensor, "*edges n_in"], outputs: Int[Tensor, " n_out"] | None = None
    ) -> Float[Tensor, "*edges n_out"]:
        """Output features per edge; all of them, or those with these numbers."""
        *hidden, last = self.weights
        if outputs is not None:
            last = last.index_select(1, outputs)
        for weight in hidden:
            x = nn.functional.silu(x @ (weight / math.sqrt(weight.shape[0]))) * SILU_GAIN
        return x @ (last / math.sqrt(last.shape[0]))

    def extra_repr(self) -> str:
        return " -> ".join(map(str, self.widths))
