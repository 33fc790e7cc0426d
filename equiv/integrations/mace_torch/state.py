"""Weights of mace-torch models, in our layout and with the same numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.integrations.mace_torch.couplings import expand_couplings
from equiv.integrations.mace_torch.flat_weights import FlatWeights
from equiv.integrations.mace_torch.form import Form, form_of
from equiv.integrations.mace_torch.interactions import E3NN_GAINS, InteractionMap
from equiv.models import MACE
from equiv.models.mace import MACELayer
from equiv.models.variant_mace import VariantLayer, VariantMACE
from equiv.nn import LinearReadout, NonlinearReadout
from equiv.nn.activated_readout import ActivatedReadout, DeepReadout
from equiv.nn.linear import SphericalLinear
from equiv.nn.mlp import SILU_GAIN
from equiv.so3 import symmetric_couplings
from equiv.tensor_products import ManyBodyProduct, SymmetricPolynomial

SINGLE_PRECISION = 1e-6  # relative error that float32 may leave in a constant
EXACT = 1e-13


@dataclass
class Mapped:
    """A model with the weights of mace-torch.

    Attributes:
        model: ours.
        residual: the largest component of mace-torch's coupling tensors that our basis of
            symmetric couplings does not reach.
        rounding: the largest relative deviation of mace-torch's constants (radii, exponents, ...)
            from their values in float64; models built in float32 have them rounded.
    """

    model: MACE | VariantMACE
    residual: float = 0.0
    rounding: float = 0.0


def mace_from_state_dict(
    state: Mapping[str, Tensor], configuration: Mapping[str, Any], *, head: str | None = None
) -> MACE | VariantMACE:
    r"""Rebuild a potential of mace-torch as one of ours, equal to rounding.

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
    - e3nn normalises activations with constants drawn by Monte Carlo; their ratios to ours go into
      the matrices behind them.

    The model has the dtype of the state; the map is computed in float64. It is a
    :class:`equiv.models.MACE` if that has the form, else a :class:`equiv.models.VariantMACE`.

    Args:
        state: ``model.state_dict()``, on any device. A model file of mace-torch is a pickle, which
            this function never opens.
        configuration: arguments of mace-torch's constructor, JSON-able: ``r_max`` (Angstrom),
            ``num_bessel``, ``num_polynomial_cutoff``, ``max_ell``, ``num_interactions``,
            ``hidden_irreps``, ``MLP_irreps``, ``avg_num_neighbors``, ``atomic_numbers``,
            ``correlation``, ``radial_MLP`` and those that name a variant (``gate``, ...), if they
            were not left at their defaults.
        head: which head to keep, if there are several.

    Raises:
        EquivError: the configuration names something our models do not have or is incomplete, or
            the state does not fit it: a tensor is missing, left over, or of another shape.

    Batatia et al. 2022 (MACE); the form converted is that of mace-torch 0.3.
    """
    return map_state(state, configuration, head=head).model


def map_state(
    state: Mapping[str, Tensor], configuration: Mapping[str, Any], *, head: str | None = None
) -> Mapped:
    """As :func:`mace_from_state_dict`, with what there is to say about the map."""
    form = form_of(configuration)
    weights = FlatWeights(state)
    mapped = _Mapping(form, weights, _head(form, head)).run()
    weights.refuse_leftovers()
    mapped.model.to(state["node_embedding.linear.weight"].dtype).eval()
    return mapped


def _head(form: Form, head: str | None) -> int:
    """Which head, counted."""
    heads = form.heads
    if head is not None and head not in heads:
        raise EquivError(f"there is no head {head!r} in this model; it has {', '.join(heads)}")
    if head is None and len(heads) > 1:
        raise EquivError(
            f"this model has several heads: {', '.join(heads)}; name one (--head). They differ in "
            "level of theory; of fine-tuned foundation models `pt_head` is the original"
        )
    return 0 if head is None else heads.index(head)


class _Mapping:
    def __init__(self, form: Form, weights: FlatWeights, head: int) -> None:
        self.form, self.weights, self.head = form, weights, head
        self.order = sorted(range(len(form.numbers)), key=form.numbers.__getitem__)
        self.gains = {**E3NN_GAINS, **form.gains, "identity": 1.0}
        self.rounding = self.residual = 0.0

    def run(self) -> Mapped:
        try:
            model = self._build()
        except EquivError:
            raise
        except ValueError as error:
            raise EquivError(f"a model like this cannot be built here: {error}") from error
        model.to(torch.float64)
        with torch.no_grad():
            self._fill(model)
        return Mapped(model, self.residual, self.rounding)

    def _build(self) -> MACE | VariantMACE:
        form, symbols = self.form, [chemical_symbols[z] for z in self.form.numbers]
        found = [int(z) for z in self.weights.take("atomic_numbers").tolist()]
        if found != list(form.numbers):
            raise EquivError(
                f"atomic_numbers {list(form.numbers)} of the configuration are not those of the "
                f"state, {found}"
            )
        scale, shift = 1.0, 0.0
        if form.scale_shift:
            scale, shift = (self._of_head(f"scale_shift.{name}") for name in ("scale", "shift"))
        energies = self.weights.take("atomic_energies_fn.atomic_energies")
        energies = energies.reshape(-1, energies.shape[-1])
        if energies.shape != (len(form.heads), len(symbols)):
            raise EquivError(
                f"atomic_energies has shape {tuple(energies.shape)} for {len(form.heads)} heads "
                f"and {len(symbols)} elements"
            )
        shared: dict[str, Any] = {
            "elements": symbols,
            "cutoff": self.weights.take("r_max").item(),
            "channels": form.channels,
            "hidden_degree": form.hidden_degree,
            "edge_degree": form.edge_degree,
            "num_radial": form.num_radial,
            "cutoff_power": form.cutoff_power,
            "radial_hidden": list(form.radial_hidden),
            "readout_hidden": form.readout_hidden,
            "mean_neighbors": form.mean_neighbors,
            "reference_energies": dict(zip(symbols, energies[self.head].tolist(), strict=True)),
            "scale": scale,
            "shift": shift,
        }
        frequencies = self._check_radial(shared["cutoff"])
        if form.is_plain:
            return MACE(
                **shared,
                frequencies=frequencies,
                layers=form.layers,
                correlation=form.correlation[0],
                residual_first=form.interactions[0] == "plain_residual",
            )
        known = [
            [term for term in terms if term[1] in degrees]
            for terms, degrees in zip(form.sender_irreps, form.features, strict=True)
        ]
        return VariantMACE(
            **shared,
            correlation=form.correlation,
            interactions=form.interactions,
            sender_channels=[max((mul for mul, _ in terms), default=1) for terms in known],
            sender_degree=[max((l for _, l in terms), default=0) for terms in known],
            element_products=form.element_products,
            radial_functions=form.radial_functions,
            frequencies=frequencies,
            distance_transform=form.distance_transform,
            envelope="weights" if form.envelope_on_weights else "functions",
            readouts=form.readouts,
            activation=form.activation,
            repulsion=self._check_repulsion() if form.repulsion else None,
        )

    def _fill(self, model: MACE | VariantMACE) -> None:
        shape = (len(self.order), self.form.channels)
        (embedding,) = self.weights.blocks("node_embedding.linear.weight", [shape])
        model.embedding.copy_(embedding[self.order])
        for t, layer in enumerate(model.layers):
            interaction = InteractionMap(self.form, self.weights, t, self.order)
            if isinstance(layer, MACELayer):
                interaction.fill(layer)
                self._fill_product(layer.product, layer.linear_product, t)
            else:
                assert isinstance(layer, VariantLayer)
                interaction.fill(layer.interaction)
                self._fill_product(layer.product, layer.linear, t)
        present = [t for t, kind in enumerate(self.form.readouts) if kind != "none"]
        for number, t in enumerate(present):
            readout = model.readouts[t] if isinstance(model, MACE) else model.readouts[str(t)]
            self._fill_readout(readout, f"readouts.{number}", t)

    def _fill_product(self, product: nn.Module, mixing: SphericalLinear, t: int) -> None:
        assert isinstance(product, ManyBodyProduct)
        here, channels = f"products.{t}", self.form.channels
        last = t == self.form.layers - 1
        degrees = (0,) if last and not self.form.tensors_at_the_end else self.form.hidden
        matrices = self.weights.blocks(
            f"{here}.linear.weight", [(channels, channels)] * len(degrees)
        )
        contractions = f"{here}.symmetric_contractions.contractions"
        for weight in (*mixing.weights, *product.parameters()):
            weight.zero_()  # degrees that mace-torch leaves out
        for number, (l, matrix) in enumerate(zip(degrees, matrices, strict=True)):
            if l >= len(product.polynomials):
                self.weights.drop(f"{contractions}.{number}.")
                continue
            mixing.weights[l].copy_(matrix)
            polynomial = product.polynomials[l]
            assert isinstance(polynomial, SymmetricPolynomial)
            self._fill_polynomial(polynomial, l, f"{contractions}.{number}")

    def _fill_polynomial(self, polynomial: SymmetricPolynomial, l: int, name: str) -> None:
        top = polynomial.correlation
        for nu, weight in enumerate(polynomial.weights, start=1):
            w = self.weights.take(
                f"{name}.weights_max" if nu == top else f"{name}.weights.{top - 1 - nu}"
            )
            u = self.weights.take(f"{name}.U_matrix_{nu}")
            if l == 0:
                u = u.unsqueeze(0)
            ours = symmetric_couplings(polynomial.degree_in, nu, l)
            coefficients, residual = expand_couplings(u, ours, name)
            self.residual = max(self.residual, residual)
            if self.form.element_products:
                if w.shape[0] != len(self.order):
                    raise EquivError(f"{name} has weights for {w.shape[0]} elements")
                w = w[self.order]
            weight.copy_(torch.einsum("kp,zpc->zkc", coefficients, w))

    def _fill_readout(self, readout: nn.Module, name: str, t: int) -> None:
        """The columns of one head."""
        heads, head, channels = len(self.form.heads), self.head, self.form.channels
        if isinstance(readout, LinearReadout):
            (weight,) = self.weights.blocks(f"{name}.linear.weight", [(channels, heads)])
            readout.weight.copy_(weight[:, head : head + 1])
            return
        assert isinstance(readout, NonlinearReadout | ActivatedReadout | DeepReadout)
        hidden = self.form.readout_hidden
        own = slice(head * hidden, (head + 1) * hidden)
        gain = self.gains["silu"] / SILU_GAIN
        if not isinstance(readout, NonlinearReadout):
            gain = self.gains[self.form.activation] / readout.gain
        gain /= math.sqrt(heads)  # e3nn divides by the widths of all heads together
        (first,) = self.weights.blocks(f"{name}.linear_1.weight", [(channels, heads * hidden)])
        readout.hidden.copy_(first[:, own])
        (final,) = self.weights.blocks(f"{name}.linear_2.weight", [(heads * hidden, heads)])
        readout.weight.copy_(gain * final[own, head : head + 1])
        if isinstance(readout, DeepReadout):
            shape = (heads * hidden, heads * hidden)
            (middle,) = self.weights.blocks(f"{name}.linear_mid.weight", [shape])
            readout.middle.copy_(gain * middle[own, own])
            readout.middle_bias.copy_(
                self.weights.take(f"{name}.linear_mid.bias", (heads * hidden,))[own]
            )
            readout.bias.copy_(
                self.weights.take(f"{name}.linear_2.bias", (heads,))[head : head + 1]
            )

    def _of_head(self, name: str) -> float:
        values = self.weights.take(name).flatten().tolist()
        if len(values) != len(self.form.heads):
            raise EquivError(f"{name} has {len(values)} values for {len(self.form.heads)} heads")
        return values[self.head]

    def _check_radial(self, cutoff: float) -> list[float] | None:
        """Compare radial constants; the Bessel frequencies if they are not the usual ones."""
        form, here = self.form, "radial_embedding"
        self._constant(f"{here}.cutoff_fn.r_max", _double(cutoff))
        self._constant(f"{here}.cutoff_fn.p", _double(form.cutoff_power))
        if form.distance_transform != "none":
            constants = {"agnesi": {"a": 1.0805, "q": 0.9183, "p": 4.5791}, "soft": {"alpha": 4.0}}
            for key, value in constants[form.distance_transform].items():
                self._constant(f"{here}.distance_transform.{key}", _double(value))
            self._radii(f"{here}.distance_transform.covalent_radii")
        num = form.num_radial
        if form.radial_functions == "gaussian":
            centers = torch.linspace(0, cutoff, num, dtype=torch.float64)
            self._constant(f"{here}.bessel_fn.gaussian_weights", centers)
            return None
        counted = torch.arange(1, num + 1, dtype=torch.float64)
        if form.radial_functions == "frozen_chebyshev":
            self._constant(f"{here}.bessel_fn.n", counted[None])
            return None
        self._constant(f"{here}.bessel_fn.r_max", _double(cutoff))
        self._constant(f"{here}.bessel_fn.prefactor", _double(math.sqrt(2 / cutoff)))
        found = self.weights.take(f"{here}.bessel_fn.bessel_weights", (num,))
        deviation = (found * cutoff / math.pi / counted - 1).abs().max().item()
        if deviation < SINGLE_PRECISION:
            self._note(deviation)
        # Rounded frequencies are kept: they are what single precision changes most.
        return None if deviation < EXACT else found.tolist()

    def _check_repulsion(self) -> int:
        here = "pair_repulsion_fn"
        for name, value in {
            "c": [0.1818, 0.5099, 0.2802, 0.02817],
            "a_exp": 0.3,
            "a_prefactor": 0.4543,
        }.items():
            self._constant(f"{here}.{name}", _double(value))
        self._radii(f"{here}.covalent_radii")
        return int(self.weights.take(f"{here}.p").item())

    def _radii(self, name: str) -> None:
        self._constant(name, torch.as_tensor(covalent_radii, dtype=torch.float64))

    def _constant(self, name: str, expected: Tensor) -> None:
        found = self.weights.take(name).reshape(expected.shape)
        deviation = ((found - expected).abs() / expected.abs().clamp(min=1.0)).max().item()
        if not deviation < SINGLE_PRECISION:
            raise EquivError(
                f"{name} of the state is {_short(found)}, where {_short(expected)} is expected; "
                "trained or foreign functions of the distance cannot be converted"
            )
        self._note(deviation)

    def _note(self, deviation: float) -> None:
        if deviation > EXACT:
            self.rounding = max(self.rounding, deviation)


def _double(value: float | list[float]) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _short(values: Tensor) -> str:
    numbers = values.flatten().tolist()
    return ", ".join(f"{x:.10g}" for x in numbers[:8]) + (", ..." if len(numbers) > 8 else "")
