r"""Where particles will be: position-orientation layers between which the particles move."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.data.particles import ParticleBatch
from equiv.errors import EquivError
from equiv.models.abstract import AbstractModel
from equiv.models.moving_kernel import MovingKernel
from equiv.position_orientation import (
    Channels,
    FiberConvolution,
    LogRadialBasis,
    lift,
    orientation_grid,
    readout,
)
from equiv.position_orientation.block import OrientationBlock
from equiv.so3.rotations import random_rotations


class Forecaster(AbstractModel):
    r"""Positions of particles a fixed time from now.

    .. math::
        f^0 = E\, \mathrm{lift}(v), \qquad f^{t+1} = \mathrm{block}_t(f^t;\, x^s, v^s), \qquad
        v^{s+1} = v^s + a^s, \qquad x^{s+1} = x^s + h\,(v^{s+1} + u^s), \qquad h = T / S

    Features are functions of an orientation at every particle, the blocks those of
    :class:`equiv.position_orientation.OrientationNetwork`. After every few of them the vectors
    :math:`(a, u)` are read out and the particles move: there are :math:`S` stages, and with one the
    forecast is :math:`x + T(v + a + u)`, as in the published network. Both are zero at birth, when
    particles fly on undisturbed.

    Exact by construction: translations, permutations, boosts (a common velocity), the exchange of
    positive and negative charge, and, if ``conserve_momentum``, the motion of the centre of equal
    masses. Rotations and reflections are exact for those of the grid and approximate for others.
    Particles of a system all see each other.

    Args:
        horizon: :math:`T`, the time to forecast, in units of length over velocity.
        grid: orientations, by name.
        degree: highest degree of the kernel, odd.
        channels: of the features.
        layers: blocks in each stage.
        stages: :math:`S`.
        shared: whether all stages have the same weights, as a law of motion would.
        num_radial: bumps of the logarithm of the distance.
        shortest: distance at which they begin.
        longest: distance at which they end.
        radial_hidden: widths of the radial perceptrons.
        widening: hidden over plain channels of the blocks' perceptrons.
        layer_scale: of the residual branches at birth; None for none.
        mean_neighbors: messages are divided by its root.
        conserve_momentum: whether the sums of :math:`a` and :math:`u` over a system are zero.
        average: forecasts (not those in training) are the mean over this many orientations of the
            grid, the first of which is the grid as it is: rotations are respected better, and
            errors are smaller. Cost is in proportion.
    """

    name: ClassVar[str] = "forecaster"
    units: Mapping[str, str] = {"length": "that of the data", "time": "that of the data"}

    def __init__(
        self,
        *,
        horizon: float,
        grid: str = "icosahedron",
        degree: int = 3,
        channels: int = 32,
        layers: int = 1,
        stages: int = 4,
        shared: bool = False,
        num_radial: int = 12,
        shortest: float = 0.05,
        longest: float = 8.0,
        radial_hidden: Sequence[int] = (64,),
        widening: int = 4,
        layer_scale: float | None = None,
        mean_neighbors: float = 4.0,
        conserve_momentum: bool = True,
        average: int = 1,
    ) -> None:
        super().__init__()
        self.recipe = {
            "horizon": horizon,
            "grid": grid,
            "degree": degree,
            "channels": channels,
            "layers": layers,
            "stages": stages,
            "shared": shared,
            "num_radial": num_radial,
            "shortest": shortest,
            "longest": longest,
            "radial_hidden": list(radial_hidden),
            "widening": widening,
            "layer_scale": layer_scale,
            "mean_neighbors": mean_neighbors,
            "conserve_momentum": conserve_momentum,
            "average": average,
        }
        if degree < 1 or degree % 2 == 0:
            raise EquivError(f"Forecaster: degree must be odd, got {degree}")
        if min(stages, layers, average) < 1:
            raise EquivError(
                "Forecaster: needs at least one stage, layer and orientation to average over, got "
                f"{stages}, {layers} and {average}"
            )
        self.horizon, self.num_stages = horizon, stages
        self.conserve_momentum = conserve_momentum
        self.grid = orientation_grid(grid)
        generator = torch.Generator().manual_seed(0)
        turns = random_rotations(average, generator=generator)
        turns[0] = torch.eye(3)
        self.turns: tuple[Tensor, ...] = tuple(turns)
        radial = LogRadialBasis(num_radial, shortest, longest)
        self.kernel = MovingKernel(degree, radial, tuple(radial_hidden))
        different = 1 if shared else stages
        self.embeddings = nn.ModuleList(nn.Linear(3, channels) for _ in range(different))
        self.stages = nn.ModuleList(
            nn.ModuleList(
                OrientationBlock(
                    self.kernel.convolution(channels, mean_neighbors),
                    FiberConvolution(channels, self.kernel.fiber_size),
                    channels,
                    widening=widening,
                    layer_scale=layer_scale,
                )
                for _ in range(layers)
            )
            for _ in range(different)
        )
        self.outputs = Channels(vectors=2)
        self.readouts = nn.ModuleList(
            nn.Linear(channels, self.outputs.total) for _ in range(different)
        )
        for parameter in self.readouts.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, batch: ParticleBatch, *, average: int | None = None
    ) -> Float[Tensor, "particles 3"]:
        """Positions after :attr:`horizon`, in the dtype of the batch.

        Args:
            batch: the systems.
            average: over how many of the orientations to average; all of them by default, and one
                in training mode.
        """
        turns = self.turns[: 1 if self.training else average]
        if len(turns) == 1:
            return self._forecast(batch)
        total = torch.zeros_like(batch.positions)
        for turn in turns:
            r = turn.to(batch.positions)
            positions, velocities = batch.positions @ r.T, batch.velocities @ r.T
            moved = replace(batch, positions=positions, velocities=velocities)
            total = total + self._forecast(moved) @ r
        return total / len(turns)

    def _forecast(self, batch: ParticleBatch) -> Float[Tensor, "particles 3"]:
        """The same with the grid as it is."""
        drift = batch.mean(batch.velocities)[batch.batch]
        positions, velocities = batch.positions, batch.velocities - drift
        first, second = batch.neighbors.first, batch.neighbors.second
        charges = (batch.charges[first] * batch.charges[second]).to(self.dtype)
        fiber, weights = self.kernel.fiber(self.grid), self.grid.weights
        step = self.horizon / self.num_stages
        features: Any = 0.0
        start = positions
        parts = list(zip(self.embeddings, self.stages, self.readouts, strict=True))
        for s in range(self.num_stages):
            embedding, blocks, read = parts[s % len(parts)]
            vectors = (positions[second] - positions[first]).to(self.dtype)
            relative = (velocities[second] - velocities[first]).to(self.dtype)
            samples = self.kernel.pairs(vectors, relative, charges, self.grid)
            given = torch.stack([velocities, positions - start], 1).to(self.dtype)
            speed = given[:, 0].square().sum(-1, keepdim=True)
            lifted = lift(self.grid, torch.log1p(speed), given)
            features = features + embedding(lifted)
            for block in blocks.children():
                features = block(features, samples, fiber, weights, batch.neighbors)
            moves = readout(self.grid, read(features), self.outputs).vectors
            if self.conserve_momentum:
                moves = moves - batch.mean(moves)[batch.batch]
            kick, shift = moves.to(positions.dtype).unbind(1)
            velocities = velocities + kick
            positions = positions + step * (velocities + shift)
        return positions + self.horizon * drift

    @classmethod
    def construction_size(cls, recipe: dict[str, Any]) -> int:
        """The grid is all there is, and it is small."""
        return 0
