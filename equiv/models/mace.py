"""MACE: higher-order equivariant message passing (Batatia et al. 2022)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.choices import choose
from equiv.graph.blocks import NeighborBlocks
from equiv.graph.layout import Layout
from equiv.message_passing.choice import CONVOLUTIONS
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.thinned_convolution import ThinnedConvolution
from equiv.models.arguments import checked_elements, require
from equiv.models.block_model import BlockModel
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.linear import ElementLinear, SphericalLinear
from equiv.nn.mlp import RadialMLP
from equiv.nn.path_gate import check_sparsity
from equiv.nn.radial import RADIAL_BASES, BesselBasis
from equiv.nn.readout import LinearReadout, NonlinearReadout
from equiv.nn.reference_energies import ReferenceEnergies
from equiv.nn.sparsity_schedule import SparsitySchedule
from equiv.nn.zbl import ZBL
from equiv.so3 import num_symmetric_couplings, spherical_harmonics
from equiv.tensor_products.many_body_choice import MANY_BODY_PRODUCTS

_require = partial(require, "MACE")


class MACE(BlockModel):
    r"""Many-body message passing with spherical tensors.

    .. math::
        E = \sum_i \Big( E^0_{z_i} + s \sum_t \mathcal{R}_t(h^{(t)}_{i,00}) + b \Big)

    In each layer :math:`t` the features of the neighbours are convolved with the edges' spherical
    harmonics, raised to products of up to :math:`\nu` factors with weights of the element, and
    mixed (:class:`MACELayer`); a readout :math:`\mathcal{R}_t` turns the invariant ones into
    energy. :math:`E^0` are reference energies, :math:`s` = ``scale`` and :math:`b` = ``shift`` in
    eV.

    The functional form is that of mace-torch's ``ScaleShiftMACE`` with
    ``RealAgnosticInteractionBlock`` first and ``RealAgnosticResidualInteractionBlock`` after.

    Args:
        elements: chemical symbols (or atomic numbers) of the elements.
        cutoff: Angstrom.
        channels: channels per degree.
        hidden_degree: highest degree of the features passed between layers.
        edge_degree: highest degree of the spherical harmonics and of the messages.
        layers: number of message-passing layers.
        correlation: order :math:`\nu` of the many-body products, 1 to 4.
        radial_basis: ``"bessel"`` or ``"chebyshev"``.
        num_radial: number of radial functions.
        cutoff_power: power of the polynomial cutoff.
        radial_hidden: hidden widths of the radial networks.
        readout_hidden: hidden width of the last readout.
        product: tensor product of convolution and many-body product. ``"clebsch_gordan"`` weighs
            every coupling by itself (``"so2"``: the same map, convolved in the frames of the
            edges); ``"gaunt_grid"`` (``"gaunt_fourier"``: the same map, slower), ``"matrix"`` and
            ``"vector_signal"`` have fixed couplings and weights of rank one, cost less and express
            less. See :data:`equiv.message_passing.CONVOLUTIONS` and
            :data:`equiv.tensor_products.MANY_BODY_PRODUCTS`.
        mean_neighbors: mean number of neighbours in the training set; keeps messages of unit size.
        reference_energies: eV, by chemical symbol.
        scale: :math:`s`, eV; the root mean square of the training forces is customary.
        shift: :math:`b`, eV per atom.
        residual_first: whether the first layer adds its features to its result, as the others do;
            its messages then skip the element-dependent map.
        frequencies: of the Bessel functions in 1/Angstrom, where a model from elsewhere holds
            rounded ones.
        zbl: add the :class:`equiv.nn.ZBL` repulsion, so that atoms cannot collapse into each other.
        sparsity: share of the paths of each Clebsch-Gordan convolution that a gate drops
            (:class:`equiv.message_passing.ThinnedConvolution`); 0 for all. Many-body products keep
            theirs: their weights are summed up into one polynomial, whatever their number.
        budget: of the paths, ``"paths"`` or ``"flops"``.
        random_until: optimizer step at which the random phase of the gates ends.
        fixed_from: optimizer step at which they are fixed.
        gate_seed: of the random phase.
        selected: of an exported model (:meth:`compact`), the paths that each layer has.

    Raises:
        EquivError: an argument is out of range or an element has no reference energy.
    """

    name: ClassVar[str] = "mace"

    def __init__(
        self,
        elements: Sequence[str | int],
        cutoff: float,
        *,
        channels: int = 64,
        hidden_degree: int = 1,
        edge_degree: int = 3,
        layers: int = 2,
        correlation: int = 3,
        radial_basis: str = "bessel",
        num_radial: int = 8,
        cutoff_power: int = 5,
        radial_hidden: Sequence[int] = (64, 64, 64),
        readout_hidden: int = 16,
        product: str = "clebsch_gordan",
        mean_neighbors: float,
        reference_energies: Mapping[str, float],
        scale: float = 1.0,
        shift: float = 0.0,
        residual_first: bool = False,
        frequencies: Sequence[float] | None = None,
        zbl: bool = False,
        sparsity: float = 0.0,
        budget: str = "paths",
        random_until: int = 0,
        fixed_from: int = 0,
        gate_seed: int = 0,
        selected: Sequence[Sequence[int]] | None = None,
    ) -> None:
        numbers, symbols = checked_elements("MACE", elements, reference_energies)
        _require(cutoff > 0, "cutoff", "a positive radius in Angstrom", cutoff)
        _require(
            mean_neighbors > 0,
            "mean_neighbors",
            "a positive number, measured on the training set",
            mean_neighbors,
        )
        _require(1 <= correlation <= 4, "correlation", "1, 2, 3 or 4", correlation)
        _require(
            0 <= hidden_degree <= edge_degree, "hidden_degree", "0 up to edge_degree", hidden_degree
        )
        for key, value in {
            "channels": channels,
            "layers": layers,
            "num_radial": num_radial,
        }.items():
            _require(value >= 1, key, "at least 1", value)
        check_sparsity(sparsity)
        sparse = bool(sparsity) or selected is not None
        _require(
            not sparse or product == "clebsch_gordan", "sparsity", "0 for this product", sparsity
        )
        _require(
            selected is None or len(selected) == layers, "selected", "paths of each layer", selected
        )
        super().__init__(numbers, cutoff)
        self.recipe = {
            "elements": symbols,
            "cutoff": float(cutoff),
            "channels": channels,
            "hidden_degree": hidden_degree,
            "edge_degree": edge_degree,
            "layers": layers,
            "correlation": correlation,
            "radial_basis": radial_basis,
            "num_radial": num_radial,
            "cutoff_power": cutoff_power,
            "radial_hidden": list(radial_hidden),
            "readout_hidden": readout_hidden,
            "product": product,
            "mean_neighbors": float(mean_neighbors),
            "reference_energies": {s: float(reference_energies[s]) for s in symbols},
            "scale": float(scale),
            "shift": float(shift),
            "residual_first": residual_first,
            "frequencies": None if frequencies is None else [float(k) for k in frequencies],
            "zbl": zbl,
            "sparsity": float(sparsity),
            "budget": budget,
            "random_until": int(random_until),
            "fixed_from": int(fixed_from),
            "gate_seed": int(gate_seed),
            "selected": None if selected is None else [list(map(int, s)) for s in selected],
        }
        self.edge_degree, self.scale, self.shift = edge_degree, float(scale), float(shift)
        basis = choose(RADIAL_BASES, radial_basis, "radial_basis")
        given = {} if frequencies is None else {"frequencies": frequencies}
        _require(not given or basis is BesselBasis, "frequencies", "left out", radial_basis)
        self.radial_basis = basis(num_radial, self.cutoff, PolynomialCutoff(cutoff_power), **given)
        self.embedding = nn.Parameter(torch.randn(len(numbers), channels))
        self.layers = nn.ModuleList()
        self.readouts = nn.ModuleList()
        for t in range(layers):
            first, last = t == 0, t == layers - 1
            self.layers.append(
                MACELayer(
                    degree_in=0 if first else hidden_degree,
                    degree_out=0 if last else hidden_degree,
                    edge_degree=edge_degree,
                    channels=channels,
                    correlation=correlation,
                    radial_widths=(num_radial, *radial_hidden),
                    num_elements=len(numbers),
                    mean_neighbors=mean_neighbors,
                    residual=residual_first or not first,
                    product=product,
                    selected=None if selected is None else selected[t],
                )
            )
            self.readouts.append(
                NonlinearReadout(channels, readout_hidden)
                if last and layers > 1
                else LinearReadout(channels)
            )
        if sparsity and selected is None:
            for t, layer in enumerate(self._layers()):
                layer.thin(sparsity, budget=budget, seed=gate_seed, layer=t)
        gates = [thinned.gate for thinned in self._thinned().values()]
        self.schedule = (
            SparsitySchedule(gates, random_until=random_until, fixed_from=fixed_from)
            if gates
            else None
        )
        self.reference = ReferenceEnergies([reference_energies[s] for s in symbols])
        self.zbl = ZBL() if zbl else None
        self.register_buffer("atomic_numbers", torch.tensor(numbers), persistent=False)
        self.atomic_numbers: Tensor

    @classmethod
    def construction_size(cls, recipe: dict[str, Any]) -> int:
        """Coupling coefficients of the many-body products of all layers."""
        defaults = {"edge_degree": 3, "hidden_degree": 1, "correlation": 3, "layers": 2}
        degree, hidden, correlation, layers = (recipe.get(k, v) for k, v in defaults.items())
        _require(degree <= 12 and hidden <= degree, "edge_degree", "12 at most", degree)
        _require(1 <= correlation <= 4, "correlation", "1, 2, 3 or 4", correlation)
        if recipe.get("product", "clebsch_gordan") not in ("clebsch_gordan", "so2"):
            return layers * correlation * (degree + 1) ** (2 * correlation)  # their constants
        return layers * sum(
            num_symmetric_couplings(degree, order, l) * (2 * l + 1) * (degree + 1) ** (2 * order)
            for l in range(hidden + 1)
            for order in range(1, correlation + 1)
        )

    def row_energies(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> Float[Tensor, " rows"]:
        """Energies of the rows' atoms in eV and float64, reference energies included."""
        return self.row_outputs(vectors, layout)[0]

    def advance(self, step: int) -> None:
        """Tell the gates how many optimizer steps have been taken."""
        if self.schedule is not None:
            self.schedule.advance(step)

    @property
    def stage(self) -> int:
        """0 random, 1 adaptive, 2 fixed; 0 without gates."""
        return 0 if self.schedule is None else int(self.schedule.phase)

    @property
    def kept_paths(self) -> Mapping[str, tuple[int, int]]:
        """Of the convolutions that have a gate."""
        return {
            f"layers.{t}.convolution": (len(thinned.gate.selection), len(thinned.gate.paths))
            for t, thinned in self._thinned().items()
        }

    @torch.no_grad()
    def compact(self) -> "MACE":
        """The same model without the paths that it never computes; for prediction.

        Scores of paths are folded into the weights. A model without gates is returned as it is.

        Raises:
            EquivError: the gates are not fixed yet.
        """
        if self.schedule is None:
            return self
        self.schedule.require_fixed()
        thinned = self._thinned()
        chosen = [
            thinned[t].gate.selection if t in thinned else range(len(layer.convolution.paths))
            for t, layer in enumerate(self._layers())
        ]
        plain = {"sparsity": 0.0, "random_until": 0, "fixed_from": 0, "selected": chosen}
        other = MACE(**{**self.recipe, **plain}).to(device=self.device, dtype=self.dtype)
        state = {name: x for name, x in self.state_dict().items() if name in other.state_dict()}
        for t, part in thinned.items():
            last = len(self.recipe["radial_hidden"])
            name = f"layers.{t}.radial_mlp.weights.{last}"
            factors = part.factors().repeat_interleave(part.channels)
            state[name] = state[name][:, part.columns()] * factors
            for l, rows in enumerate(part.rows()):
                name = f"layers.{t}.linear.weights.{l}"
                share = len(rows) / len(state[name])  # the map divides by the root of this number
                state[name] = state[name][rows] * share**0.5
        other.load_state_dict(state)
        other.card = dict(self.card)
        return other.train(self.training)

    def _thinned(self) -> dict[int, ThinnedConvolution]:
        """The gated convolutions by the number of their layer."""
        found = {t: layer.thinned for t, layer in enumerate(self._layers())}
        return {t: thinned for t, thinned in found.items() if thinned is not None}

    def _layers(self) -> "Sequence[MACELayer]":
        return cast("Sequence[MACELayer]", self.layers)

    @property
    def invariant_channels(self) -> int:
        """The scalar channels of all layers."""
        return len(self.layers) * self.embedding.shape[1]

    def row_outputs(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows channels"]]:
        """Energies of the rows' atoms, and the scalar features of all layers."""
        neighbors, counts = layout.neighbors, layout.counts
        edges = vectors.to(self.dtype)
        distances = torch.linalg.vector_norm(edges, dim=-1)
        harmonics = spherical_harmonics(self.edge_degree, edges)
        radial = self.radial_basis(distances)

        elements = zip(self.embedding / len(counts) ** 0.5, counts, strict=True)
        features = torch.cat([e.expand(rows, 1, -1) for e, rows in elements])
        readout = features.new_zeros(features.shape[0])
        invariants = []
        for layer, read in zip(self.layers, self.readouts, strict=True):
            features = layer(features, harmonics, radial, neighbors, counts)
            invariants.append(features[:, 0])
            readout = readout + read(invariants[-1])

        energies = self.reference(layout.species) + self.scale * readout.double() + self.shift
        if self.zbl is not None:
            numbers = self.atomic_numbers[layout.species]
            pairs = self.zbl.pairs(distances, numbers[neighbors.first], numbers[neighbors.second])
            energies = energies + 0.5 * neighbors.sum_pairs(pairs.double())
        return energies, torch.cat(invariants, dim=-1)


class MACELayer(nn.Module):
    r"""One layer: convolution, many-body product, mixing.

    .. math::
        A_i = \frac{1}{\bar n} W \sum_{j \to i} R(r_{ij}) \otimes Y(\hat r_{ij}) \otimes U h_j,
        \qquad h'_i = V B_{z_i}(A_i) + S_{z_i} h_i

    :math:`B` is the many-body product (:class:`equiv.tensor_products.ManyBodyProduct`),
    :math:`\bar n` = ``mean_neighbors``. The first layer has no residual :math:`S`; its messages
    pass through an element-dependent linear map instead.
    """

    def __init__(
        self,
        *,
        degree_in: int,
        degree_out: int,
        edge_degree: int,
        channels: int,
        correlation: int,
        radial_widths: Sequence[int],
        num_elements: int,
        mean_neighbors: float,
        residual: bool,
        product: str,
        selected: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        convolution = choose(CONVOLUTIONS, product, "product")
        many_body = choose(MANY_BODY_PRODUCTS, product, "product")
        self.mean_neighbors, self.residual = float(mean_neighbors), residual
        self.linear_up = SphericalLinear(channels, channels, degree_in)
        given = {} if selected is None else {"selected": selected}
        self.convolution = convolution(degree_in, edge_degree, edge_degree, channels, **given)
        self.thinned: ThinnedConvolution | None = None
        self.radial_mlp = RadialMLP([*radial_widths, self.convolution.weight_numel])
        self.linear = SphericalLinear(self.convolution.channels_out(), channels, edge_degree)
        self.skip = ElementLinear(
            channels,
            channels,
            min(degree_in, degree_out) if residual else edge_degree,
            num_elements=num_elements,
        )
        self.product = many_body(
            edge_degree, degree_out, channels, correlation=correlation, num_elements=num_elements
        )
        self.linear_product = SphericalLinear(channels, channels, degree_out)

    def forward(
        self,
        features: Float[Tensor, "rows lm_in channels"],
        harmonics: Float[Tensor, "pairs lm_edge"],
        radial: Float[Tensor, "pairs num_radial"],
        neighbors: NeighborBlocks,
        counts: Sequence[int],
    ) -> Float[Tensor, "rows lm_out channels"]:
        """New features of atoms sorted by element, ``counts`` atoms of each."""
        mixed = self._mixed(self.linear_up(features), harmonics, radial, neighbors)
        density = mixed / self.mean_neighbors
        if not self.residual:
            return self.linear_product(self.product(self.skip(density, counts), counts))
        kept = features[:, : (self.skip.degree + 1) ** 2]
        out = self.linear_product(self.product(density, counts))
        return out + nn.functional.pad(
            self.skip(kept, counts), (0, 0, 0, out.shape[1] - kept.shape[1])
        )

    def thin(self, sparsity: float, *, budget: str, seed: int, layer: int) -> None:
        """Give the convolution a gate, if it has paths to choose from."""
        convolution = self.convolution
        assert isinstance(convolution, ClebschGordanConvolution)  # no other product gets here
        if len({path[-1] for path in convolution.paths}) < len(convolution.paths):
            self.thinned = ThinnedConvolution(
                convolution, sparsity, budget=budget, seed=seed, layer=layer
            )

    def _mixed(
        self, sent: Tensor, harmonics: Tensor, radial: Tensor, neighbors: NeighborBlocks
    ) -> Tensor:
        if self.thinned is not None:
            maps = self.convolution, self.radial_mlp, self.linear
            return self.thinned(*maps, sent, harmonics, radial, neighbors)
        return self.linear(self.convolution(sent, harmonics, self.radial_mlp(radial), neighbors))
