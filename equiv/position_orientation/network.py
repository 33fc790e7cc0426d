r"""A network of functions of position and orientation, from quantities at atoms to others."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.choices import choose
from equiv.errors import EquivError
from equiv.graph.blocks import NeighborBlocks
from equiv.nn.cutoff import PolynomialCutoff
from equiv.position_orientation.attention import NeighborAttention
from equiv.position_orientation.block import OrientationBlock
from equiv.position_orientation.fiber import FiberConvolution
from equiv.position_orientation.grids import OrientationGrid
from equiv.position_orientation.lifting import Channels, check_tensors, lift, readout
from equiv.position_orientation.samples import Kernel

READOUTS = {"all": True, "last": False}


@dataclass(frozen=True)
class NetworkOutput:
    """What a network says about every row.

    Attributes:
        scalars: shape ``[rows, scalars]``.
        vectors: shape ``[rows, vectors, dim]``.
        tensors: symmetric. Shape ``[rows, tensors, dim, dim]``.
        invariants: mean over orientations of the last layer's features. Shape ``[rows, channels]``.
    """

    scalars: Float[Tensor, "rows scalars"]
    vectors: Float[Tensor, "rows vectors dim"]
    tensors: Float[Tensor, "rows tensors dim dim"]
    invariants: Float[Tensor, "rows channels"]


class OrientationNetwork(nn.Module):
    r"""Weight-shared message passing on positions times orientations.

    .. math::
        x^0 = E\, \mathrm{lift}(s, v, T), \qquad x^{t+1} = \mathrm{block}_t(x^t), \qquad
        (s', v', T') = \mathrm{readout}\Big( \frac1{|\mathcal T|} \sum_{t \in \mathcal T} W_t x^t +
        b_t \Big)

    Features :math:`x_i(o)` are functions on the grid of orientations at each atom; the layers are
    :class:`OrientationBlock`. Weights do not depend on the grid: the same weights work with another
    one, finer or turned.

    Symmetry: translations, permutations and the rotations that permute the grid are exact; every
    other rotation is as good as the grid is, and the error falls with its strength. Vectors change
    sign under inversion and scalars do not (on a grid with antipodes, exactly): mirror images are
    not told apart.

    Args:
        grid: orientations.
        kernel: of the spatial convolutions, shared.
        inputs: what every row brings.
        outputs: what is wanted of every row.
        channels: of the features.
        layers: number of blocks.
        mean_neighbors: typical number of neighbours; messages are divided by its root. 1 in the
            published code.
        widening: of the blocks' perceptrons.
        layer_scale: see :class:`OrientationBlock`.
        readouts: ``"all"`` layers, averaged, or the ``"last"``.
        condition: numbers of a condition (time, noise) that modulates the blocks; the kernel has
            its own count.
        heads: of attention over the neighbours; 0 for none.
    """

    def __init__(
        self,
        *,
        grid: OrientationGrid,
        kernel: Kernel,
        inputs: Channels,
        outputs: Channels,
        channels: int,
        layers: int,
        mean_neighbors: float,
        widening: int = 4,
        layer_scale: float | None = None,
        readouts: str = "all",
        condition: int = 0,
        heads: int = 0,
    ) -> None:
        super().__init__()
        if inputs.total < 1 or outputs.total < 1 or layers < 1 or channels < 1:
            raise EquivError(
                "OrientationNetwork: needs at least one input, output, channel and layer; got "
                f"{inputs}, {outputs}, channels={channels}, layers={layers}"
            )
        if mean_neighbors <= 0:
            raise EquivError(
                f"OrientationNetwork: mean_neighbors must be positive, got {mean_neighbors}; "
                "measure it on the training set"
            )
        if outputs.tensors:
            check_tensors(grid)
        self.grid, self.kernel = grid, kernel
        self.inputs, self.outputs, self.channels = inputs, outputs, channels
        self.condition = condition
        every = choose(READOUTS, readouts, "OrientationNetwork: readouts")
        self.embedding = nn.Linear(inputs.total, channels, bias=False)
        self.window = PolynomialCutoff(6) if heads and kernel.cutoff is not None else None
        self.blocks = nn.ModuleList(
            OrientationBlock(
                kernel.convolution(channels, mean_neighbors),
                FiberConvolution(channels, kernel.fiber_size),
                channels,
                widening=widening,
                layer_scale=layer_scale,
                condition=condition,
                attention=NeighborAttention(channels, heads, mean_neighbors=mean_neighbors)
                if heads
                else None,
            )
            for _ in range(layers)
        )
        self.readouts = nn.ModuleList(
            nn.Linear(channels, outputs.total) for _ in range(layers if every else 1)
        )

    def forward(
        self,
        vectors: Float[Tensor, "pairs dim"],
        neighbors: NeighborBlocks,
        *,
        scalars: Float[Tensor, "rows scalars"] | None = None,
        vectors_in: Float[Tensor, "rows vectors dim"] | None = None,
        tensors_in: Float[Tensor, "rows tensors dim dim"] | None = None,
        pair_scalars: Float[Tensor, "pairs pair_scalars"] | None = None,
        condition: Float[Tensor, "rows condition"] | None = None,
        orientation: Float[Tensor, "dim dim"] | None = None,
    ) -> NetworkOutput:
        """What the network makes of the rows' quantities and the pairs' vectors.

        Args:
            vectors: from the first to the second atom of each pair; in any floating dtype, the
                arithmetic is in that of the weights.
            neighbors: who sees whom, without edges from an atom to itself at distance zero.
            scalars: of the rows.
            vectors_in: of the rows.
            tensors_in: of the rows, symmetric.
            pair_scalars: of the pairs, the same for both directions.
            condition: of the rows.
            orientation: rotation by which the grid is turned for this call.
        """
        x, context = self._begin(
            vectors,
            neighbors,
            scalars,
            vectors_in,
            tensors_in,
            pair_scalars,
            condition,
            orientation,
        )
        reads, first = [], len(self.blocks) - len(self.readouts)
        for t, block in enumerate(self.blocks):
            x = block(x, *context)
            if t >= first:
                reads.append(self.readouts[t - first](x))
        read = torch.stack(reads).mean(0) if len(reads) > 1 else reads[0]
        found = readout(self.grid, read, self.outputs)
        vectors_out, tensors_out = found.vectors, found.tensors
        if orientation is not None:
            turn = orientation.to(x)
            vectors_out = vectors_out @ turn.T
            tensors_out = turn @ tensors_out @ turn.T
        invariants = torch.einsum("ioc,o->ic", x, self.grid.weights)
        return NetworkOutput(found.scalars, vectors_out, tensors_out, invariants)

    @torch.no_grad()
    def calibrate(
        self,
        vectors: Float[Tensor, "pairs dim"],
        neighbors: NeighborBlocks,
        *,
        scalars: Float[Tensor, "rows scalars"] | None = None,
        vectors_in: Float[Tensor, "rows vectors dim"] | None = None,
        tensors_in: Float[Tensor, "rows tensors dim dim"] | None = None,
        pair_scalars: Float[Tensor, "pairs pair_scalars"] | None = None,
        condition: Float[Tensor, "rows condition"] | None = None,
    ) -> None:
        """Scale the kernels so that convolutions keep the spread of their features on a batch.

        Layer by layer, each with the layers before it calibrated already; doing it twice changes
        nothing. To be called once, before training.

        Args: as in :meth:`forward`.
        """
        x, context = self._begin(
            vectors, neighbors, scalars, vectors_in, tensors_in, pair_scalars, condition, None
        )
        samples, fiber, weights, neighbors, condition, envelope = context
        for module in self.blocks:
            block = cast(OrientationBlock, module)
            y = block.spread(x, samples, weights, neighbors, envelope)
            block.spatial.rescale(_ratio(x, y))
            y = block.spread(x, samples, weights, neighbors, envelope)
            block.fiber.rescale(_ratio(y, block.fiber(y, fiber, weights) - block.fiber.bias))
            x = block(x, *context)

    def _begin(
        self,
        vectors: Tensor,
        neighbors: NeighborBlocks,
        scalars: Tensor | None,
        vectors_in: Tensor | None,
        tensors_in: Tensor | None,
        pair_scalars: Tensor | None,
        condition: Tensor | None,
        orientation: Tensor | None,
    ) -> tuple[Tensor, tuple]:
        """Features before the first block, and what every block needs."""
        dtype = self.embedding.weight.dtype
        self._check("scalars", scalars, self.inputs.scalars)
        self._check("vectors_in", vectors_in, self.inputs.vectors)
        self._check("tensors_in", tensors_in, self.inputs.tensors)
        self._check("pair_scalars", pair_scalars, self.kernel.pair_scalars)
        self._check("condition", condition, max(self.condition, self.kernel.condition))
        if orientation is not None:
            # Turning the grid is turning everything else the other way.
            turn = orientation.to(vectors)
            vectors = vectors @ turn
            vectors_in = None if vectors_in is None else vectors_in @ turn.to(vectors_in)
            if tensors_in is not None:
                tensors_in = turn.T.to(tensors_in) @ tensors_in @ turn.to(tensors_in)
        vectors = vectors.to(dtype)
        given = (scalars, vectors_in, tensors_in, pair_scalars, condition)
        scalars, vectors_in, tensors_in, pair_scalars, condition = (
            None if q is None else q.to(dtype) for q in given
        )
        kernel_condition = condition if self.kernel.condition else None
        samples = self.kernel(vectors, self.grid, neighbors, pair_scalars, kernel_condition)
        envelope = None
        if self.window is not None:
            envelope = self.window(torch.linalg.vector_norm(vectors, dim=-1) / self.kernel.cutoff)
        x = self.embedding(lift(self.grid, scalars, vectors_in, tensors_in))
        fiber = self.kernel.fiber(self.grid)
        block_condition = condition if self.condition else None
        return x, (samples, fiber, self.grid.weights, neighbors, block_condition, envelope)

    def _check(self, name: str, given: Tensor | None, wanted: int) -> None:
        axis = 1
        came = 0 if given is None else given.shape[axis]
        if came != wanted:
            raise EquivError(
                f"OrientationNetwork: {name} should have {wanted} channels, got {came}; the "
                "numbers were fixed when the network was made"
            )


def _ratio(x: Tensor, y: Tensor) -> float:
    """What makes the spread of y that of x."""
    spread = float(y.std())
    return float(x.std()) / spread if spread > 0 else 1.0
