"""Properties of structures or atoms, from numbers to tensors, by position-orientation layers."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from equiv.choices import choose
from equiv.errors import EquivError
from equiv.graph.layout import Layout, lay_out
from equiv.models.abstract import AbstractModel
from equiv.models.elements import atomic_number
from equiv.models.ponita_layer import POINTWISE
from equiv.models.ponita_networks import BandLimitedQuantities
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.radial import BesselBasis
from equiv.position_orientation import (
    Channels,
    LegendreKernel,
    OrientationNetwork,
    orientation_grid,
)

KINDS = {
    "scalar": Channels(scalars=1),
    "vector": Channels(vectors=1),
    "tensor": Channels(tensors=1),
}
"""What a property can be: a number, a vector, or a symmetric 3x3 tensor."""

BLOCKS = {"bandlimited": True, "convnext": False}
BASIS = {"product": POINTWISE, "radial_basis": "bessel"}
"""What of the layers a regressor does not let choose."""

COLLECTED = ("sum", "mean", "atoms")


class Regressor(AbstractModel):
    r"""A property of every structure, or of every atom.

    .. math::
        y_i = s\, p_i(\{\vec r_{ij}\}) + b_{z_i}, \qquad Y = \sum_i y_i \;\text{ or }\;
        \frac1N \sum_i y_i

    :math:`p_i` is what the layers of :class:`equiv.models.Ponita` say about atom :math:`i`: a
    number, a vector, or a symmetric tensor, to which :math:`b` is added along the diagonal. Vectors
    have no :math:`b`.

    With ``block="bandlimited"``, the default, all rotations and reflections are exact symmetries,
    to rounding; with ``"convnext"`` those that permute the grid, and others are approximate
    (``equiv evaluate`` says how well they hold). Translations and permutations always are. Vectors
    are polar (dipoles), so a neutral molecule's dipole is a sum of atomic ones, and a charged one's
    refers to no origin.

    Args:
        elements: chemical symbols (or atomic numbers) of the elements.
        cutoff: Angstrom.
        kind: ``"scalar"``, ``"vector"`` or ``"tensor"``.
        collect: ``"sum"`` for extensive properties of structures, ``"mean"`` for intensive ones,
            ``"atoms"`` for properties of atoms.
        block: ``"bandlimited"`` or ``"convnext"``.
        grid: orientations, by name.
        degree: highest degree of the kernel in the angle, and of band-limited features.
        channels: of the features.
        layers: number of them.
        correlation: highest power of the features that a band-limited layer takes.
        num_radial: radial functions.
        cutoff_power: of the cutoff.
        radial_hidden: widths of the radial perceptrons.
        widening: hidden over plain channels of the perceptrons of ``"convnext"`` layers.
        mean_neighbors: messages are divided by its root.
        scale: :math:`s`, in the unit of the property.
        offsets: :math:`b` by chemical symbol, in the unit of the property.
        unit: of the property, for readers of the model file.
    """

    name: ClassVar[str] = "regressor"

    def __init__(
        self,
        elements: Sequence[str | int],
        cutoff: float,
        *,
        kind: str,
        collect: str,
        block: str = "bandlimited",
        grid: str = "pentakis32",
        degree: int = 3,
        channels: int = 32,
        layers: int = 2,
        correlation: int = 3,
        num_radial: int = 8,
        cutoff_power: int = 5,
        radial_hidden: Sequence[int] = (64,),
        widening: int = 4,
        mean_neighbors: float = 1.0,
        scale: float = 1.0,
        offsets: Mapping[str, float] | None = None,
        unit: str = "",
    ) -> None:
        numbers = sorted({atomic_number(element) for element in elements})
        super().__init__(numbers, cutoff)
        symbols = [chemical_symbols[z] for z in numbers]
        if not numbers:
            raise EquivError("Regressor: needs at least one element")
        if collect not in COLLECTED:
            raise EquivError(
                f"Regressor: collect should be one of {', '.join(COLLECTED)}, got {collect!r}"
            )
        given = dict(offsets or {})
        if unknown := set(given) - set(symbols):
            raise EquivError(
                f"Regressor: offsets of {', '.join(sorted(unknown))}, no elements of it"
            )
        self.recipe = {
            "elements": symbols,
            "cutoff": float(cutoff),
            "kind": kind,
            "collect": collect,
            "block": block,
            "grid": grid,
            "degree": degree,
            "channels": channels,
            "layers": layers,
            "correlation": correlation,
            "num_radial": num_radial,
            "cutoff_power": cutoff_power,
            "radial_hidden": list(radial_hidden),
            "widening": widening,
            "mean_neighbors": mean_neighbors,
            "scale": scale,
            "offsets": given,
            "unit": unit,
        }
        self.units = {"length": "Angstrom", "property": unit}
        self.kind, self.collect, self.scale = kind, collect, scale
        outputs = choose(KINDS, kind, "Regressor: kind")
        if choose(BLOCKS, block, "Regressor: block"):
            self.network = BandLimitedQuantities(
                len(numbers), float(cutoff), orientation_grid(grid), BASIS | self.recipe, outputs
            )
        else:
            radial = BesselBasis(num_radial, float(cutoff), PolynomialCutoff(cutoff_power))
            self.network = OrientationNetwork(
                grid=orientation_grid(grid),
                kernel=LegendreKernel(degree, radial, tuple(radial_hidden)),
                inputs=Channels(scalars=len(numbers)),
                outputs=outputs,
                channels=channels,
                layers=layers,
                mean_neighbors=mean_neighbors,
                widening=widening,
            )
        self.register_buffer(
            "offsets", torch.tensor([given.get(s, 0.0) for s in symbols]), persistent=False
        )
        self.offsets: Tensor

    def forward(
        self, batch: Any, *, orientation: Float[Tensor, "3 3"] | None = None
    ) -> Float[Tensor, "items *components"]:
        """The property of every structure (or atom), float64.

        Args:
            batch: batched :class:`equiv.graph.AtomGraph`.
            orientation: rotation by which the grid is turned for this call.

        Raises:
            UnknownElementError: the batch holds elements the model does not know.
        """
        layout = lay_out(batch, self.species(batch.atomic_numbers), len(self.elements))
        positions, cell = layout.geometry(batch)
        vectors = layout.pair_vectors(positions, cell, padding=2 * float(self.cutoff or 0.0))
        # To turn the grid is to turn everything else the other way.
        turn = None if orientation is None else orientation.to(vectors)
        values = self._values(vectors if turn is None else vectors @ turn, layout)
        values = self.scale * values.double()
        if turn is not None:
            if self.kind != "scalar":
                values = values @ turn.T.double()
            if self.kind == "tensor":
                values = turn.double() @ values
        if self.kind != "vector":
            offsets = self.offsets.double()[layout.species]
            eye = torch.eye(3, dtype=values.dtype, device=values.device)
            values = values + (offsets if self.kind == "scalar" else offsets[:, None, None] * eye)
        values = values[layout.rows]
        if self.collect == "atoms":
            return values
        total = values.new_zeros(batch.num_graphs, *values.shape[1:])
        total = total.index_add(0, batch.batch, values)
        if self.collect == "sum":
            return total
        sizes = torch.bincount(batch.batch, minlength=batch.num_graphs).clamp(min=1)
        return total / sizes.view(-1, *[1] * (total.ndim - 1))

    def _values(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> Float[Tensor, "rows *components"]:
        """What the network says about the rows' atoms."""
        if isinstance(self.network, OrientationNetwork):
            kinds = torch.nn.functional.one_hot(layout.species, len(self.elements))
            found = self.network(vectors, layout.neighbors, scalars=kinds.to(self.dtype))
        else:
            found = self.network(vectors.to(self.dtype), layout)
        if self.kind == "scalar":
            return found.scalars[:, 0]
        return found.vectors[:, 0] if self.kind == "vector" else found.tensors[:, 0]
