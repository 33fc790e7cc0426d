"""What a kernel is at the pairs of a graph, before the layers make their own kernels of it."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.graph.blocks import NeighborBlocks
from equiv.position_orientation.grids import OrientationGrid


class SpatialConvolution(nn.Module, ABC):
    r"""Depthwise convolution over positions, for each orientation by itself.

    .. math::
        y_i(o) = s\, x_i(o) + \frac{1}{\sqrt{\bar n}} \sum_{j \to i} k(r_{ij}, o)\, x_j(o)

    with channelwise products. :math:`\bar n` is the mean number of neighbours. The self term
    :math:`s` is what a kernel has at :math:`r = 0`.
    """

    def forward(
        self,
        x: Float[Tensor, "rows orientations channels"],
        samples: Any,
        neighbors: NeighborBlocks,
    ) -> Float[Tensor, "rows orientations channels"]:
        """The convolution with the kernel whose ``samples`` come from a :class:`Kernel`."""
        return self.own(x, samples) + self.received(x, samples, neighbors)

    @abstractmethod
    def own(
        self, x: Float[Tensor, "rows orientations channels"], samples: Any
    ) -> Float[Tensor, "rows orientations channels"]:
        """The self term."""

    @abstractmethod
    def received(
        self,
        x: Float[Tensor, "rows orientations channels"],
        samples: Any,
        neighbors: NeighborBlocks,
        emphasis: Float[Tensor, "pairs channels"] | None = None,
    ) -> Float[Tensor, "rows orientations channels"]:
        """The sum over neighbours, with kernels times ``emphasis``."""

    @abstractmethod
    def rescale(self, factor: float) -> None:
        """Multiply the kernel by a number."""


class Kernel(nn.Module, ABC):
    r"""A family of functions of a vector and an orientation, invariant when both turn.

    All layers of a network share a kernel's samples (:meth:`forward`), which depend on the geometry
    alone, and make their own channels of them (:meth:`convolution`).

    Attributes:
        cutoff: in Angstrom, ``None`` if there is none.
        fiber_size: functions in :meth:`fiber`.
        pair_scalars: numbers that belong to a pair and modulate the kernel.
        condition: numbers that belong to a row (time, noise) and do the same.
    """

    cutoff: float | None
    fiber_size: int
    pair_scalars: int
    condition: int

    @abstractmethod
    def forward(
        self,
        vectors: Float[Tensor, "pairs dim"],
        grid: OrientationGrid,
        neighbors: NeighborBlocks,
        pair_scalars: Float[Tensor, "pairs scalars"] | None = None,
        condition: Float[Tensor, "rows condition"] | None = None,
    ) -> Any:
        """Samples at the pairs.

        Args:
            vectors: from the first to the second atom of each pair, in the dtype of the weights.
            grid: orientations.
            neighbors: who sees whom.
            pair_scalars: the same for both directions of a pair.
            condition: of the rows.
        """

    @abstractmethod
    def fiber(self, grid: OrientationGrid) -> Float[Tensor, "orientations orientations fiber_size"]:
        """Functions of the angle between two orientations."""

    def modulating(
        self,
        vectors: Float[Tensor, "pairs dim"],
        neighbors: NeighborBlocks,
        pair_scalars: Float[Tensor, "pairs scalars"] | None,
        condition: Float[Tensor, "rows condition"] | None,
    ) -> tuple[Float[Tensor, "pairs modulation"], Float[Tensor, "rows_or_1 modulation"]]:
        """The numbers that modulate the kernel at the pairs, and in the self term of each row.

        A pair has the mean condition of its atoms; a self term has no pair, and zeros in its place.
        """
        of_pairs, of_rows = [], []
        if pair_scalars is not None:
            of_pairs.append(pair_scalars)
        if condition is not None:
            of_pairs.append((condition[neighbors.first] + condition[neighbors.second]) / 2)
            of_rows.append(condition)
        rows = 1 if condition is None else condition.shape[0]
        of_rows.insert(0, vectors.new_zeros(rows, self.pair_scalars))
        return torch.cat(of_pairs, -1), torch.cat(of_rows, -1)

    @abstractmethod
    def convolution(self, channels: int, mean_neighbors: float) -> SpatialConvolution:
        """A layer that convolves with kernels of this family."""
