"""Maps between feature tensors that mix channels and leave components alone."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.hamiltonian.degrees import Degrees


class IrrepLinear(ExactConstants):
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
        self.weight = nn.Parameter(torch.zeros(shape) if zero else torch.randn(shape))
        owners = degrees.owners[:, None] * grades + torch.arange(grades)
        self.register_buffer("owners", owners.flatten(), persistent=False)
        self.owners: Tensor

    def forward(
        self, x: Float[Tensor, "rows components channels"]
    ) -> Float[Tensor, "rows components channels"]:
        """Map the features of all rows."""
        width = self.channels // self.grades
        rows = x.reshape(x.shape[0], -1, width).transpose(0, 1)
        matrices = self.weight.index_select(0, self.owners)
        out = torch.bmm(rows, matrices * (1 / math.sqrt(width)))
        return out.transpose(0, 1).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{len(self.degrees)} irreps, {self.channels} channels, grades={self.grades}"


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
        scale = 1 / math.sqrt(self.weight.shape[0])
        if self.bias is None:
            return x @ (self.weight * scale)
        return torch.addmm(self.bias, x, self.weight, alpha=scale)

    def extra_repr(self) -> str:
        return " -> ".join(map(str, self.weight.shape))


class NormGate(ExactConstants):
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
        mean = degrees.summation / degrees.summation.sum(1, keepdim=True)
        self.register_constant("mean", mean)
        self.mean: Tensor
        self.register_buffer("owners", degrees.owners, persistent=False)
        self.owners: Tensor

    def forward(
        self, x: Float[Tensor, "rows components channels"]
    ) -> Float[Tensor, "rows components channels"]:
        """Gate the features of all rows."""
        squares = self.mean @ (x * x)
        size = torch.rsqrt(1 + squares.mean((1, 2), keepdim=True))
        norms = torch.sqrt(squares * (size * size) + 1e-4)
        x = x * size
        scalars = x[:, 0, : self.even]
        hidden = nn.functional.silu(self.first(torch.cat([scalars, norms.flatten(1)], 1)))
        out = self.second(hidden)
        size = norms[0].numel()
        gates = out[:, :size].unflatten(1, (-1, self.channels)).index_select(1, self.owners)
        added = nn.functional.pad(
            out[:, None, size:], (0, self.channels - self.even, 0, self.degrees.dim - 1)
        )
        return torch.addcmul(added, x, gates)

    def extra_repr(self) -> str:
        return f"{len(self.degrees)} irreps, {self.channels} channels, {self.even} even"
