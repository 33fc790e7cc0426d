r"""The features of blocks: those of an atom with itself, and those of two atoms."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.gated_linear import GatedMaps, gated_linear
from equiv.hamiltonian.gated_products import ProductOfAtom, ProductOfPair, gated_product
from equiv.hamiltonian.gates import PairGate
from equiv.hamiltonian.irrep_layers import IrrepLinear, NormGate
from equiv.hamiltonian.node_layers import PairGeometry
from equiv.hamiltonian.pair_functions import spread
from equiv.hamiltonian.pair_weights import PairInvariants, PairWeights, simple_invariants
from equiv.hamiltonian.path_sparsity import PathSparsity, SelectedPaths
from equiv.hamiltonian.row_functions import Rows, add_rows


class DiagonalLayer(ExactConstants):
    r"""Features of the blocks on the diagonal: an atom coupled with itself.

    .. math::
        f_{ii} \mathrel{+}= W_3\, \mathcal{N}\Big( \sum_{p \in S} c_p\, w^p \odot \big( W_1
        \mathcal{N}(x_i) \otimes_p W_2 \mathcal{N}(x_i) \big) + x_i \Big)

    :math:`w^p` is one learned number per path and channel, :math:`S` and :math:`c_p` are those of
    the gate (all paths without one).

    Args:
        degrees: natural degrees of the atoms' features.
        out: irreps of the blocks' features.
        channels: of every irrep.
        hidden: width of the networks.
        parity: whether odd couplings are kept apart from even ones.
        sparsity: which paths are there, and the gate; by default all paths and no gate.
    """

    def __init__(
        self,
        degrees: Degrees,
        out: Degrees,
        channels: int,
        hidden: int,
        *,
        parity: bool = True,
        sparsity: PathSparsity | None = None,
    ) -> None:
        super().__init__()
        self.out = out
        self.paths = SelectedPaths(degrees, out, parity=parity, sparsity=sparsity)
        self.norm_in = NormGate(degrees, channels, hidden)
        self.left, self.right = IrrepLinear(degrees, channels), IrrepLinear(degrees, channels)
        self.weights = nn.Parameter(torch.randn(len(self.paths.product.paths), channels))
        self.norm_out = NormGate(out, channels, hidden)
        self.linear = IrrepLinear(out, channels)

    def forward(
        self, x: Float[Tensor, "atoms components channels"]
    ) -> Float[Tensor, "atoms out channels"]:
        """What the layer adds to the features of the diagonal blocks."""
        selection, factors = self.paths.selection, self.paths.coefficients()
        left, right = gated_linear(self.norm_in, (self.left, self.right), x)
        weights = self.weights
        if len(selection) < len(weights):
            weights = weights.index_select(0, torch.tensor(selection, device=x.device))
        return gated_product(
            GatedMaps(self.norm_out, (self.linear,)),
            ProductOfAtom(self.paths.product, selection),
            (left, right, (weights * factors).unsqueeze(0), x),
            keep=not self.paths.cheap,
        )


class PairLayer(ExactConstants):
    r"""Features of the blocks of two atoms.

    .. math::
        \ell &= a_i + \sigma^\ell \odot a_j, & r &= b_i + \sigma^r \odot b_j, & a, b &= W_{1,2}\,
        \mathcal{N}(x) \\
        f_{ij} &\mathrel{+}= g_{ij}\, W_3\, \mathcal{N}\Big( \sum_{p \in S} c_p\, w^p_{ij} \odot
        (\ell \otimes_p r) \Big)

    :math:`\sigma^\ell, \sigma^r` are signs, one per channel, +1 or -1 for a quarter of the channels
    in each of the four combinations; weights and gates are the same for both orders of the atoms.
    So half of the channels of :math:`f_{ji}` equal those of :math:`f_{ij}`, and the other half are
    their negatives (:func:`exchange_signs`), exactly and at no cost: a block and its transpose come
    from one evaluation.

    :math:`S, c_p` are those of the gate of paths, :math:`g_{ij}` of the gate of pairs; what they
    drop is not computed, neither products nor the weights that would enter them.

    Args:
        degrees: natural degrees of the atoms' features.
        out: irreps of the blocks' features.
        channels: of every irrep, a multiple of 4.
        num_radial: radial functions.
        hidden: width of the networks.
        parity: whether odd couplings are kept apart from even ones.
        sparsity: which paths are there, and the gate; by default all paths and no gate.
        pair_gate: the gate of pairs, if there is one.
    """

    def __init__(
        self,
        degrees: Degrees,
        out: Degrees,
        channels: int,
        num_radial: int,
        hidden: int,
        *,
        parity: bool = True,
        sparsity: PathSparsity | None = None,
        pair_gate: PairGate | None = None,
    ) -> None:
        super().__init__()
        if channels % 4:
            raise EquivError(f"channels: expected a multiple of 4, got {channels}")
        self.out, self.pair_gate = out, pair_gate
        self.paths = SelectedPaths(degrees, out, parity=parity, sparsity=sparsity)
        self.invariants = PairInvariants(degrees, channels)
        self.norm_in = NormGate(degrees, channels, hidden)
        self.left, self.right = IrrepLinear(degrees, channels), IrrepLinear(degrees, channels)
        self.weights = PairWeights(
            num_radial,
            self.invariants.width,
            hidden,
            len(self.paths.product.paths),
            channels,
        )
        self.norm_out = NormGate(out, channels, hidden, odd=channels // 2)
        self.linear = IrrepLinear(out, channels, grades=2)
        quarters = torch.arange(channels) // (channels // 4)
        self.register_constant("left_signs", torch.tensor([1.0, -1.0, 1.0, -1.0])[quarters])
        self.register_constant("right_signs", torch.tensor([1.0, -1.0, -1.0, 1.0])[quarters])
        self.left_signs: Tensor
        self.right_signs: Tensor

    def forward(
        self,
        f: Float[Tensor, "pairs out channels"] | None,
        x: Float[Tensor, "atoms components channels"],
        pairs: PairGeometry,
    ) -> Float[Tensor, "pairs out channels"]:
        """New features of all pairs; with a gate, ``f`` is added to in place."""
        index, weight, many = None, None, len(pairs.first)
        if self.pair_gate is not None:
            index, weight = self.pair_gate(
                x,
                pairs.distances,
                pairs.pair_batch,
                pairs.counts,
                partial(self.invariants.of_some, first=pairs.first, second=pairs.second),
            )
            pairs = pairs.kept(index)
        atoms = (pairs.first, pairs.second)
        a, b = gated_linear(self.norm_in, (self.left, self.right), x)
        hidden = self.weights.hidden(pairs.radial, lambda x: self.invariants(x, *atoms), x)
        signs = (self.left_signs, self.right_signs)
        update = gated_product(
            GatedMaps(self.norm_out, (self.linear,)),
            ProductOfPair(self.paths.product, self.paths.selection, atoms, signs),
            (
                a,
                b,
                hidden,
                self.weights.rows,
                self.paths.coefficients().squeeze(1) * (0.5 * self.weights.scale),
            ),
            weight,
            keep=not self.paths.cheap,
        )
        if index is None:
            return update if f is None else update.add_(f)
        if f is None:
            f = update.new_zeros(many, *update.shape[1:])
        return add_rows(f, index, update)


def exchange_signs(channels: int) -> Float[Tensor, " channels"]:
    """Sign of each channel of a pair's features when its two atoms are exchanged."""
    return torch.cat([torch.ones(channels // 2), -torch.ones(channels // 2)])


class DirectPairFeatures(ExactConstants):
    r"""The direction between two atoms, in every channel and degree.

    .. math::
        f^l_{ij} = w^l_{ij} \odot \big( s_i + \tau_l \odot s_j \big)\, Y_l(\hat r_{ij})

    :math:`\tau_{l} = (-1)^l \sigma`, with :math:`\sigma` of :func:`exchange_signs`, gives the
    features the signs under exchange that those of :class:`PairLayer` have.

    Args:
        degrees: natural degrees of the harmonics.
        out: irreps of the features.
        channels: of every irrep.
        num_radial: radial functions.
        hidden: width of the network.
    """

    def __init__(
        self, degrees: Degrees, out: Degrees, channels: int, num_radial: int, hidden: int
    ) -> None:
        super().__init__()
        self.natural = Degrees(tuple(l for l in out.natural if l in degrees.natural))
        self.out = out
        self.weights = PairWeights(num_radial, 2 * channels, hidden, len(self.natural), channels)
        self.rows = Rows(self.natural, channels)
        signs = torch.tensor([[(-1.0) ** l] for l in self.natural.natural])
        self.register_constant("signs", signs * exchange_signs(channels))
        self.signs: Tensor

    def forward(
        self, scalars: Float[Tensor, "atoms channels"], pairs: PairGeometry
    ) -> Float[Tensor, "pairs out channels"]:
        """Features of all pairs."""
        atoms = (pairs.first, pairs.second)
        weights = self.weights.of_atoms(
            pairs.radial, lambda s: simple_invariants(s, *atoms), scalars
        )
        y = pairs.harmonics[:, : self.natural.dim]
        return spread(self.rows, self.out.dim, self.signs, atoms, scalars, y, weights)
