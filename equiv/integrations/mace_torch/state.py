"""Weights of mace-torch models, in our layout and with the same numbers."""

import math
from collections.abc import Mapping
from itertools import permutations
from typing import Any, cast

import torch
from ase.data import chemical_symbols
from e3nn.math import normalize2mom
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.models import MACE
from equiv.models.mace import MACELayer
from equiv.nn import LinearReadout, NonlinearReadout
from equiv.nn.mlp import SILU_GAIN
from equiv.so3 import natural_irreps, parse_irreps, spherical_shape, symmetric_couplings
from equiv.tensor_products import SymmetricPolynomial

# What a configuration may say about parts of mace-torch that our model does not have.
_ONLY: dict[str, tuple[Any, ...]] = {
    "model": ("ScaleShiftMACE",),
    "interaction_cls_first": ("RealAgnosticInteractionBlock",),
    "interaction_cls": ("RealAgnosticResidualInteractionBlock",),
    "gate": ("silu",),
    "radial_type": ("bessel",),
    "distance_transform": (None, "None"),
    "readout_cls": ("NonLinearReadoutBlock",),
    "pair_repulsion": (False,),
    "apply_cutoff": (True,),
    "use_edge_irreps_first": (False, None),
    "use_so3": (False,),
    "use_agnostic_product": (False,),
    "use_last_readout_only": (False,),
    "use_embedding_readout": (False,),
    "embedding_specs": (None,),
    "keep_last_layer_irreps": (False,),
}
_NEEDED = (
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
# The state dict says the same, or the choice has no bearing on the numbers.
_REDUNDANT = (
    "num_elements",
    "atomic_energies",
    "atomic_inter_scale",
    "atomic_inter_shift",
    "heads",
    "use_reduced_cg",
    "cueq_config",
    "oeq_config",
    "lammps_mliap",
    "activation_gains",
    "edge_irreps",
)


def mace_from_state_dict(
    state: Mapping[str, Tensor], configuration: Mapping[str, Any], *, head: str | None = None
) -> MACE:
    r"""Rebuild a mace-torch ``ScaleShiftMACE`` as :class:`equiv.models.MACE`, equal to rounding.

    .. math::
        E_\text{ours}(r; W') = E_\text{mace-torch}(r; W), \qquad W' = \mathcal{M}\, W

    The two are the same function of the geometry, so a linear map of the weights is all there is to
    do:

    - mace-torch's edges run from sender to receiver and ours the other way round. A path through
      harmonics of degree :math:`l_2` gets the sign :math:`(-1)^{l_2}`, folded into the radial
      network.
    - Its couplings :math:`U` of the many-body product (buffers in the state dict) are an
      overcomplete set of tensors; contracted with a power of one vector only their symmetric part
      counts, which is expanded in our orthonormal basis.
    - e3nn normalises SiLU with a constant drawn by Monte Carlo; the ratio to ours goes into the
      matrix behind it.

    The model has the dtype of the state; the map is computed in float64.

    Args:
        state: ``model.state_dict()``, on any device. A model file of mace-torch is a pickle, which
            this function never opens.
        configuration: arguments of mace-torch's constructor, JSON-able: ``r_max`` (Angstrom),
            ``num_bessel``, ``num_polynomial_cutoff``, ``max_ell``, ``num_interactions``,
            ``hidden_irreps``, ``MLP_irreps``, ``avg_num_neighbors``, ``atomic_numbers``,
            ``correlation``, ``radial_MLP`` and those that name a variant (``gate``, ...), if they
            were not left at their defaults.

    Raises:
        EquivError: the configuration names something our model does not have or is incomplete, or
            the state does not fit it: a tensor is missing, left over, or of another shape.

    Batatia et al. 2022 (MACE); the form converted is that of mace-torch 0.3.
    """
    recipe = _recipe(state, configuration)
    model = MACE(**recipe).to(torch.float64)
    weights = _Weights(state)
    order = _element_order(configuration)
    num_elements, channels = len(order), recipe["channels"]
    with torch.no_grad():
        shape = (num_elements, channels)
        (embedding,) = weights.blocks("node_embedding.linear.weight", [shape])
        model.embedding.copy_(embedding[order])
        for t, (layer, readout) in enumerate(zip(model.layers, model.readouts, strict=True)):
            assert isinstance(layer, MACELayer)
            assert isinstance(readout, LinearReadout | NonlinearReadout)
            _convert_layer(layer, weights, t, order)
            _convert_readout(readout, weights, f"readouts.{t}")
    _check_radial_basis(model, weights)
    weights.refuse_leftovers()
    dtype = state["node_embedding.linear.weight"].dtype
    return model.to(dtype).eval()


class _Weights:
    """A state dict that remembers what was taken from it."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.taken: set[str] = set()

    def take(self, name: str) -> Tensor:
        if name not in self.state:
            raise EquivError(
                f"the mace-torch state has no tensor {name}; it is not a ScaleShiftMACE of the "
                "form in the configuration"
            )
        self.taken.add(name)
        return self.state[name].detach().to(device="cpu", dtype=torch.float64)

    def blocks(self, name: str, shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """Matrices that e3nn keeps end to end in one vector."""
        flat = self.take(name).flatten()
        sizes = [math.prod(shape) for shape in shapes]
        if flat.numel() != sum(sizes):
            raise EquivError(
                f"the mace-torch tensor {name} has {flat.numel()} numbers, the configuration asks "
                f"for {sum(sizes)}; do hidden_irreps, max_ell and MLP_irreps belong to this state?"
            )
        parts = flat.split(sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def refuse_leftovers(self) -> None:
        left = [
            name
            for name, value in self.state.items()
            if name not in self.taken and value.numel() and not _is_bookkeeping(name)
        ]
        if left:
            raise EquivError(
                f"the mace-torch state holds {len(left)} tensors that our model has no place for: "
                + ", ".join(sorted(left)[:5])
                + (" ..." if len(left) > 5 else "")
            )


def _is_bookkeeping(name: str) -> bool:
    """Buffers of e3nn and mace-torch that follow from the shapes."""
    last = name.rsplit(".", 1)[-1]
    return (
        last in ("output_mask", "num_interactions") or last.endswith("_zeroed") or "_w3j_" in last
    )


def _recipe(state: Mapping[str, Tensor], configuration: Mapping[str, Any]) -> dict[str, Any]:
    missing = [key for key in _NEEDED if key not in configuration]
    if missing:
        raise EquivError(f"the mace-torch configuration lacks {', '.join(missing)}")
    for key, value in configuration.items():
        if key in _ONLY and value not in _ONLY[key]:
            raise EquivError(
                f"mace-torch models with {key}={value!r} cannot be converted; "
                f"only {' or '.join(repr(v) for v in _ONLY[key])}"
            )
        if key not in _ONLY and key not in _NEEDED and key not in _REDUNDANT:
            raise EquivError(
                f"unknown entry {key}={value!r} in the mace-torch configuration: it may change the "
                "numbers, so it is not ignored"
            )
    heads = configuration.get("heads") or ["Default"]
    if len(heads) != 1:
        raise EquivError(
            f"mace-torch models with several heads ({', '.join(heads)}) cannot be converted"
        )
    channels, hidden_degree = _hidden(configuration["hidden_irreps"])
    readout = parse_irreps(configuration["MLP_irreps"], "MLP_irreps")
    if not readout.dim or any(str(ir) != "0e" for _, ir in readout):
        raise EquivError(f"MLP_irreps must be even scalars such as 16x0e, got {readout}")
    numbers = [int(z) for z in configuration["atomic_numbers"]]
    weights = _Weights(state)
    energies, scale, shift, cutoff = (
        weights.take(name).flatten().tolist()
        for name in (
            "atomic_energies_fn.atomic_energies",
            "scale_shift.scale",
            "scale_shift.shift",
            "r_max",
        )
    )
    if [int(z) for z in weights.take("atomic_numbers").tolist()] != numbers or len(energies) != len(
        numbers
    ):
        raise EquivError(
            f"atomic_numbers {numbers} of the configuration are not those of the state"
        )
    return {
        "elements": numbers,
        "cutoff": cutoff[0],
        "channels": channels,
        "hidden_degree": hidden_degree,
        "edge_degree": int(configuration["max_ell"]),
        "layers": int(configuration["num_interactions"]),
        "correlation": _correlation(configuration["correlation"]),
        "num_radial": int(configuration["num_bessel"]),
        "cutoff_power": int(configuration["num_polynomial_cutoff"]),
        "radial_hidden": [int(width) for width in configuration["radial_MLP"]],
        "readout_hidden": readout.dim,
        "mean_neighbors": float(configuration["avg_num_neighbors"]),
        "reference_energies": {
            chemical_symbols[z]: energy for z, energy in zip(numbers, energies, strict=True)
        },
        "scale": scale[0],
        "shift": shift[0],
    }


def _hidden(irreps: Any) -> tuple[int, int]:
    hidden = parse_irreps(irreps, "hidden_irreps")
    degree, channels = spherical_shape(hidden, "hidden_irreps")
    if hidden != natural_irreps(degree, channels):
        raise EquivError(
            "hidden_irreps must name every degree once and in order, such as 64x0e + 64x1o; "
            f"got {hidden}"
        )
    return channels, degree


def _correlation(value: Any) -> int:
    orders = {int(v) for v in value} if isinstance(value, list | tuple) else {int(value)}
    if len(orders) != 1:
        raise EquivError(f"correlation must be the same in every layer, got {value}")
    return orders.pop()


def _element_order(configuration: Mapping[str, Any]) -> list[int]:
    """Where each of our elements, which ascend, stands in mace-torch's list."""
    numbers = [int(z) for z in configuration["atomic_numbers"]]
    return sorted(range(len(numbers)), key=numbers.__getitem__)


def _convert_layer(layer: MACELayer, weights: _Weights, t: int, order: list[int]) -> None:
    here = f"interactions.{t}"
    for linear, name in (
        (layer.linear_up, f"{here}.linear_up"),
        (layer.linear, f"{here}.linear"),
        (layer.linear_product, f"products.{t}.linear"),
    ):
        shapes = [tuple(weight.shape) for weight in linear.weights]
        for weight, matrix in zip(
            linear.weights, weights.blocks(f"{name}.weight", shapes), strict=True
        ):
            weight.copy_(matrix)

    gain = _e3nn_silu_gain() / SILU_GAIN
    radial = list(layer.radial_mlp.weights)
    for k, weight in enumerate(radial):
        name = f"{here}.conv_tp_weights.layer{k}.weight"
        (matrix,) = weights.blocks(name, [tuple(weight.shape)])
        weight.copy_(matrix if k == 0 else gain * matrix)
    signs = torch.tensor([(-1.0) ** l2 for _, l2, _ in layer.convolution.paths])
    radial[-1].mul_(signs.repeat_interleave(layer.convolution.channels))

    _, degrees, channels_in, channels_out = layer.skip.weight.shape
    shapes = [(channels_in, len(order), channels_out)] * degrees
    for l, matrix in enumerate(weights.blocks(f"{here}.skip_tp.weight", shapes)):
        layer.skip.weight[:, l] = matrix[:, order].transpose(0, 1)

    for l, polynomial in enumerate(layer.product.polynomials):
        assert isinstance(polynomial, SymmetricPolynomial)
        name = f"products.{t}.symmetric_contractions.contractions.{l}"
        top = polynomial.correlation
        for nu, weight in enumerate(polynomial.weights, start=1):
            w = weights.take(
                f"{name}.weights_max" if nu == top else f"{name}.weights.{top - 1 - nu}"
            )
            u = weights.take(f"{name}.U_matrix_{nu}")
            if l == 0:
                u = u.unsqueeze(0)
            projection = _projection(u, symmetric_couplings(layer.product.degree_in, nu, l), name)
            weight.copy_(torch.einsum("kp,zpc->zkc", projection, w[order]))


def _projection(
    theirs: Float[Tensor, "m *components paths"], ours: Float[Tensor, "k m *components"], name: str
) -> Float[Tensor, "k paths"]:
    """Expand the symmetric part of each of their couplings in our basis."""
    nu = theirs.ndim - 2
    if theirs.shape[:-1] != ours.shape[1:]:
        raise EquivError(
            f"{name}: U has shape {tuple(theirs.shape)}, expected {tuple(ours.shape[1:])} and paths"
        )
    orders = list(permutations(range(1, nu + 1)))
    symmetric = torch.stack([theirs.permute(0, *p, nu + 1) for p in orders]).mean(0)
    matrix, target = ours.flatten(1).T, symmetric.reshape(-1, theirs.shape[-1])
    projection = matrix.T @ target  # our basis is orthonormal
    residual = (matrix @ projection - target).abs().max().item() if target.numel() else 0.0
    # float32 models store their couplings in float32
    if residual > 1e-5 * max(target.abs().max().item(), 1.0):
        raise EquivError(
            f"{name}: the order-{nu} couplings are not equivariant in e3nn's conventions "
            f"(residual {residual:.1e}); the state is damaged or from another program"
        )
    return projection


def _convert_readout(
    readout: LinearReadout | NonlinearReadout, weights: _Weights, name: str
) -> None:
    # Only the invariant channels reach an energy, so e3nn stores weights for them alone.
    if isinstance(readout, LinearReadout):
        readout.weight.copy_(
            weights.blocks(f"{name}.linear.weight", [tuple(readout.weight.shape)])[0]
        )
        return
    gain = _e3nn_silu_gain() / SILU_GAIN
    readout.hidden.copy_(
        weights.blocks(f"{name}.linear_1.weight", [tuple(readout.hidden.shape)])[0]
    )
    readout.weight.copy_(
        gain * weights.blocks(f"{name}.linear_2.weight", [tuple(readout.weight.shape)])[0]
    )


def _e3nn_silu_gain() -> float:
    """The factor before SiLU in every e3nn network: a fixed Monte Carlo estimate of ours."""
    return float(cast(float, normalize2mom(torch.nn.functional.silu).cst))


def _check_radial_basis(model: MACE, weights: _Weights) -> None:
    """Refuse trained Bessel frequencies and a cutoff that contradicts the configuration."""
    cutoff, num = model.cutoff, model.recipe["num_radial"]
    facts = {
        "radial_embedding.bessel_fn.bessel_weights": torch.arange(1, num + 1) * math.pi / cutoff,
        "radial_embedding.bessel_fn.prefactor": torch.tensor(math.sqrt(2 / cutoff)),
        "radial_embedding.bessel_fn.r_max": torch.tensor(cutoff),
        "radial_embedding.cutoff_fn.r_max": torch.tensor(cutoff),
        "radial_embedding.cutoff_fn.p": torch.tensor(model.recipe["cutoff_power"]),
    }
    for name in (
        "r_max",
        "atomic_numbers",
        "atomic_energies_fn.atomic_energies",
        "scale_shift.scale",
        "scale_shift.shift",
    ):
        weights.take(name)
    for name, expected in facts.items():
        found = weights.take(name)
        if found.shape != expected.shape or not torch.allclose(found, expected.double(), rtol=1e-5):
            raise EquivError(
                f"{name} of the state is {found.tolist()}, the configuration asks for "
                f"{expected.tolist()}; trained or foreign radial functions cannot be converted"
            )
