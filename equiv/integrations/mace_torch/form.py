"""What a configuration of mace-torch asks for, in the words of our models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equiv.errors import EquivError
from equiv.so3 import parse_irreps

# Names of mace-torch, and what they are called here.
INTERACTIONS = {
    "RealAgnosticInteractionBlock": "plain",
    "RealAgnosticResidualInteractionBlock": "plain_residual",
    "RealAgnosticDensityInteractionBlock": "density",
    "RealAgnosticDensityResidualInteractionBlock": "density_residual",
    "RealAgnosticAttResidualInteractionBlock": "attentive",
    "RealAgnosticResidualNonLinearInteractionBlock": "gated",
}
READOUTS = {"NonLinearReadoutBlock": "nonlinear", "NonLinearBiasReadoutBlock": "deep"}
ACTIVATIONS = {"silu": "silu", "tanh": "tanh", "abs": "abs", "None": "identity", None: "identity"}
TRANSFORMS = {"None": "none", None: "none", "Agnesi": "agnesi", "Soft": "soft"}
# torch.special.chebyshev_polynomial_t has no derivative, so mace-torch's forces lack that part.
RADIAL_FUNCTIONS = {"bessel": "bessel", "gaussian": "gaussian", "chebyshev": "frozen_chebyshev"}

NEEDED = (
    "hidden_irreps",
    "MLP_irreps",
    "max_ell",
    "num_interactions",
    "correlation",
    "num_bessel",
    "num_polynomial_cutoff",
    "radial_MLP",
    "avg_num_neighbors",
    "r_max",
    "atomic_numbers",
)
# What a configuration may leave out, and what mace-torch then does.
DEFAULTS: dict[str, Any] = {
    "model": "ScaleShiftMACE",
    "interaction_cls_first": "RealAgnosticInteractionBlock",
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "gate": "silu",
    "radial_type": "bessel",
    "distance_transform": None,
    "readout_cls": "NonLinearReadoutBlock",
    "pair_repulsion": False,
    "apply_cutoff": True,
    "edge_irreps": None,
    "use_edge_irreps_first": False,
    "use_so3": False,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "use_embedding_readout": False,
    "embedding_specs": None,
    "keep_last_layer_irreps": False,
    "heads": None,
    "activation_gains": None,
}
# The state dict says the same, or the choice has no bearing on the numbers.
REDUNDANT = (
    "num_elements",
    "atomic_energies",
    "atomic_inter_scale",
    "atomic_inter_shift",
    "use_reduced_cg",
    "cueq_config",
    "oeq_config",
    "lammps_mliap",
)


@dataclass(frozen=True)
class Form:
    """The functional form of a model of mace-torch.

    Attributes:
        scale_shift: whether it is a ``ScaleShiftMACE``.
        numbers: atomic numbers in mace-torch's order.
        heads: names of the heads.
        channels: channels per degree.
        hidden: degrees of the features, ascending from 0.
        edge_degree: highest degree of harmonics and messages.
        correlation: order of the products of every layer.
        interactions: their names of every layer, ours.
        sender_irreps: channels and degree of the terms of what neighbours send, for every layer.
        readouts: names for every layer, ours.
        readout_hidden: hidden width of the last.
        activation: of the last.
        radial_functions: name of the radial functions, ours.
        num_radial: how many.
        distance_transform: its name, ours.
        cutoff_power: power of the polynomial cutoff.
        envelope_on_weights: whether the cutoff multiplies the weights made of radial functions.
        radial_hidden: hidden widths of the radial networks.
        repulsion: whether there is a ZBL term.
        element_products: whether products have weights of the element.
        tensors_at_the_end: whether the last layer has tensors that nothing uses.
        mean_neighbors: mean number of neighbours.
        gains: factors of e3nn before activations, as far as known.
    """

    scale_shift: bool
    numbers: tuple[int, ...]
    heads: tuple[str, ...]
    channels: int
    hidden: tuple[int, ...]
    edge_degree: int
    correlation: tuple[int, ...]
    interactions: tuple[str, ...]
    sender_irreps: tuple[tuple[tuple[int, int], ...], ...]
    readouts: tuple[str, ...]
    readout_hidden: int
    activation: str
    radial_functions: str
    num_radial: int
    distance_transform: str
    cutoff_power: int
    envelope_on_weights: bool
    radial_hidden: tuple[int, ...]
    repulsion: bool
    element_products: bool
    tensors_at_the_end: bool
    mean_neighbors: float
    gains: Mapping[str, float]

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.interactions)

    @property
    def hidden_degree(self) -> int:
        """Highest degree of the features."""
        return self.hidden[-1]

    @property
    def features(self) -> tuple[tuple[int, ...], ...]:
        """Degrees of the features that enter every layer."""
        return ((0,), *[self.hidden] * (self.layers - 1))

    @property
    def is_plain(self) -> bool:
        """Whether :class:`equiv.models.MACE` has this form."""
        layers = self.layers
        senders = tuple(tuple((self.channels, l) for l in degrees) for degrees in self.features)
        usual = ("linear",) * (layers - 1) + ("nonlinear" if layers > 1 else "linear",)
        return (
            self.interactions[0] in ("plain", "plain_residual")
            and self.interactions[1:] == ("plain_residual",) * (layers - 1)
            and self.sender_irreps == senders
            and self.readouts == usual
            and len(set(self.correlation)) == 1
            and self.activation == "silu"
            and self.radial_functions == "bessel"
            and self.distance_transform == "none"
            and not self.envelope_on_weights
            and not self.repulsion
            and self.element_products
            and self.hidden_degree <= self.edge_degree
        )


def form_of(configuration: Mapping[str, Any]) -> Form:
    """The form that arguments of mace-torch's constructor describe.

    Raises:
        EquivError: they are incomplete, unknown, or name a part that has no counterpart here.
    """
    missing = [key for key in NEEDED if key not in configuration]
    if missing:
        raise EquivError(f"the mace-torch configuration lacks {', '.join(missing)}")
    for key, value in configuration.items():
        if key not in NEEDED and key not in DEFAULTS and key not in REDUNDANT:
            raise EquivError(
                f"unknown entry {key}={value!r} in the mace-torch configuration: it may change the "
                "numbers, so it is not ignored"
            )
    c = {**DEFAULTS, **configuration}
    _refuse(c)
    channels, hidden = _hidden(c["hidden_irreps"])
    edge_degree, layers = int(c["max_ell"]), int(c["num_interactions"])
    first, rest = (
        _choice(c, key, INTERACTIONS) for key in ("interaction_cls_first", "interaction_cls")
    )
    interactions = (first, *[rest] * (layers - 1))
    final = _choice(c, "readout_cls", READOUTS) if layers > 1 else "linear"
    inner = "none" if c["use_last_readout_only"] else "linear"
    if layers == 1 and c["use_last_readout_only"]:
        raise EquivError(
            "use_last_readout_only=True with one interaction: mace-torch gives such a model no "
            "readout at all; there is nothing to convert"
        )
    if layers == 1:
        hidden = (0,)
    correlation = c["correlation"]
    orders = list(correlation) if isinstance(correlation, list | tuple) else [correlation] * layers
    if len(orders) != layers:
        raise EquivError(f"correlation must be one number or one for every layer, got {orders}")
    readout = parse_irreps(c["MLP_irreps"], "MLP_irreps")
    if not readout.dim or any(str(ir) != "0e" for _, ir in readout):
        raise EquivError(f"MLP_irreps must be even scalars such as 16x0e, got {readout}")
    return Form(
        scale_shift=c["model"] == "ScaleShiftMACE",
        numbers=tuple(int(z) for z in c["atomic_numbers"]),
        heads=tuple(c["heads"] or ["Default"]),
        channels=channels,
        hidden=hidden,
        edge_degree=edge_degree,
        correlation=tuple(int(order) for order in orders),
        interactions=interactions,
        sender_irreps=_senders(c, channels, hidden, layers),
        readouts=(*[inner] * (layers - 1), final),
        readout_hidden=readout.dim,
        activation=_choice(c, "gate", ACTIVATIONS),
        radial_functions=_choice(c, "radial_type", RADIAL_FUNCTIONS),
        num_radial=int(c["num_bessel"]),
        distance_transform=_choice(c, "distance_transform", TRANSFORMS),
        cutoff_power=int(c["num_polynomial_cutoff"]),
        envelope_on_weights=not c["apply_cutoff"],
        radial_hidden=tuple(int(width) for width in c["radial_MLP"]),
        repulsion=bool(c["pair_repulsion"]),
        element_products=not c["use_agnostic_product"],
        tensors_at_the_end=bool(c["keep_last_layer_irreps"]) and layers > 1,
        mean_neighbors=float(c["avg_num_neighbors"]),
        gains=dict(c["activation_gains"] or {}),
    )


def _refuse(c: Mapping[str, Any]) -> None:
    """Options that change the form beyond what there is here."""
    if c["model"] not in ("MACE", "ScaleShiftMACE"):
        raise EquivError(
            f"mace-torch models with model={c['model']!r} cannot be converted; only the potentials "
            "'MACE' and 'ScaleShiftMACE'"
        )
    # Invariants of the first orders are blind to reflections; where they are not, the couplings
    # of the product do not fit and are refused.
    if c["use_so3"] and len(parse_irreps(c["hidden_irreps"], "hidden_irreps")) > 1:
        raise EquivError(
            "mace-torch models with use_so3=True and tensors in hidden_irreps cannot be converted: "
            "their features do not say what a reflection does to them, and every tensor here does"
        )
    if c["embedding_specs"] is not None or c["use_embedding_readout"]:
        raise EquivError(
            "mace-torch models with embedding_specs (inputs beside the structure, such as charge "
            "or spin) cannot be converted"
        )


def _choice(c: Mapping[str, Any], key: str, names: Mapping[Any, str]) -> str:
    if c[key] not in names:
        known = " or ".join(repr(name) for name in names)
        raise EquivError(
            f"mace-torch models with {key}={c[key]!r} cannot be converted; only {known}"
        )
    return names[c[key]]


def _hidden(irreps: Any) -> tuple[int, tuple[int, ...]]:
    """Channels and degrees."""
    hidden = parse_irreps(irreps, "hidden_irreps")
    degrees, widths = [ir.l for _, ir in hidden], {mul for mul, _ in hidden}
    natural = all(ir.p == (-1) ** ir.l for _, ir in hidden)
    if not natural or degrees != sorted(set(degrees)) or degrees[:1] != [0] or len(widths) != 1:
        raise EquivError(
            "hidden_irreps must name scalars first, then degrees in order, all with natural parity "
            f"and the same channels, such as 64x0e + 64x1o; got {hidden}"
        )
    return widths.pop(), tuple(degrees)


def _senders(
    c: Mapping[str, Any], channels: int, hidden: Sequence[int], layers: int
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Channels and degrees of what neighbours send, in every layer."""
    given: Any = c["edge_irreps"]
    if not isinstance(given, Sequence) or isinstance(given, str):
        scalars = None
        if given is not None and c["use_edge_irreps_first"]:
            scalars = (
                f"{sum(m for m, ir in parse_irreps(given, 'edge_irreps') if str(ir) == '0e')}x0e"
            )
        given = [scalars, *[given] * (layers - 1)]
    if len(given) != layers:
        raise EquivError(f"edge_irreps must be given for every layer, got {given}")
    senders = []
    for t, irreps in enumerate(given):
        degrees = hidden if t else (0,)
        usual = " + ".join(f"{channels}x{l}{'eo'[l % 2]}" for l in degrees)
        terms = parse_irreps(irreps or usual, "edge_irreps")
        degrees = [ir.l for _, ir in terms]
        if any(ir.p != (-1) ** ir.l for _, ir in terms) or degrees != sorted(set(degrees)):
            raise EquivError(
                "edge_irreps must name degrees once, in order and with natural parity, such as "
                f"32x0e + 32x1o; got {terms}"
            )
        senders.append(tuple((mul, ir.l) for mul, ir in terms))
    return tuple(senders)
