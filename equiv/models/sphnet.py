"""SPHNet: Hamiltonians of density functional theory by adaptive sparsity (Luo et al. 2025)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.choices import choose
from equiv.hamiltonian.baseline import BASELINES
from equiv.hamiltonian.basis import OrbitalBasis
from equiv.hamiltonian.blocks import Blocks
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.gates import PairGate
from equiv.hamiltonian.layout import BlockLayout
from equiv.hamiltonian.node_layers import (
    PairGeometry,
    SphericalEmbedding,
    SphericalInteraction,
    VectorialInteraction,
    bounded,
)
from equiv.hamiltonian.pair_layers import (
    DiagonalLayer,
    DirectPairFeatures,
    PairLayer,
    exchange_signs,
)
from equiv.hamiltonian.pair_weights import PairWeights
from equiv.hamiltonian.path_sparsity import PathSparsity
from equiv.hamiltonian.radial import ExponentialBernstein
from equiv.hamiltonian.readout import BlockReadout
from equiv.hamiltonian.standardise import BlockStandardisation
from equiv.models.abstract import AbstractModel
from equiv.models.arguments import require
from equiv.nn.path_gate import PathGate
from equiv.nn.sparsity_schedule import SparsitySchedule
from equiv.so3 import spherical_harmonics

PARITIES = {"o3": True, "so3": False}
"""Symmetry of the features by name: whether odd couplings are told apart from even ones."""

_require = partial(require, "SPHNet")


class Molecules(Protocol):
    """What the network reads of a batch; labels are not among it.

    Attributes:
        numbers: atomic numbers.
        positions: Angstrom, float64.
        layout: where atoms and pairs are.
    """

    @property
    def numbers(self) -> Int[Tensor, " atoms"]: ...
    @property
    def positions(self) -> Float[Tensor, "atoms 3"]: ...
    @property
    def layout(self) -> BlockLayout: ...


class SPHNet(AbstractModel):
    r"""A Hamiltonian from positions, with products that are thinned out while it learns.

    .. math::
        H = H_0 + \mathrm{blocks}^{-1}\big( \mu + \sigma \odot W f \big)

    :math:`H_0` is a baseline that is cheap to compute, :math:`\mu, \sigma` bring every irrep of
    every kind of block to unit scale (:class:`BlockStandardisation`), and the features :math:`f` of
    blocks come from four parts:

    1. vectorial interactions: scalars :math:`s_i` and vectors of atoms see their neighbours; from
       one interaction to the next both are :func:`bounded
       <equiv.hamiltonian.node_layers.bounded>`;
    2. spherical interactions: :math:`s_i` becomes :math:`x^{(1)}_i` of all degrees, and with the
       neighbours' :math:`x^{(1)}_j` it becomes :math:`x^{(2)}_i`;
    3. pair construction, once from :math:`x^{(1)}` and once from :math:`x^{(2)}`: :math:`f_{ii}`
       from :math:`x_i \otimes x_i`, :math:`f_{ij}` from :math:`x_i \otimes x_j`;
    4. expansion: a linear map to the irreps that each kind of block has, and no others.

    With ``sparsity`` :math:`k > 0` the messages of part 2 and the products of part 3 have a
    :class:`PathGate` each, and every pair layer but the last a :class:`PairGate`
    (``pair_sparsity``). The paper gates other pairs: those of the last layer, though every block is
    made of :math:`x^{(2)}`, which knows most, and those of the messages, which leaves an atom of
    hydrogen one neighbour to hear. Ethanol's test error after trainings of 24 minutes, one of each
    kind and not all with one schedule: 48.7 uEh with the last layer's pairs dropped, 42.7 with the
    first's, 40.3 with paths of the messages instead of their pairs. :class:`SparsitySchedule` takes
    the gates through a random, an adaptive and a fixed phase. What is dropped is not computed.

    Symmetries are exact: rotations, reflections (``parity="o3"``), permutations of atoms, symmetry
    of H, and a molecule does not see the others in its batch. ``parity="so3"`` is the choice of the
    paper, which calls all features even, couples them regardless of parity, and is wrong under
    reflections; it is there for comparison.

    Eh and Angstrom. Cost: linear in the pairs of atoms of each molecule.

    Args:
        basis: the orbitals, or ``OrbitalBasis.to_dict`` of them.
        baseline: key of :data:`equiv.hamiltonian.baseline.BASELINES`.
        theory: functional and grid of the labels, for making the baseline
            (:class:`equiv.hamiltonian.Theory`).
        channels: per irrep, a multiple of 4.
        degree: highest degree of the atoms' features.
        vectorial_layers: interactions of part 1.
        pair_layers: of part 3; the last reads :math:`x^{(2)}`, those before :math:`x^{(1)}`.
        num_radial: radial functions.
        hidden: width of the networks.
        cutoff: of interactions between atoms, Angstrom. Every pair has a block, at any distance.
        pair_cutoff: of the weights of pairs, Angstrom: features of pairs vanish there.
        decay: of the radial functions, 1/Angstrom.
        parity: ``"o3"`` or ``"so3"``.
        sparsity: share :math:`k` of the paths that is dropped; 0 for a dense network.
        pair_sparsity: share of the pairs that every pair layer but the last drops; by default as
            ``sparsity``.
        message_sparsity: share of the paths that the second spherical interaction drops; by default
            as ``sparsity``.
        budget: what ``sparsity`` is a share of: ``"paths"``, or ``"flops"``, their multiply-adds.
        random_until: optimizer step at which the random phase ends.
        fixed_from: optimizer step at which the gates are fixed.
        gate_seed: of the random phase.
        selected: of an exported model (:meth:`compact`), the paths that each product has: messages,
            then diagonal blocks and pairs of each layer.
        mean_neighbors: mean number of neighbours within the cutoff, in the training set.

    Raises:
        EquivError: an argument is out of range.
    """

    name: ClassVar[str] = "sphnet"
    units: Mapping[str, str] = {"energy": "Hartree", "length": "Angstrom"}

    def __init__(
        self,
        basis: OrbitalBasis | Mapping[str, Any],
        *,
        baseline: str = "minao",
        theory: Mapping[str, Any] | None = None,
        channels: int = 64,
        degree: int | None = None,
        vectorial_layers: int = 2,
        pair_layers: int = 2,
        num_radial: int = 16,
        hidden: int = 64,
        cutoff: float = 15.0,
        pair_cutoff: float = 30.0,
        decay: float = 0.5,
        parity: str = "o3",
        sparsity: float = 0.7,
        pair_sparsity: float | None = None,
        message_sparsity: float | None = None,
        budget: str = "paths",
        random_until: int = 0,
        fixed_from: int = 0,
        gate_seed: int = 0,
        selected: Sequence[Sequence[int]] | None = None,
        mean_neighbors: float,
    ) -> None:
        if not isinstance(basis, OrbitalBasis):
            basis = OrbitalBasis.from_dict(basis)
        choose(BASELINES, baseline, "baseline")
        conserved = choose(PARITIES, parity, "parity")
        _require(channels >= 4 and channels % 4 == 0, "channels", "a multiple of 4", channels)
        _require(pair_layers >= 1, "pair_layers", "at least 1", pair_layers)
        _require(0 < cutoff <= pair_cutoff, "cutoff", "positive, at most pair_cutoff", cutoff)
        _require(mean_neighbors > 0, "mean_neighbors", "positive", mean_neighbors)
        if selected is not None:
            count = 1 + 2 * pair_layers
            products = f"the paths of {count} products (messages, diagonal, pairs, ...)"
            _require(len(selected) == count, "selected", products, f"those of {len(selected)}")
        super().__init__(tuple(basis.shells), None)
        degree = basis.l_max if degree is None else degree
        _require(degree >= 0, "degree", "at least 0", degree)
        pair_sparsity = sparsity if pair_sparsity is None else pair_sparsity
        message_sparsity = sparsity if message_sparsity is None else message_sparsity
        self.basis, self.baseline, self.parity = basis, baseline, parity
        self.theory = None if theory is None else dict(theory)
        self.recipe = {
            "basis": basis.to_dict(),
            "baseline": baseline,
            "theory": None if theory is None else dict(theory),
            "channels": channels,
            "degree": degree,
            "vectorial_layers": vectorial_layers,
            "pair_layers": pair_layers,
            "num_radial": num_radial,
            "hidden": hidden,
            "cutoff": float(cutoff),
            "pair_cutoff": float(pair_cutoff),
            "decay": float(decay),
            "parity": parity,
            "sparsity": float(sparsity),
            "pair_sparsity": float(pair_sparsity),
            "message_sparsity": float(message_sparsity),
            "budget": budget,
            "random_until": int(random_until),
            "fixed_from": int(fixed_from),
            "gate_seed": int(gate_seed),
            "selected": None if selected is None else [list(map(int, s)) for s in selected],
            "mean_neighbors": float(mean_neighbors),
        }
        self.atom_cutoff, self.channels = float(cutoff), channels
        nodes = Degrees.up_to(degree)
        blocks = block_degrees(basis, conserved)
        self.degree, self.blocks = max(degree, blocks.natural[-1]), blocks
        self._places = dict(zip(blocks.irreps, blocks.starts, strict=True))
        if not conserved:  # the same features for both parities
            self._places |= {(-sign, l): start for (sign, l), start in self._places.items()}
        self.embedding = nn.Parameter(torch.randn(len(self.elements), channels))
        self.radial_basis = ExponentialBernstein(num_radial, cutoff, decay=decay)
        self.pair_basis = ExponentialBernstein(num_radial, pair_cutoff, decay=decay)
        self.vectorial = nn.ModuleList(
            VectorialInteraction(channels, num_radial, mean_neighbors)
            for _ in range(vectorial_layers)
        )
        gates: list[PathGate | PairGate] = []

        shared: dict[str, Any] = {"budget": budget, "seed": gate_seed, "selected": selected}
        told = PathSparsity(message_sparsity, **shared)
        paths = PathSparsity(sparsity, **shared, first=1)

        def pair_gate() -> PairGate | None:
            if pair_sparsity == 0:
                return None
            gate = PairGate(
                (len(nodes) + 1) * channels, pair_sparsity, seed=gate_seed, layer=1000 + len(gates)
            )
            gates.append(gate)
            return gate

        self.spherical_embedding = SphericalEmbedding(
            nodes, channels, num_radial, hidden, mean_neighbors
        )
        self.spherical = SphericalInteraction(
            nodes, channels, num_radial, hidden, mean_neighbors, sparsity=told
        )
        self.direct = DirectPairFeatures(nodes, blocks, channels, num_radial, hidden)
        self.diagonal, self.pairs = nn.ModuleList(), nn.ModuleList()
        for layer in range(pair_layers):
            self.diagonal.append(
                DiagonalLayer(nodes, blocks, channels, hidden, parity=conserved, sparsity=paths)
            )
            self.pairs.append(
                PairLayer(
                    nodes,
                    blocks,
                    channels,
                    num_radial,
                    hidden,
                    parity=conserved,
                    sparsity=paths,
                    pair_gate=pair_gate() if layer < pair_layers - 1 else None,
                )
            )
        gates += told.gates + paths.gates
        self._gates = tuple(gates)  # a tuple: they are modules of their layers
        self.schedule = SparsitySchedule(gates, random_until=random_until, fixed_from=fixed_from)
        self.readout = BlockReadout(basis, channels, basis.l_max, exchange=exchange_signs(channels))
        self.standardisation = BlockStandardisation(basis)

    @classmethod
    def construction_size(cls, recipe: dict[str, Any]) -> int:
        """Coupling coefficients of all products."""
        basis = recipe["basis"]["shells"]
        highest = max(max(degrees) for degrees in basis.values())
        degree = recipe.get("degree") or 2 * highest
        _require(degree <= 12 and highest <= 6, "degree", "12 at most", degree)
        dense = (degree + 1) ** 4 * (2 * highest + 1) ** 2
        return (2 * recipe.get("pair_layers", 2) + 1) * dense

    def forward(self, batch: Molecules) -> Blocks:
        """What is added to the baseline, Eh."""
        return self.standardisation(self.standardised(batch))

    def standardised(self, batch: Molecules) -> Blocks:
        """The same at unit scale: what training compares."""
        diagonal, pairs = self.features(batch)
        return self.readout.from_features(diagonal, pairs, self._places, batch.layout)

    def features(
        self, batch: Molecules
    ) -> tuple[
        Float[Tensor, "atoms components channels"], Float[Tensor, "pairs components channels"]
    ]:
        """Features of the diagonal blocks and of the blocks of pairs."""
        layout = batch.layout
        near, every = self.geometry(batch.positions, layout)
        scalars = self.embedding[self.species(batch.numbers)]
        vectors = scalars.new_zeros(len(scalars), 3, self.channels)
        for number, layer in enumerate(self.vectorial):
            if number:  # messages multiply features: unbounded, they would grow from layer to layer
                scalars, vectors = bounded(scalars), bounded(vectors)
            scalars, vectors = layer(scalars, vectors, near)
        first = self.spherical_embedding(scalars, near)
        second = self.spherical(first, near)
        f_ii, f_ij = None, self.direct(scalars, every)
        for number, (diagonal, pair) in enumerate(zip(self.diagonal, self.pairs, strict=True)):
            x = second if number == len(self.pairs) - 1 else first
            update = diagonal(x)
            f_ii = update if f_ii is None else f_ii + update
            f_ij = pair(f_ij, x, every)
        assert f_ii is not None
        return f_ii, f_ij

    def geometry(
        self, positions: Float[Tensor, "atoms 3"], layout: BlockLayout
    ) -> tuple[PairGeometry, PairGeometry]:
        """The pairs within the cutoff, and all pairs of each molecule."""
        vectors = positions[layout.second] - positions[layout.first]
        distances = torch.linalg.vector_norm(vectors, dim=-1)
        harmonics = spherical_harmonics(self.degree, vectors).to(self.dtype).contiguous()
        counts = torch.bincount(layout.batch)
        every = PairGeometry(
            layout.first,
            layout.second,
            distances,
            harmonics,
            self.pair_basis(distances).to(self.dtype),
            layout.pair_batch,
            counts,
        )
        radial = self.radial_basis(distances).to(self.dtype)
        near = replace(every, radial=radial)
        within = distances < self.atom_cutoff
        if not bool(within.all()):
            near = near.kept(torch.nonzero(within).squeeze(-1))
        return near, every

    @torch.no_grad()
    def compact(self) -> "SPHNet":
        """The same model without the paths that it never computes: smaller, and just as fast.

        Scores of paths are folded into the weights. Such a model is for prediction; it has nothing
        left to choose among paths, and which pairs of a molecule are computed its gates decide.
        A model that computes all of its paths is returned as it is.

        Raises:
            EquivError: the gates are not fixed yet.
        """
        if not any(isinstance(gate, PathGate) for gate in self.gates):
            return self
        self.schedule.require_fixed()
        layers = self._thinned()
        chosen = [list(layer.paths.selection) for layer in layers.values()]
        recipe = {**self.recipe, "selected": chosen, "random_until": 0, "fixed_from": 0}
        other = SPHNet(**recipe).to(device=self.device, dtype=self.dtype)
        state = {name: x for name, x in self.state_dict().items() if name in other.state_dict()}
        for name, layer in layers.items():
            of_pairs = isinstance(layer.weights, PairWeights)
            key = f"{name}.weights" + (".rows" if of_pairs else "")
            index = torch.tensor(layer.paths.selection, device=self.device)
            factors = layer.paths.folded()
            state[key] = state[key][index] * (factors.unsqueeze(-1) if of_pairs else factors)
        other.load_state_dict(state)
        other.card = dict(self.card)
        return other.train(self.training)

    @property
    def kept_paths(self) -> Mapping[str, tuple[int, int]]:
        """How many paths are computed, of how many, for each product by the name of its layer."""
        return {
            name: (len(layer.paths.selection), len(layer.paths.product.paths))
            for name, layer in self._thinned().items()
        }

    def _thinned(self) -> dict[str, Any]:
        """The layers whose products have gates of paths, in the order of their gates."""
        layers: dict[str, Any] = {"spherical": self.spherical}
        for number, both in enumerate(zip(self.diagonal, self.pairs, strict=True)):
            layers |= zip((f"diagonal.{number}", f"pairs.{number}"), both, strict=True)
        return layers

    def advance(self, step: int) -> None:
        """Tell the gates how many optimizer steps have been taken."""
        self.schedule.advance(step)

    @property
    def stage(self) -> int:
        """0 random, 1 adaptive, 2 fixed; 2 without gates."""
        return int(self.schedule.phase) if self.gates else 2

    @property
    def gates(self) -> tuple[PathGate | PairGate, ...]:
        """All gates."""
        return self._gates


def block_degrees(basis: OrbitalBasis, parity: bool) -> Degrees:
    """The irreps that features need, so that every number of every block can be reached."""
    kinds = (*basis.diagonal_kinds, *basis.pair_kinds)
    signed = {(part.sign, part.l) for kind in kinds for part in kind.parts}
    if not parity:
        return Degrees.up_to(max(l for _, l in signed))
    pseudo = [l for sign, l in signed if sign == -1]
    return Degrees(
        tuple(range(max(l for sign, l in signed if sign == 1) + 1)),
        tuple(range(min(pseudo), max(pseudo) + 1)) if pseudo else (),
    )
