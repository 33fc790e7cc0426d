"""Interactions between atoms that prepare their features for pairs."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.gated_linear import gated_linear
from equiv.hamiltonian.irrep_layers import Dense, IrrepLinear, NormGate
from equiv.hamiltonian.messages import Messages
from equiv.hamiltonian.pair_functions import neighbors, tell
from equiv.hamiltonian.pair_weights import PairInvariants, PairWeights, simple_invariants
from equiv.hamiltonian.path_sparsity import PathSparsity, SelectedPaths
from equiv.hamiltonian.row_functions import Rows


@dataclass(frozen=True)
class PairGeometry:
    r"""What a network knows of the pairs of atoms that see each other, each pair once.

    Attributes:
        first: :math:`i`, an atom of each pair.
        second: :math:`j`, the other.
        distances: :math:`|r_{ij}|`, Angstrom.
        harmonics: :math:`Y(\hat r_{ij})` of :math:`r_{ij} = r_j - r_i`.
        radial: radial functions of the distance; they vanish at the cutoff.
        pair_batch: the molecule of each pair.
        counts: atoms of each molecule.
    """

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    distances: Float[Tensor, " pairs"]
    harmonics: Float[Tensor, "pairs lm"]
    radial: Float[Tensor, "pairs num_radial"]
    pair_batch: Int[Tensor, " pairs"]
    counts: Int[Tensor, " graphs"]

    def kept(self, index: Int[Tensor, " kept"] | None) -> "PairGeometry":
        """Of some of the pairs."""
        if index is None:
            return self
        return PairGeometry(
            self.first[index],
            self.second[index],
            self.distances[index],
            self.harmonics[index],
            self.radial[index],
            self.pair_batch[index],
            self.counts,
        )


def bounded(x: Float[Tensor, "atoms *features"]) -> Float[Tensor, "atoms *features"]:
    r"""Features with a mean square below one, :math:`x / \sqrt{1 + \langle x^2 \rangle}`.

    The mean is over the components and channels of an atom, so that rotations commute with it.
    """
    squares = x.square().flatten(1).mean(1)
    return x * torch.rsqrt(1 + squares).view(-1, *[1] * (x.ndim - 1))


class VectorialInteraction(nn.Module):
    r"""Scalars and vectors of atoms see their neighbours; the cheap part of the network.

    .. math::
        s_i &\mathrel{+}= \sum_j a_{ij}, & v_i &\mathrel{+}= \sum_j b_{ij} v_j + c_{ij}\, \hat
        r_{ij}, & (a, b, c)_{ij} &= \varphi(s_j) \odot W(r_{ij}) / \sqrt{\bar n} \\
        s_i &\mathrel{+}= \alpha_i + \beta_i \langle U v_i, V v_i \rangle, & v_i &\mathrel{+}=
        \gamma_i\, U v_i, & (\alpha, \beta, \gamma)_i &= \psi(s_i, |V v_i|)

    :math:`\varphi, \psi` are networks of one hidden layer, :math:`W` linear in the radial
    functions, so that messages vanish at the cutoff. (Schuett, Unke, Gastegger 2021; the first
    layers of SPHNet are of this kind.)

    Args:
        channels: of scalars and of vectors.
        num_radial: radial functions.
        mean_neighbors: :math:`\bar n`.
    """

    def __init__(self, channels: int, num_radial: int, mean_neighbors: float) -> None:
        super().__init__()
        self.channels, self.scale = channels, 1 / math.sqrt(mean_neighbors)
        self.hidden = Dense(channels, channels)
        self.message = Dense(channels, 3 * channels)
        self.filter = Dense(num_radial, 3 * channels, bias=None)
        self.mix = Dense(channels, 2 * channels, bias=None)
        self.inner = Dense(2 * channels, channels)
        self.update = Dense(channels, 3 * channels)

    def forward(
        self,
        scalars: Float[Tensor, "atoms channels"],
        vectors: Float[Tensor, "atoms 3 channels"],
        pairs: PairGeometry,
    ) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"]]:
        """New scalars and vectors of all atoms."""
        c = self.channels
        i, j = pairs.first, pairs.second
        directions = pairs.harmonics[:, 1:4] * (1 / math.sqrt(3))
        phi = self.message(nn.functional.silu(self.hidden(scalars)))
        weights = self.filter(pairs.radial) * self.scale
        heard = tell((i, j), phi, weights, vectors, directions)
        scalars, vectors = scalars + heard[:, 0], vectors + heard[:, 1:]

        u, v = self.mix(vectors.flatten(0, 1)).unflatten(0, (-1, 3)).split(c, -1)
        norm = torch.sqrt((v * v).sum(1) + 1e-4)
        inner = nn.functional.silu(self.inner(torch.cat([scalars, norm], 1)))
        alpha, beta, gamma = self.update(inner).split(c, -1)
        scalars = scalars + alpha + beta * (u * v).sum(1)
        return scalars, torch.addcmul(vectors, gamma[:, None], u)


class SphericalEmbedding(ExactConstants):
    r"""The first spherical interaction: scalars become tensors of every degree.

    .. math::
        x_i^{l} = W \sum_j w^l_{ij} \odot s_j\, Y_l(\hat r_{ij}) / \sqrt{\bar n} + \delta_{l0}\, s_i

    with the weights of :class:`equiv.hamiltonian.pair_weights.PairWeights`.

    Args:
        degrees: natural degrees of the result.
        channels: of every degree.
        num_radial: radial functions.
        hidden: width of the networks.
        mean_neighbors: :math:`\bar n`.
    """

    def __init__(
        self, degrees: Degrees, channels: int, num_radial: int, hidden: int, mean_neighbors: float
    ) -> None:
        super().__init__()
        self.degrees, self.scale = degrees, 1 / math.sqrt(mean_neighbors)
        self.weights = PairWeights(num_radial, 2 * channels, hidden, len(degrees), channels)
        self.linear = IrrepLinear(degrees, channels)
        self.rows = Rows(degrees, channels)
        signs = torch.tensor([(-1.0) ** l for _, l in degrees.irreps])
        self.register_constant("signs", signs)
        self.signs: Tensor

    def forward(
        self, scalars: Float[Tensor, "atoms channels"], pairs: PairGeometry
    ) -> Float[Tensor, "atoms components channels"]:
        """Features of all atoms."""
        y, atoms = pairs.harmonics[:, : self.degrees.dim], (pairs.first, pairs.second)
        weights = self.weights.of_atoms(
            pairs.radial,
            lambda s: simple_invariants(s, *atoms),
            scalars,
            factors=self.signs.new_full((len(self.degrees), 1), self.scale),
        )
        out = self.linear(neighbors(self.rows, self.signs, atoms, scalars, y, weights))
        return torch.cat([out[:, :1] + scalars.unsqueeze(1), out[:, 1:]], 1)


class SphericalInteraction(nn.Module):
    r"""Tensors of the neighbours, coupled with the direction in which they are.

    .. math::
        \tilde x = W_1 \mathcal{N}(x), \qquad
        m_{ij} = \sum_{p \in S} c_p\, w^p_{ij} \odot \big( \tilde x_j \otimes_p Y(\hat r_{ij})
        \big), \qquad
        x_i \mathrel{+}= W_2 \Big( \sum_j m_{ij} / \sqrt{\bar n} + \tilde x_i \Big)

    :math:`\mathcal{N}` is :class:`equiv.hamiltonian.irrep_layers.NormGate`, :math:`p` runs over the
    even couplings; :math:`S` and :math:`c_p` are those of the gate (all paths without one).

    Args:
        degrees: natural degrees of the features.
        channels: of every degree.
        num_radial: radial functions.
        hidden: width of the networks.
        mean_neighbors: :math:`\bar n`.
        sparsity: which paths are there, and the gate; by default all paths and no gate.
    """

    def __init__(
        self,
        degrees: Degrees,
        channels: int,
        num_radial: int,
        hidden: int,
        mean_neighbors: float,
        *,
        sparsity: PathSparsity | None = None,
    ) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(mean_neighbors)
        self.invariants = PairInvariants(degrees, channels)
        self.paths = SelectedPaths(degrees, degrees, sparsity=sparsity)
        product = self.paths.product
        self.messages = Messages(product)
        self.weights = PairWeights(
            num_radial, self.invariants.width, hidden, len(product.paths), channels
        )
        self.norm = NormGate(degrees, channels, hidden)
        self.linear_in = IrrepLinear(degrees, channels)
        self.linear_out = IrrepLinear(degrees, channels)

    def forward(
        self, x: Float[Tensor, "atoms components channels"], pairs: PairGeometry
    ) -> Float[Tensor, "atoms components channels"]:
        """New features of all atoms."""
        y, atoms = pairs.harmonics[:, : x.shape[1]], (pairs.first, pairs.second)
        hidden = self.weights.hidden(pairs.radial, lambda x: self.invariants(x, *atoms), x)
        (given,) = gated_linear(self.norm, (self.linear_in,), x)
        told = self.messages(
            given,
            y,
            atoms,
            hidden,
            self.weights.rows,
            self.paths.coefficients().squeeze(1) * (self.scale * self.weights.scale),
            self.paths.selection,
        )
        return x + self.linear_out(given + told)
