"""The networks a Ponita can be made of: from vectors of pairs to quantities of atoms."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.graph.layout import Layout
from equiv.models.ponita_layer import (
    PairGeometry,
    PonitaLayer,
    SphereSampling,
    require_strength,
)
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.radial import RADIAL_BASES
from equiv.nn.readout import LinearReadout, NonlinearReadout
from equiv.position_orientation.grids import OrientationGrid, rotation_group, zonal_polynomials
from equiv.position_orientation.legendre_kernel import LegendreKernel
from equiv.position_orientation.lifting import Channels, Quantities, readout
from equiv.position_orientation.network import OrientationNetwork
from equiv.so3 import spherical_harmonics


class BandLimitedLayers(ExactConstants):
    r"""Layers whose features have a highest degree in the orientation (:class:`PonitaLayer`).

    All products are exact on the grid, so features turn with the structure under all rotations, to
    rounding: the grid could be turned, or exchanged for a stronger one, and nothing would change.

    Args:
        elements: number of elements.
        cutoff: Angstrom.
        grid: orientations.
        recipe: the arguments of :class:`equiv.models.Ponita` by name.
        degree_out: highest degree of the last layer's features.
    """

    def __init__(
        self,
        elements: int,
        cutoff: float,
        grid: OrientationGrid,
        recipe: Mapping[str, Any],
        *,
        degree_out: int = 0,
    ) -> None:
        super().__init__()
        self.degree, channels, layers = recipe["degree"], recipe["channels"], recipe["layers"]
        require_strength(grid, self.degree)
        basis = RADIAL_BASES[recipe["radial_basis"]]
        self.radial_basis = basis(
            recipe["num_radial"], cutoff, PolynomialCutoff(recipe["cutoff_power"])
        )
        self.register_constant("points", grid.state_dict()["points"])
        self.points: Tensor
        self.embedding = nn.Parameter(torch.randn(elements, channels))
        self.layers = nn.ModuleList(
            PonitaLayer(
                grid,
                degree=self.degree,
                degree_in=0 if t == 0 else self.degree,
                degree_out=degree_out if t == layers - 1 else self.degree,
                channels=channels,
                correlation=recipe["correlation"],
                product=recipe["product"],
                radial_widths=(recipe["num_radial"], *recipe["radial_hidden"]),
                num_elements=elements,
                mean_neighbors=recipe["mean_neighbors"],
            )
            for t in range(layers)
        )

    @property
    def exact_rotations(self) -> None:
        """All of them."""
        return None

    def features(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> Iterator[Float[Tensor, "rows lm channels"]]:
        """Those of the rows' atoms after each layer."""
        neighbors, counts = layout.neighbors, layout.counts
        distances = torch.linalg.vector_norm(vectors, dim=-1)
        cosines = (vectors / distances.unsqueeze(-1)) @ self.points.T
        pairs = PairGeometry(
            harmonics=spherical_harmonics(self.degree, vectors),
            zonal=zonal_polynomials(self.degree, cosines, 3),
            radial=self.radial_basis(distances),
        )
        elements = zip(self.embedding, counts, strict=True)
        features = torch.cat([e.expand(rows, 1, -1) for e, rows in elements])
        for layer in self.layers:
            features = layer(features, pairs, neighbors, counts)
            yield features


class BandLimitedNetwork(BandLimitedLayers):
    r"""Energies of atoms from band-limited layers, the same for all rotations, to rounding.

    .. math::
        e_i = \sum_t \mathcal{R}_t\Big( \sum_o w_o f^t_i(o) \Big)

    Args: as :class:`BandLimitedLayers`.
    """

    def __init__(
        self, elements: int, cutoff: float, grid: OrientationGrid, recipe: Mapping[str, Any]
    ) -> None:
        super().__init__(elements, cutoff, grid, recipe)
        channels, layers = recipe["channels"], recipe["layers"]
        self.readouts = nn.ModuleList(LinearReadout(channels) for _ in range(layers - 1))
        self.readouts.append(NonlinearReadout(channels, recipe["readout_hidden"]))
        self.invariant_channels = layers * channels

    def forward(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows channels"]]:
        """What the rows contribute to the energy, and their invariants, those of all layers."""
        invariants = [features[:, 0] for features in self.features(vectors, layout)]
        total = invariants[0].new_zeros(invariants[0].shape[0])
        for read, x in zip(self.readouts, invariants, strict=True):
            total = total + read(x)
        return total, torch.cat(invariants, dim=-1)


class BandLimitedQuantities(BandLimitedLayers):
    r"""Scalars, vectors and symmetric tensors of atoms, that turn exactly under all rotations.

    .. math::
        (s_i, v_i, T_i) = \mathrm{readout}\Big( \sum_t W_t f^t_i \Big)

    from the values of the layers' functions on the grid
    (:func:`equiv.position_orientation.readout`), which has the few degrees it needs exactly.

    Args:
        elements: number of elements.
        cutoff: Angstrom.
        grid: orientations.
        recipe: the arguments of :class:`equiv.models.Ponita` by name.
        outputs: what is wanted of every atom.
    """

    def __init__(
        self,
        elements: int,
        cutoff: float,
        grid: OrientationGrid,
        recipe: Mapping[str, Any],
        outputs: Channels,
    ) -> None:
        highest = 2 if outputs.tensors else 1 if outputs.vectors else 0
        if highest > recipe["degree"]:
            raise EquivError(
                f"degree = {recipe['degree']} is too low for tensors, which are of degree 2"
            )
        super().__init__(elements, cutoff, grid, recipe, degree_out=highest)
        self.outputs = outputs
        self.grid, self.sampling = grid, SphereSampling(grid, self.degree)
        self.readouts = nn.ModuleList(
            nn.Linear(recipe["channels"], outputs.total, bias=False) for _ in self.layers
        )

    def forward(self, vectors: Float[Tensor, "pairs 3"], layout: Layout) -> Quantities:
        """Those of the rows' atoms."""
        parts = [
            self.sampling.values(read(features))
            for read, features in zip(self.readouts, self.features(vectors, layout), strict=True)
        ]
        return readout(self.grid, torch.stack(parts).sum(0), self.outputs)


class ConvNeXtNetwork(nn.Module):
    r"""Layers as published, with a smooth kernel.

    Convolutions, and a perceptron at every point of the grid
    (:class:`equiv.position_orientation.OrientationNetwork`). A perceptron knows no highest degree,
    so only the rotations that permute the grid are exact.

    Args: as :class:`BandLimitedNetwork`.
    """

    def __init__(
        self, elements: int, cutoff: float, grid: OrientationGrid, recipe: Mapping[str, Any]
    ) -> None:
        super().__init__()
        basis = RADIAL_BASES[recipe["radial_basis"]]
        radial = basis(recipe["num_radial"], cutoff, PolynomialCutoff(recipe["cutoff_power"]))
        self.network = OrientationNetwork(
            grid=grid,
            kernel=LegendreKernel(recipe["degree"], radial, recipe["radial_hidden"]),
            inputs=Channels(scalars=elements),
            outputs=Channels(scalars=1),
            channels=recipe["channels"],
            layers=recipe["layers"],
            mean_neighbors=recipe["mean_neighbors"],
            widening=recipe["widening"],
        )
        self.elements, self.invariant_channels = elements, recipe["channels"]

    @property
    def exact_rotations(self) -> Float[Tensor, "rotations 3 3"]:
        """Those that permute the grid."""
        return rotation_group(self.network.grid)[0]

    def forward(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows channels"]]:
        """What the rows contribute to the energy, and the invariants of the last layer."""
        kinds = torch.nn.functional.one_hot(layout.species, self.elements).to(vectors.dtype)
        out = self.network(vectors, layout.neighbors, scalars=kinds)
        return out.scalars.squeeze(-1), out.invariants


NETWORKS: dict[str, type[BandLimitedNetwork] | type[ConvNeXtNetwork]] = {
    "bandlimited": BandLimitedNetwork,
    "convnext": ConvNeXtNetwork,
}
"""Networks by the name of their blocks."""
