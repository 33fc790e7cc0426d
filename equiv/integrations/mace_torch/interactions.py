"""Weights of mace-torch's interaction blocks in ours."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.integrations.mace_torch.flat_weights import FlatWeights, Terms, place
from equiv.integrations.mace_torch.form import Form
from equiv.message_passing.attentive_interaction import AttentiveInteraction
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.directed_convolution import DirectedConvolution
from equiv.message_passing.gated_interaction import GatedInteraction
from equiv.message_passing.interaction import Interaction
from equiv.models.mace import MACELayer
from equiv.nn.gate import SIGMOID_GAIN
from equiv.nn.linear import ElementLinear, SphericalLinear
from equiv.nn.mlp import SILU_GAIN, RadialMLP
from equiv.nn.pair_mlp import ElementPairMLP

Convolution = ClebschGordanConvolution | DirectedConvolution

# e3nn draws these by Monte Carlo, always with the same seed.
E3NN_GAINS = {
    "silu": 1.6791767923989418,
    "sigmoid": 1.8467055342154763,
    "tanh": 1.5937334472592695,
    "abs": 1.001110600838467,
}


class InteractionMap:
    """Fills the interaction of one layer.

    Args:
        form: of the model.
        weights: of the model.
        t: number of the layer.
        order: where each of our elements, which ascend, stands in mace-torch's list.
    """

    def __init__(self, form: Form, weights: FlatWeights, t: int, order: Sequence[int]) -> None:
        self.form, self.weights, self.t, self.order = form, weights, t, order
        self.here = f"interactions.{t}"
        self.features: Terms = [(form.channels, l) for l in form.features[t]]
        self.senders: Terms = form.sender_irreps[t]
        self.targets: Terms = [(form.channels, l) for l in range(form.edge_degree + 1)]
        self.gains = {**E3NN_GAINS, **form.gains}
        self.paths = [
            (mul, l1, l2, l3)
            for mul, l1 in self.senders
            for l2 in range(form.edge_degree + 1)
            for l3 in range(abs(l1 - l2), min(l1 + l2, form.edge_degree) + 1)
            if (l1 + l2 + l3) % 2 == 0
        ]
        self.paths.sort(key=lambda path: path[3])

    def fill(self, interaction: nn.Module) -> None:
        """Copy the weights, in our layout."""
        for kind, fill in _FILLS.items():
            if isinstance(interaction, kind):
                fill(self, interaction)
                return
        raise TypeError(f"no weights of mace-torch for {type(interaction).__name__}")

    def _fill_plain(self, interaction: Interaction | MACELayer) -> None:
        convolution = interaction.convolution
        assert isinstance(convolution, ClebschGordanConvolution)
        self._linear_up(interaction.linear_up)
        self._radial_mlp(interaction.radial_mlp, "conv_tp_weights", 0, convolution)
        self._linear_down(interaction.linear, convolution, "linear")
        self._element_linear(interaction.skip, residual=interaction.residual)
        if isinstance(interaction, Interaction) and interaction.mean_neighbors is None:
            name, width = f"{self.here}.density_fn.layer0.weight", self.form.num_radial
            interaction.density.copy_(self.weights.take(name, (width, 1)).flatten())

    def _fill_attentive(self, interaction: AttentiveInteraction) -> None:
        scalars = interaction.down.shape[1]
        self._linear_up(interaction.linear_up)
        down = self.weights.linear(f"{self.here}.linear_down", self.features, [(scalars, 0)])[0]
        interaction.down.copy_(down * math.sqrt(down.shape[0]))
        num = self.form.num_radial
        shape = (num + 2 * scalars, interaction.radial.shape[1])
        first = self.weights.take(f"{self.here}.conv_tp_weights.layer0.weight", shape)
        for ours, part in zip(
            (interaction.radial, interaction.sender, interaction.receiver),
            first.split([num, scalars, scalars]),
            strict=True,
        ):
            ours.copy_(part)
        self._radial_mlp(interaction.radial_mlp, "conv_tp_weights", 1, interaction.convolution)
        self._linear_down(interaction.linear, interaction.convolution, "linear")
        self._linear_skip(interaction.skip, "skip_linear")

    def _fill_gated(self, interaction: GatedInteraction) -> None:
        channels, degree = self.form.channels, self.form.edge_degree
        convolution = interaction.convolution
        self._linear_up(interaction.linear_up)
        sender, receiver = (
            self._element_table(f"{self.here}.{name}_embedding") for name in ("source", "target")
        )
        self._pair_mlp(
            interaction.radial_mlp, "conv_tp_weights", sender, receiver, convolution=convolution
        )
        self._pair_mlp(interaction.density_mlp, "density_fn", sender, receiver)
        with_gates = [(channels * (1 + degree), 0), *((channels, l) for l in range(1, degree + 1))]

        mixed = self.weights.linear(f"{self.here}.linear_1", self._message_terms(), with_gates)
        rows = self._message_rows(convolution)
        widths = convolution.channels_out()
        for l, weight in enumerate(interaction.linear.weights):
            matrix = place(mixed[l], (widths[l], mixed[l].shape[1]), rows=rows[l]) * math.sqrt(
                widths[l]
            )
            weight.copy_(matrix[:, :channels])
            if l == 0:
                interaction.gates.copy_(matrix[:, channels:])

        own = self.weights.linear(f"{self.here}.linear_res", self.senders, with_gates)
        width = convolution.channels
        for l, weight in enumerate(interaction.linear_own.weights):
            if l not in own:
                weight.zero_()
                continue
            padded = place(own[l], (width, own[l].shape[1]), rows=range(own[l].shape[0]))
            padded = padded * math.sqrt(width)
            weight.copy_(padded[:, :channels])
            if l == 0:
                interaction.gates_own.copy_(padded[:, channels:])
        if 0 not in own:
            interaction.gates_own.zero_()

        gated = self.weights.linear(f"{self.here}.linear_2", self.targets, self.targets)
        for l, weight in enumerate(interaction.linear_gated.weights):
            gain = self.gains["sigmoid"] / SIGMOID_GAIN if l else self.gains["silu"] / SILU_GAIN
            weight.copy_(gain * math.sqrt(channels) * gated[l])
        interaction.alpha.copy_(self.weights.take(f"{self.here}.alpha", ()))
        interaction.beta.copy_(self.weights.take(f"{self.here}.beta", ()))
        self._linear_skip(interaction.skip, "skip_tp")

    def _linear_up(self, linear: SphericalLinear) -> None:
        """Channels that neighbours do not send are zero."""
        found = self.weights.linear(f"{self.here}.linear_up", self.features, self.senders)
        for l, weight in enumerate(linear.weights):
            rows, columns = weight.shape
            if l not in found:
                weight.zero_()
                continue
            matrix = place(found[l], (rows, columns), columns=range(found[l].shape[1]))
            weight.copy_(math.sqrt(rows) * matrix)

    def _linear_down(self, linear: SphericalLinear, convolution: Convolution, name: str) -> None:
        found = self.weights.linear(f"{self.here}.{name}", self._message_terms(), self.targets)
        rows = self._message_rows(convolution)
        for l, weight in enumerate(linear.weights):
            if l not in found:
                weight.zero_()
                continue
            height, width = weight.shape
            weight.copy_(math.sqrt(height) * place(found[l], (height, width), rows=rows[l]))

    def _linear_skip(self, linear: SphericalLinear, name: str) -> None:
        found = self.weights.linear(f"{self.here}.{name}", self.features, self._results())
        for l, weight in enumerate(linear.weights):
            if l in found:
                weight.copy_(math.sqrt(weight.shape[0]) * found[l])
            else:
                weight.zero_()

    def _element_linear(self, skip: ElementLinear, *, residual: bool) -> None:
        channels, elements = self.form.channels, len(self.order)
        terms = self.features if residual else self.targets
        degrees = [l for _, l in terms if not residual or (channels, l) in self._results()]
        shapes = [(channels, elements, channels)] * len(degrees)
        matrices = self.weights.blocks(f"{self.here}.skip_tp.weight", shapes)
        skip.weight.zero_()
        for l, matrix in zip(degrees, matrices, strict=True):
            if l <= skip.degree:
                skip.weight[:, l] = matrix[:, list(self.order)].transpose(0, 1)

    def _radial_mlp(self, mlp: RadialMLP, name: str, first: int, convolution: Convolution) -> None:
        """Layers from ``first`` on; what an activation feeds carries the ratio of the gains."""
        gain = self.gains["silu"] / SILU_GAIN
        last = len(mlp.weights) - 1
        for k, weight in enumerate(mlp.weights):
            layer = k + first
            full = f"{self.here}.{name}.layer{layer}.weight"
            matrix = self.weights.take(full)
            expected = (weight.shape[0], self._weight_numel() if k == last else weight.shape[1])
            if matrix.shape != expected:
                raise EquivError(
                    f"the mace-torch tensor {full} has shape {tuple(matrix.shape)}, the "
                    f"configuration asks for {expected}"
                )
            if k == last:
                columns, signs = self._weight_columns(convolution)
                matrix = place(matrix * signs, tuple(weight.shape), columns=columns)
            weight.copy_(matrix if layer == 0 else gain * matrix)

    def _pair_mlp(
        self,
        mlp: ElementPairMLP,
        name: str,
        sender: Float[Tensor, "elements channels"],
        receiver: Float[Tensor, "elements channels"],
        convolution: Convolution | None = None,
    ) -> None:
        """The embedding of the elements is multiplied into the first layer."""
        here, num, channels = f"{self.here}.{name}.net", self.form.num_radial, self.form.channels
        hidden = mlp.radial.shape[1]
        first = self.weights.take(f"{here}.0.weight", (hidden, num + 2 * channels)).T
        radial, source, target = first.split([num, channels, channels])
        mlp.radial.copy_(radial)
        mlp.sender.copy_(sender @ source)
        mlp.receiver.copy_(receiver @ target + self.weights.take(f"{here}.0.bias", (hidden,)))
        last = len(mlp.linears) - 1
        for k, (norm, linear) in enumerate(zip(mlp.norms, mlp.linears, strict=True)):
            assert isinstance(norm, nn.LayerNorm)
            assert isinstance(linear, nn.Linear)
            shape = tuple(norm.weight.shape)
            norm.weight.copy_(self.weights.take(f"{here}.{3 * k + 1}.weight", shape))
            norm.bias.copy_(self.weights.take(f"{here}.{3 * k + 1}.bias", shape))
            weight = self.weights.take(f"{here}.{3 * k + 3}.weight")
            bias = self.weights.take(f"{here}.{3 * k + 3}.bias")
            if k == last and convolution is not None:
                columns, signs = self._weight_columns(convolution)
                shape = (linear.weight.shape[1], linear.weight.shape[0])
                weight = place(weight.T * signs, shape, columns=columns).T
                bias = place((bias * signs)[None], (1, shape[1]), columns=columns)[0]
            if weight.shape != linear.weight.shape:
                raise EquivError(f"{here}.{3 * k + 3}.weight has not the shape it should have")
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)

    def _element_table(self, name: str) -> Float[Tensor, "elements channels"]:
        """What a linear map makes of each of our elements."""
        elements, channels = len(self.order), self.form.channels
        matrix = self.weights.linear(name, [(elements, 0)], [(channels, 0)])[0]
        return matrix[list(self.order)]

    def _results(self) -> Terms:
        """Terms of the layer's result in mace-torch."""
        last = self.t == self.form.layers - 1 and not self.form.tensors_at_the_end
        return [(self.form.channels, l) for l in ((0,) if last else self.form.hidden)]

    def _message_terms(self) -> Terms:
        return [(mul, l3) for mul, _, _, l3 in self.paths]

    def _weight_numel(self) -> int:
        return sum(mul for mul, *_ in self.paths)

    def _positions(self, convolution: Convolution) -> Callable[[int, int, int], int | None]:
        found = {path: p for p, path in enumerate(convolution.paths)}
        return lambda l1, l2, l3: found.get((l1, l2, l3))

    def _weight_columns(
        self, convolution: Convolution
    ) -> tuple[list[int], Float[Tensor, " weights"]]:
        """Where each radial weight of theirs is in ours, and its sign: our edges point back."""
        position = self._positions(convolution)
        columns: list[int] = []
        signs: list[float] = []
        for mul, l1, l2, l3 in self.paths:
            p = position(l1, l2, l3)
            start = None if p is None else p * convolution.channels
            columns += [-1 if start is None else start + c for c in range(mul)]
            signs += [(-1.0) ** l2] * mul
        return columns, torch.tensor(signs, dtype=torch.float64)

    def _message_rows(self, convolution: Convolution) -> Mapping[int, list[int]]:
        """For every degree, where each channel of their messages is in ours."""
        ranks: dict[tuple[int, int, int], int] = {}
        for l1, l2, l3 in convolution.paths:
            ranks[l1, l2, l3] = sum(1 for path in ranks if path[2] == l3)
        rows: dict[int, list[int]] = {}
        for mul, l1, l2, l3 in self.paths:
            rank = ranks.get((l1, l2, l3))
            start = None if rank is None else rank * convolution.channels
            rows.setdefault(l3, []).extend(-1 if start is None else start + c for c in range(mul))
        return rows


_FILLS: dict[type[nn.Module], Callable] = {
    MACELayer: InteractionMap._fill_plain,
    Interaction: InteractionMap._fill_plain,
    AttentiveInteraction: InteractionMap._fill_attentive,
    GatedInteraction: InteractionMap._fill_gated,
}
