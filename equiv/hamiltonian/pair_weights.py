"""Invariants of pairs of atoms, and the weights that products of a pair get from them."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.irrep_layers import Dense
from equiv.hamiltonian.pair_functions import path_weights
from equiv.hamiltonian.row_functions import Rows, inner


class PairInvariants(nn.Module):
    r"""Invariants of the features of two atoms, the same for both orders of them.

    .. math::
        I_{ij} = \Big[ x^0_i + x^0_j,\ \frac{\langle x^l_i, x^l_j \rangle}{2 l + 1} \text{ for every
        irrep} \Big]

    Args:
        degrees: irreps of the features; the first is the scalar.
        channels: of every irrep.
    """

    def __init__(self, degrees: Degrees, channels: int) -> None:
        super().__init__()
        self.rows = Rows(degrees, channels)
        self.width = (len(degrees) + 1) * channels  # how many invariants there are

    def forward(
        self,
        x: Float[Tensor, "atoms components channels"],
        first: Int[Tensor, " pairs"],
        second: Int[Tensor, " pairs"],
    ) -> Float[Tensor, "pairs invariants"]:
        """Invariants of the pairs of atoms ``first`` and ``second``."""
        return inner(self.rows, x, first, second)


class PairWeights(nn.Module):
    r"""Weights of the paths of a product, from distance and invariants of the pair.

    .. math::
        w^p_{ij} = c_p \big( h_{ij} W^p / \sqrt{n_h} + b^p \rho_{ij} \big), \qquad
        h_{ij} = (b(r_{ij})\, W_r) \odot W_2\, \mathrm{silu}(W_1 I_{ij})

    :math:`b(r)` are radial functions, :math:`I` the invariants, :math:`n_h` the hidden width. Every
    weight vanishes where the radial functions do. The rows of :math:`W^p` belong to one path each,
    and only those of the paths that are asked for are multiplied.

    Args:
        num_radial: radial functions.
        invariants: number of invariants.
        hidden: :math:`n_h`.
        paths: number of all paths.
        channels: weights per path.
    """

    def __init__(
        self, num_radial: int, invariants: int, hidden: int, paths: int, channels: int
    ) -> None:
        super().__init__()
        self.channels, self.scale = channels, 1 / math.sqrt(hidden)
        self.radial = Dense(num_radial, hidden, bias=None)
        self.first = Dense(invariants, hidden)
        self.second = Dense(hidden, hidden, bias=1.0)
        self.rows = nn.Parameter(torch.randn(paths, hidden, channels))

    def forward(
        self,
        radial: Float[Tensor, "pairs num_radial"],
        invariants: Float[Tensor, "pairs invariants"],
        *,
        selection: Sequence[int] | None = None,
        factors: Float[Tensor, "selected 1"] | None = None,
        gate: Float[Tensor, " pairs"] | None = None,
    ) -> Float[Tensor, "pairs selected channels"]:
        """Weights of the selected paths (by default of all).

        Times the ``factors`` of these paths, and the ``gate`` of each pair.
        """
        hidden = self.second(nn.functional.silu(self.first(invariants)))
        hidden = hidden * self.radial(radial)
        if gate is not None:
            hidden = hidden * gate.unsqueeze(1)
        if factors is None:
            factors = hidden.new_ones(len(self.rows if selection is None else selection), 1)
        return path_weights(hidden, self.rows, factors.squeeze(1) * self.scale, selection)
