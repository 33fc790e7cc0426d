r"""Networks with the weights of the published code."""

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.position_orientation.grids import OrientationGrid
from equiv.position_orientation.lifting import Channels
from equiv.position_orientation.network import OrientationNetwork
from equiv.position_orientation.polynomial_kernel import PolynomialKernel, exponents


def from_official_state_dict(
    state_dict: Mapping[str, Tensor],
    points: Float[Tensor, "orientations dim"],
    *,
    outputs: Channels,
    vectors_in: int = 0,
    radius: float | None = None,
) -> OrientationNetwork:
    r"""The same function as ``PonitaFiberBundle`` of the published code, from its state dict.

    All sizes are read from the tensors. Weights of monomials that occur several times there,
    :math:`a_1 a_2` and :math:`a_2 a_1`, are added up. The grid, which the published code keeps
    outside of its state dict, has equal weights :math:`1/n`, and vectors are read out without frame
    correction, as there. For graph-level tasks sum ``scalars`` and ``vectors`` over the atoms of
    each graph. Self loops, which the published code adds to every graph, are built in and must not
    be among the neighbours.

    Args:
        state_dict: of ``PonitaFiberBundle``, in any dtype, which becomes that of the network.
        points: its grid, ``model.transform.transforms[0].ori_grid_s2`` (or ``_s1``).
        outputs: numbers of scalars and vectors, ``output_dim`` and ``output_dim_vec`` there.
        vectors_in: how many of the inputs are vectors.
        radius: as there; if the state dict has ``windowing_fn.r_max`` it must agree.

    Raises:
        EquivError: tensors are missing or do not fit together.
    """
    state = {name: value for name, value in state_dict.items()}
    try:
        return _build(state, points, outputs, vectors_in, radius)
    except KeyError as error:
        raise EquivError(
            f"from_official_state_dict: {error.args[0]!r} is missing; expected the state dict of "
            "PonitaFiberBundle (num_ori > 0, separable)"
        ) from None


def _build(
    state: dict[str, Tensor],
    points: Tensor,
    outputs: Channels,
    vectors_in: int,
    radius: float | None,
) -> OrientationNetwork:
    stored = state.get("windowing_fn.r_max")
    if stored is not None:
        if radius is not None and abs(float(stored) - radius) > 1e-6 * radius:
            raise EquivError(
                f"from_official_state_dict: radius={radius} was given, but the state dict says "
                f"{float(stored):g}; leave radius away"
            )
        radius = float(stored)
        if float(state["windowing_fn.p"]) != 6:
            raise EquivError(
                "from_official_state_dict: the window must have the power 6, got "
                f"{float(state['windowing_fn.p']):g}"
            )
    channels, inputs = state["x_embedder.weight"].shape
    hidden = state["basis_fn.1.weight"].shape[0]
    basis = state["basis_fn.3.weight"].shape[0]
    layers = len({m[1] for name in state if (m := re.match(r"interaction_layers\.(\d+)\.", name))})
    reads = sorted(
        int(m[1]) for name in state if (m := re.match(r"read_out_layers\.(\d+)\.weight", name))
    )
    scale = state.get("interaction_layers.0.layer_scale")
    found = state[f"read_out_layers.{layers - 1}.weight"].shape[0]
    if found != outputs.scalars + outputs.vectors or outputs.tensors:
        raise EquivError(
            f"from_official_state_dict: the network has {found} outputs, but {outputs} were "
            "asked for; scalars and vectors must add up, tensors are not known there"
        )
    network = OrientationNetwork(
        grid=OrientationGrid(points, frame=torch.eye(points.shape[1], dtype=torch.float64)),
        kernel=PolynomialKernel(
            hidden, basis, _degree(state["fiber_basis_fn.1.weight"]), cutoff=radius
        ),
        inputs=Channels(scalars=inputs - vectors_in, vectors=vectors_in),
        outputs=outputs,
        channels=channels,
        layers=layers,
        mean_neighbors=1.0,
        widening=state["interaction_layers.0.linear_1.weight"].shape[0] // channels,
        layer_scale=None if scale is None else 1.0,
        readouts="all" if len(reads) == layers and layers > 1 else "last",
    ).to(state["x_embedder.weight"].dtype)
    weights = _translated(state, layers, reads, _degree(state["fiber_basis_fn.1.weight"]))
    weights |= {f"grid.{k}": v for k, v in network.grid.state_dict().items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise EquivError(f"from_official_state_dict: {error}") from None
    return network


def _degree(fiber_weight: Tensor) -> int:
    """Of the polynomials: the fiber kernel has one attribute, so one monomial per degree."""
    return fiber_weight.shape[1]


def _translated(
    state: dict[str, Tensor], layers: int, reads: list[int], degree: int
) -> dict[str, Tensor]:
    names = {
        "embedding.weight": "x_embedder.weight",
        "kernel.first.bias": "basis_fn.1.bias",
        "kernel.second.weight": "basis_fn.3.weight",
        "kernel.second.bias": "basis_fn.3.bias",
        "kernel.fiber_first.weight": "fiber_basis_fn.1.weight",
        "kernel.fiber_first.bias": "fiber_basis_fn.1.bias",
        "kernel.fiber_second.weight": "fiber_basis_fn.3.weight",
        "kernel.fiber_second.bias": "fiber_basis_fn.3.bias",
    }
    for k in range(layers):
        ours, theirs = f"blocks.{k}.", f"interaction_layers.{k}."
        names |= {
            ours + "spatial.weight.weight": theirs + "conv.kernel.weight",
            ours + "fiber.weight.weight": theirs + "conv.fiber_kernel.weight",
            ours + "fiber.bias": theirs + "conv.bias",
        }
        for a, b in (("norm", "norm"), ("first", "linear_1"), ("second", "linear_2")):
            for kind in ("weight", "bias"):
                names[f"{ours}{a}.{kind}"] = f"{theirs}{b}.{kind}"
        if theirs + "layer_scale" in state:
            names[ours + "layer_scale"] = theirs + "layer_scale"
    for place, k in enumerate(reads):
        for kind in ("weight", "bias"):
            names[f"readouts.{place}.{kind}"] = f"read_out_layers.{k}.{kind}"
    weights = {ours: state[theirs] for ours, theirs in names.items()}
    weights["kernel.first.weight"] = _fold(state["basis_fn.1.weight"], degree)
    return weights


def _fold(weight: Tensor, degree: int) -> Tensor:
    """Add up the columns of products that are one monomial.

    The published order: the attributes, all ordered pairs, all ordered triples, each odometer-like.
    """
    attributes = 2
    columns = []
    for d in range(1, degree + 1):
        for code in range(attributes**d):
            columns.append(tuple(sorted((code // attributes**k) % attributes for k in range(d))))
    if len(columns) != weight.shape[1]:
        raise EquivError(
            f"from_official_state_dict: {weight.shape[1]} monomials are not those of two "
            f"attributes up to degree {degree} ({len(columns)})"
        )
    which = exponents(attributes, degree)
    folded = weight.new_zeros(weight.shape[0], len(which))
    places = torch.tensor([which.index(c) for c in columns], device=weight.device)
    return folded.index_add(1, places, weight)
