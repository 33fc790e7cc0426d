"""MACE with parts exchanged: the forms that models of other programs have."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.choices import choose
from equiv.graph.layout import Layout
from equiv.message_passing.attentive_interaction import AttentiveInteraction
from equiv.message_passing.edges import Edges
from equiv.message_passing.gated_interaction import GatedInteraction
from equiv.message_passing.interaction import Interaction
from equiv.models.arguments import checked_elements, require
from equiv.models.block_model import BlockModel
from equiv.nn.activated_readout import ActivatedReadout, DeepReadout
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.distance_transform import DISTANCE_TRANSFORMS
from equiv.nn.linear import SphericalLinear
from equiv.nn.radial_functions import RADIAL_FUNCTIONS
from equiv.nn.readout import LinearReadout
from equiv.nn.reference_energies import ReferenceEnergies
from equiv.nn.rounded_zbl import RoundedZBL
from equiv.so3 import num_symmetric_couplings, spherical_harmonics
from equiv.tensor_products.many_body import ManyBodyProduct

INTERACTIONS = (
    "plain",
    "plain_residual",
    "density",
    "density_residual",
    "attentive",
    "gated",
)
READOUTS = ("none", "linear", "nonlinear", "deep")
ATTENTION_SCALARS, ATTENTION_HIDDEN, DENSITY_HIDDEN = 64, (256, 256, 256), (64,)

_require = partial(require, "VariantMACE")


class VariantMACE(BlockModel):
    r"""Message passing with many-body products, each part of it by name.

    .. math::
        E = \sum_i \Big( E^0_{z_i} + s \sum_t \mathcal{R}_t(h^{(t)}_{i,00}) + s \sum_{j \to i}
        \tfrac12 V_{ij} + b \Big), \qquad
        h^{(t+1)}_i = W B_{z_i}(A^{(t)}_i) + K^{(t)}_i

    :math:`A` and :math:`K` come from an interaction (:class:`equiv.message_passing.Interaction`,
    ...), :math:`B` is the many-body product, :math:`\mathcal{R}` a readout, :math:`V` a repulsion.
    :class:`equiv.models.MACE` is the case to train; this one holds what mace-torch can make beside
    it.

    Args:
        elements: chemical symbols (or atomic numbers).
        cutoff: Angstrom.
        channels: channels per degree.
        hidden_degree: highest degree of the features passed between layers.
        edge_degree: highest degree of harmonics and messages.
        correlation: order of the many-body product, for every layer.
        interactions: for every layer ``plain`` (messages through matrices of the element),
            ``plain_residual`` (features through matrices of the element are added to the result),
            ``density``, ``density_residual`` (normalised by a learnt density), ``attentive`` or
            ``gated``.
        sender_channels: channels of what neighbours send, for every layer.
        sender_degree: its highest degree, for every layer.
        element_products: whether the many-body products have weights of the element.
        radial_functions: ``bessel``, ``gaussian``, ``chebyshev``, or ``frozen_chebyshev``, whose
            slopes are taken as zero (forces are then not the derivatives of the energy).
        num_radial: number of radial functions.
        frequencies: of the Bessel functions in 1/Angstrom, if not the usual ones.
        distance_transform: ``none``, ``agnesi`` or ``soft``.
        cutoff_power: power of the polynomial cutoff.
        envelope: what the cutoff multiplies: the radial ``functions`` or the ``weights`` made of
            them. With ``functions``, the energy of ``attentive`` and ``gated`` layers jumps when an
            atom crosses the cutoff.
        radial_hidden: hidden widths of the radial networks.
        readouts: for every layer ``none``, ``linear``, ``nonlinear`` or ``deep``.
        readout_hidden: hidden width of the last two.
        activation: theirs: ``silu``, ``tanh``, ``abs`` or ``identity``.
        mean_neighbors: keeps messages of unit size.
        reference_energies: eV, by chemical symbol.
        scale: :math:`s`.
        shift: :math:`b`, eV per atom.
        repulsion: power of the envelope of :class:`equiv.nn.RoundedZBL`, or ``None`` for no
            repulsion.

    Raises:
        EquivError: an argument is out of range or an element has no reference energy.
    """

    name: ClassVar[str] = "variant_mace"

    def __init__(
        self,
        elements: Sequence[str | int],
        cutoff: float,
        *,
        channels: int,
        hidden_degree: int,
        edge_degree: int,
        correlation: Sequence[int],
        interactions: Sequence[str],
        sender_channels: Sequence[int],
        sender_degree: Sequence[int],
        element_products: bool = True,
        radial_functions: str = "bessel",
        num_radial: int = 8,
        frequencies: Sequence[float] | None = None,
        distance_transform: str = "none",
        cutoff_power: int = 5,
        envelope: str = "functions",
        radial_hidden: Sequence[int] = (64, 64, 64),
        readouts: Sequence[str],
        readout_hidden: int = 16,
        activation: str = "silu",
        mean_neighbors: float,
        reference_energies: Mapping[str, float],
        scale: float = 1.0,
        shift: float = 0.0,
        repulsion: int | None = None,
    ) -> None:
        numbers, symbols = checked_elements("VariantMACE", elements, reference_energies)
        layers = len(interactions)
        lists = (correlation, sender_channels, sender_degree, readouts)
        _require(cutoff > 0, "cutoff", "a positive radius in Angstrom", cutoff)
        _require(layers > 0, "interactions", "a name for every layer", interactions)
        _require(
            all(len(values) == layers for values in lists),
            "correlation, sender_channels, sender_degree and readouts",
            f"{layers} values, one for every layer",
            lists,
        )
        _require(all(1 <= c <= 4 for c in correlation), "correlation", "1, 2, 3 or 4", correlation)
        _require(envelope in ("functions", "weights"), "envelope", "functions or weights", envelope)
        for name in interactions:
            choose(dict.fromkeys(INTERACTIONS), name, "interactions")
        for name in readouts:
            choose(dict.fromkeys(READOUTS), name, "readouts")
        super().__init__(numbers, cutoff)
        self.recipe = {
            "elements": symbols,
            "cutoff": float(cutoff),
            "channels": channels,
            "hidden_degree": hidden_degree,
            "edge_degree": edge_degree,
            "correlation": list(correlation),
            "interactions": list(interactions),
            "sender_channels": list(sender_channels),
            "sender_degree": list(sender_degree),
            "element_products": element_products,
            "radial_functions": radial_functions,
            "num_radial": num_radial,
            "frequencies": None if frequencies is None else [float(k) for k in frequencies],
            "distance_transform": distance_transform,
            "cutoff_power": cutoff_power,
            "envelope": envelope,
            "radial_hidden": list(radial_hidden),
            "readouts": list(readouts),
            "readout_hidden": readout_hidden,
            "activation": activation,
            "mean_neighbors": float(mean_neighbors),
            "reference_energies": {s: float(reference_energies[s]) for s in symbols},
            "scale": float(scale),
            "shift": float(shift),
            "repulsion": repulsion,
        }
        self.edge_degree, self.scale, self.shift = edge_degree, float(scale), float(shift)
        self.envelope_on_weights = envelope == "weights"
        # Radial networks of these see more than radial functions, and do not end at the cutoff.
        self.jumps = not self.envelope_on_weights and not {"attentive", "gated"}.isdisjoint(
            interactions
        )
        functions = choose(RADIAL_FUNCTIONS, radial_functions, "radial_functions")
        options = {"frequencies": frequencies} if radial_functions == "bessel" else {}
        self.radial_functions = functions(num_radial, self.cutoff, **options)
        self.envelope = PolynomialCutoff(cutoff_power)
        self.transform = (
            None
            if distance_transform == "none"
            else choose(DISTANCE_TRANSFORMS, distance_transform, "distance_transform")()
        )
        self.embedding = nn.Parameter(torch.randn(len(numbers), channels))
        self.layers = nn.ModuleList()
        self.readouts = nn.ModuleDict()
        for t, kind in enumerate(interactions):
            degree_in = 0 if t == 0 else hidden_degree
            degree_out = 0 if t == layers - 1 else hidden_degree
            shape = {
                "degree_in": degree_in,
                "degree_out": degree_out,
                "edge_degree": edge_degree,
                "channels": channels,
                "sender_channels": sender_channels[t],
                "sender_degree": sender_degree[t],
            }
            self.layers.append(
                VariantLayer(
                    _interaction(
                        kind,
                        shape,
                        (num_radial, *radial_hidden),
                        len(numbers),
                        float(mean_neighbors),
                    ),
                    edge_degree=edge_degree,
                    degree_out=degree_out,
                    channels=channels,
                    correlation=correlation[t],
                    num_elements=len(numbers) if element_products else 1,
                )
            )
            if readouts[t] != "none":
                self.readouts[str(t)] = _readout(readouts[t], channels, readout_hidden, activation)
        self.reference = ReferenceEnergies([reference_energies[s] for s in symbols])
        self.repulsion = None if repulsion is None else RoundedZBL(repulsion)
        self.register_buffer("atomic_numbers", torch.tensor(numbers), persistent=False)
        self.atomic_numbers: Tensor

    @classmethod
    def construction_size(cls, recipe: dict[str, Any]) -> int:
        """Coupling coefficients of the many-body products of all layers."""
        degree, hidden = recipe["edge_degree"], recipe["hidden_degree"]
        _require(0 <= degree <= 12 and 0 <= hidden <= 12, "edge_degree", "12 at most", degree)
        _require(
            all(1 <= c <= 4 for c in recipe["correlation"]),
            "correlation",
            "1, 2, 3 or 4",
            recipe["correlation"],
        )
        return sum(
            num_symmetric_couplings(degree, order, l) * (2 * l + 1) * (degree + 1) ** (2 * order)
            for correlation in recipe["correlation"]
            for l in range(hidden + 1)
            for order in range(1, correlation + 1)
        )

    def row_energies(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> Float[Tensor, " rows"]:
        """Energies of the rows' atoms in eV and float64, reference energies included."""
        neighbors, counts = layout.neighbors, layout.counts
        vectors = vectors.to(self.dtype)
        distances = torch.linalg.vector_norm(vectors, dim=-1)
        numbers = self.atomic_numbers[layout.species]
        z_i, z_j = numbers[neighbors.first], numbers[neighbors.second]
        # Polynomials of the distance would overflow where it is meaningless.
        inside = distances.clamp(max=self.cutoff)
        mapped = inside if self.transform is None else self.transform(inside, z_i, z_j)
        radial = self.radial_functions(mapped)
        weight = self.envelope(distances / self.cutoff)
        if not self.envelope_on_weights:
            radial = radial * weight.unsqueeze(-1)
            weight = (distances < self.cutoff).to(self.dtype) if self.jumps else None
        edges = Edges(
            spherical_harmonics(self.edge_degree, vectors),
            radial,
            weight,
            neighbors,
            layout.species,
            counts,
        )
        elements = zip(self.embedding / len(counts) ** 0.5, counts, strict=True)
        features = torch.cat([e.expand(rows, 1, -1) for e, rows in elements])
        readout = features.new_zeros(features.shape[0])
        for t, layer in enumerate(self.layers):
            features = layer(features, edges)
            if str(t) in self.readouts:
                readout = readout + self.readouts[str(t)](features[:, 0])
        if self.repulsion is not None:
            readout = readout + 0.5 * neighbors.sum_pairs(self.repulsion(distances, z_i, z_j))
        return self.reference(layout.species) + self.scale * readout.double() + self.shift


class VariantLayer(nn.Module):
    r"""One layer: an interaction, a many-body product, a mixing.

    .. math::
        h'_i = W B_{z_i}(A_i) + K_i

    Args:
        interaction: makes the messages :math:`A` and the residual :math:`K`, which may be none.
        edge_degree: highest degree of the messages.
        degree_out: highest degree of the result.
        channels: channels per degree.
        correlation: order of the product :math:`B`.
        num_elements: elements with weights of their own in :math:`B`; 1 for the same for all.
    """

    def __init__(
        self,
        interaction: nn.Module,
        *,
        edge_degree: int,
        degree_out: int,
        channels: int,
        correlation: int,
        num_elements: int,
    ) -> None:
        super().__init__()
        self.interaction, self.num_elements = interaction, num_elements
        self.product = ManyBodyProduct(
            edge_degree, degree_out, channels, correlation=correlation, num_elements=num_elements
        )
        self.linear = SphericalLinear(channels, channels, degree_out)

    def forward(
        self, features: Float[Tensor, "rows lm_in channels"], edges: Edges
    ) -> Float[Tensor, "rows lm_out channels"]:
        """New features."""
        messages, kept = self.interaction(features, edges)
        counts = [messages.shape[0]] if self.num_elements == 1 else edges.counts
        out = self.linear(self.product(messages, counts))
        if kept is None:
            return out
        return out + nn.functional.pad(kept, (0, 0, 0, out.shape[1] - kept.shape[1]))


def _interaction(
    kind: str,
    shape: dict[str, Any],
    radial_widths: Sequence[int],
    num_elements: int,
    mean_neighbors: float,
) -> nn.Module:
    if kind == "attentive":
        return AttentiveInteraction(
            **shape,
            num_radial=radial_widths[0],
            hidden=ATTENTION_HIDDEN,
            scalars=ATTENTION_SCALARS,
            mean_neighbors=mean_neighbors,
        )
    if kind == "gated":
        return GatedInteraction(
            **shape,
            radial_widths=radial_widths,
            density_hidden=DENSITY_HIDDEN,
            num_elements=num_elements,
        )
    return Interaction(
        **shape,
        radial_widths=radial_widths,
        num_elements=num_elements,
        mean_neighbors=None if kind.startswith("density") else mean_neighbors,
        residual=kind.endswith("residual"),
    )


def _readout(kind: str, channels: int, hidden: int, activation: str) -> nn.Module:
    if kind == "nonlinear":
        return ActivatedReadout(channels, hidden, activation)
    if kind == "deep":
        return DeepReadout(channels, hidden, activation)
    return LinearReadout(channels)
