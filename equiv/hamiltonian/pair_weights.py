"""Invariants of pairs of atoms, and the weights that products of a pair get from them."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.hamiltonian.again import again
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.irrep_layers import Dense, dense
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

    def of_some(
        self,
        x: Float[Tensor, "atoms components channels"],
        some: slice | Int[Tensor, " some"],
        *,
        first: Int[Tensor, " pairs"],
        second: Int[Tensor, " pairs"],
    ) -> Float[Tensor, "some invariants"]:
        """Those of some of the pairs."""
        return self(x, first[some], second[some])


def simple_invariants(
    scalars: Float[Tensor, "atoms channels"],
    first: Int[Tensor, " pairs"],
    second: Int[Tensor, " pairs"],
) -> Float[Tensor, "pairs invariants"]:
    """Sums and products of the scalars of two atoms."""
    s_i, s_j = (scalars.index_select(0, atoms) for atoms in (first, second))
    return torch.cat([s_i + s_j, s_i * s_j], 1)


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
        factors: Float[Tensor, "paths 1"] | None = None,
    ) -> Float[Tensor, "pairs paths channels"]:
        """Weights of all paths, times the ``factors`` of these."""
        return self.of_atoms(radial, lambda x: x, invariants, factors=factors)

    def of_atoms(
        self,
        radial: Float[Tensor, "pairs num_radial"],
        invariants: Callable[[Tensor], Float[Tensor, "pairs invariants"]],
        x: Tensor,
        *,
        factors: Float[Tensor, "paths 1"] | None = None,
    ) -> Float[Tensor, "pairs paths channels"]:
        """The same, where the invariants are a function of ``x`` (:meth:`hidden`)."""
        hidden = self.hidden(radial, invariants, x)
        if factors is None:
            factors = hidden.new_ones(len(self.rows), 1)
        return path_weights(hidden, self.rows, factors.squeeze(1) * self.scale, None)

    def hidden(
        self,
        radial: Float[Tensor, "pairs num_radial"],
        invariants: Callable[[Tensor], Float[Tensor, "pairs invariants"]],
        x: Tensor,
    ) -> Float[Tensor, "pairs hidden"]:
        r"""The numbers :math:`h_{ij}`.

        Args:
            radial: radial functions of every pair.
            invariants: of every pair, as a function of ``x``; it is called again in the backward
                pass, for the invariants are larger than what they are made of.
            x: features of the atoms.
        """

        def function(radial: Tensor, x: Tensor, wr: Tensor, *weights: Tensor) -> Tensor:
            w1, b1, w2, b2 = weights
            inner = nn.functional.silu(dense(invariants(x), w1, b1))
            return dense(inner, w2, b2) * dense(radial, wr)

        first, second = self.first, self.second
        weights = [w for layer in (first, second) for w in (layer.weight, layer.bias)]
        weights = [w for w in weights if w is not None]
        return again(function, radial, x, self.radial.weight, *weights)
