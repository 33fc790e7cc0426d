"""Maps between feature tensors that mix channels and leave components alone."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.row_functions import Rows, gates, linear, norms


class IrrepLinear(nn.Module):
    r"""Mix the channels of every irrep with a matrix of its own.

    .. math::
        y_{i,b} = \frac{1}{\sqrt n} \sum_a x_{i,a} W^{(o(i))}_{ab}

    :math:`o(i)` is the irrep of component :math:`i`. With ``grades=2`` the channels consist of two
    halves that do not mix, and the symmetry that tells the halves apart is kept. Cost: one batched
    matrix product.

    Args:
        degrees: irreps of input and output.
        channels: of input and output.
        grades: number of equal groups of channels that stay apart.
        zero: start from zero instead of random weights of unit variance.
    """

    def __init__(
        self, degrees: Degrees, channels: int, *, grades: int = 1, zero: bool = False
    ) -> None:
        super().__init__()
        if channels % grades:
            raise EquivError(f"channels: expected a multiple of {grades}, got {channels}")
        width = channels // grades
        shape = (len(degrees) * grades, width, width)
        self.degrees, self.channels, self.grades = degrees, channels, grades
        self.rows = Rows(degrees, channels)
        self.weight = nn.Parameter(torch.zeros(shape) if zero else torch.randn(shape))

    def forward(
        self, x: Float[Tensor, "rows components channels"]
    ) -> Float[Tensor, "rows components channels"]:
        """Map the features of all rows."""
        scale = 1 / math.sqrt(self.channels // self.grades)
        return linear(self.rows, self.grades, x, self.weight, scale)

    def extra_repr(self) -> str:
        return f"{len(self.degrees)} irreps, {self.channels} channels, grades={self.grades}"


def dense(
    x: Float[Tensor, "rows width_in"],
    weight: Float[Tensor, "width_in width_out"],
    bias: Float[Tensor, " width_out"] | None = None,
) -> Float[Tensor, "rows width_out"]:
    """What :class:`Dense` computes."""
    scale = 1 / math.sqrt(weight.shape[0])
    if bias is None:
        return x @ (weight * scale)
    return torch.addmm(bias, x, weight, alpha=scale)


class Dense(nn.Module):
    r"""A layer of a network: :math:`x \mapsto x W / \sqrt n + b`, unit variance at birth.

    Args:
        width_in: :math:`n`.
        width_out: numbers per row of the result.
        bias: value that the bias starts from; ``None`` for no bias.
    """

    def __init__(self, width_in: int, width_out: int, *, bias: float | None = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_in, width_out))
        self.bias = None if bias is None else nn.Parameter(torch.full((width_out,), bias))

    def forward(self, x: Float[Tensor, "rows width_in"]) -> Float[Tensor, "rows width_out"]:
        """Map all rows."""
        return dense(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return " -> ".join(map(str, self.weight.shape))


class NormGate(nn.Module):
    r"""Multiply every irrep by a gate that depends on all invariants of its row.

    .. math::
        \bar x = \frac{x}{\sqrt{1 + \langle x^2 \rangle}}, \quad
        n^o = \sqrt{|\bar x^o|^2 / (2 l_o + 1) + \epsilon}, \quad
        (g, a) = W_2\, \mathrm{silu}\big(W_1\, [\bar x^0_{\text{even}}, n]\big), \quad
        y^o = \bar x^o g^o + \delta_{o0}\, a

    The mean :math:`\langle x^2 \rangle` over irreps (of each the mean square) and channels of a row
    keeps products of large features from running away, and leaves small ones alone.
    With ``odd`` channels at the end that change sign when two atoms are exchanged, only even
    scalars and norms enter the gates, and :math:`a` is added to even scalars only: signs are kept.
    :math:`\epsilon = 10^{-4}` makes the norm smooth at zero.

    Args:
        degrees: irreps; the first must be the scalar.
        channels: of every irrep.
        hidden: width of the network.
        odd: how many of the channels are odd under exchange.
    """

    def __init__(self, degrees: Degrees, channels: int, hidden: int, *, odd: int = 0) -> None:
        super().__init__()
        self.degrees, self.channels, self.even = degrees, channels, channels - odd
        size = len(degrees) * channels
        self.first = Dense(size + self.even, hidden)
        self.second = Dense(hidden, size + self.even)
        with torch.no_grad():
            self.second.bias[:size] = 1.0  # pyright: ignore
        self.rows = Rows(degrees, channels)

    def forward(
        self, x: Float[Tensor, "rows components channels"]
    ) -> Float[Tensor, "rows components channels"]:
        """Gate the features of all rows."""
        invariants, size = norms(self.rows, self.even, x)
        out = self.second(nn.functional.silu(self.first(invariants)))
        return gates(self.rows, self.even, x, size, out)

    def extra_repr(self) -> str:
        return f"{len(self.degrees)} irreps, {self.channels} channels, {self.even} even"
