"""The two networks a Ponita can be made of: from vectors of pairs to invariants of atoms."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.graph.layout import Layout
from equiv.models.ponita_layer import PairGeometry, PonitaLayer, require_strength
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.radial import RADIAL_BASES
from equiv.nn.readout import LinearReadout, NonlinearReadout
from equiv.position_orientation.grids import OrientationGrid, rotation_group, zonal_polynomials
from equiv.position_orientation.legendre_kernel import LegendreKernel
from equiv.position_orientation.lifting import Channels
from equiv.position_orientation.network import OrientationNetwork
from equiv.so3 import spherical_harmonics


class BandLimitedNetwork(ExactConstants):
    r"""Layers whose features have a highest degree in the orientation (:class:`PonitaLayer`).

    All products are exact on the grid, so the energy is the same for all rotations, to rounding:
    the grid could be turned, or exchanged for a stronger one, and nothing would change.

    Args:
        elements: number of elements.
        cutoff: Angstrom.
        grid: orientations.
        recipe: the arguments of :class:`equiv.models.Ponita` by name.
    """

    def __init__(
        self, elements: int, cutoff: float, grid: OrientationGrid, recipe: Mapping[str, Any]
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
        self.layers, self.readouts = nn.ModuleList(), nn.ModuleList()
        for t in range(layers):
            first, last = t == 0, t == layers - 1
            self.layers.append(
                PonitaLayer(
                    grid,
                    degree=self.degree,
                    degree_in=0 if first else self.degree,
                    degree_out=0 if last else self.degree,
                    channels=channels,
                    correlation=recipe["correlation"],
                    product=recipe["product"],
                    radial_widths=(recipe["num_radial"], *recipe["radial_hidden"]),
                    num_elements=elements,
                    mean_neighbors=recipe["mean_neighbors"],
                )
            )
            self.readouts.append(
                NonlinearReadout(channels, recipe["readout_hidden"])
                if last
                else LinearReadout(channels)
            )
        self.invariant_channels = layers * channels

    @property
    def exact_rotations(self) -> None:
        """All of them."""
        return None

    def forward(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows channels"]]:
        """What the rows contribute to the energy, and their invariants, those of all layers."""
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
        total, invariants = features.new_zeros(features.shape[0]), []
        for layer, read in zip(self.layers, self.readouts, strict=True):
            features = layer(features, pairs, neighbors, counts)
            invariants.append(features[:, 0])
            total = total + read(invariants[-1])
        return total, torch.cat(invariants, dim=-1)


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
