"""Multilayer perceptron of a distance and the two elements at its ends."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class ElementPairMLP(nn.Module):
    r"""Layers with bias and normalisation; the elements enter before the first normalisation.

    .. math::
        x_1 = x_0 W_0 + s_{z_j} + t_{z_i}, \qquad
        x_{k+1} = \mathrm{silu}(\mathrm{norm}(x_k)) W_k + b_k

    :math:`s` and :math:`t` are tables with a row for every element, of the sender :math:`j` and the
    receiver :math:`i`; norm is layer normalisation with learnt scale and offset. What comes out
    does not vanish at the cutoff: multiply it by an envelope.

    Args:
        widths: of the input, the hidden layers (at least one) and the output.
        num_elements: how many elements there are.
    """

    def __init__(self, widths: Sequence[int], *, num_elements: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        if len(self.widths) < 3:
            raise ValueError(f"widths must name at least one hidden layer, got {self.widths}")
        first, *hidden = self.widths
        self.radial = nn.Parameter(torch.randn(first, hidden[0]) / math.sqrt(first))
        self.sender = nn.Parameter(0.1 * torch.randn(num_elements, hidden[0]))
        self.receiver = nn.Parameter(0.1 * torch.randn(num_elements, hidden[0]))
        self.norms = nn.ModuleList(nn.LayerNorm(n) for n in hidden[:-1])
        self.linears = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(hidden))

    def forward(
        self,
        x: Float[Tensor, "*edges n_in"],
        sender: Int[Tensor, "*edges"],
        receiver: Int[Tensor, "*#edges"],
    ) -> Float[Tensor, "*edges n_out"]:
        """Output features, from radial features and positions of the elements in the tables."""
        x = x @ self.radial + self.sender[sender] + self.receiver[receiver]
        for norm, linear in zip(self.norms, self.linears, strict=True):
            x = linear(nn.functional.silu(norm(x)))
        return x

    def extra_repr(self) -> str:
        return " -> ".join(map(str, self.widths))
