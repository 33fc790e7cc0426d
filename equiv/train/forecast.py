"""The task of a forecaster: positions of particles after a given time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.data.particles import ParticleBatch, Particles, collate_particles, read_particles
from equiv.models import build_model
from equiv.models.abstract import AbstractModel
from equiv.so3.rotations import random_rotations
from equiv.train.automatic import automatic_epochs
from equiv.train.console import RunConsole
from equiv.train.device import choose_device
from equiv.train.errors import Metrics, Rows
from equiv.train.evaluation import Evaluation, compare
from equiv.train.holdout import held_out
from equiv.train.quantity import Quantity
from equiv.train.recipe_forecast import (
    ForecastDataRecipe,
    ForecasterRecipe,
    ForecastRecipe,
    ForecastTrainRecipe,
)
from equiv.train.sampler import automatic_edge_budget
from equiv.train.task import Split, Task

AT_ONCE = 128  # systems in a batch of an evaluation
QUANTITIES = (
    Quantity(
        "positions",
        "x",
        "position",
        statistics=("mse", "mae"),
        headline="mse",
        title="Coordinates",
    ),
    Quantity(
        "turned",
        "x turned",
        "position in a turned frame",
        statistics=("mse", "mae"),
        headline="mse",
        logged=False,
    ),
    Quantity(
        "equivariance",
        "turning",
        "change of the forecast by turning the frame",
        statistics=("mse", "mae"),
        headline="mse",
        logged=False,
    ),
)
"""Errors of coordinates, the same with inputs turned at random, and what turning changes."""


@dataclass(frozen=True)
class Forecast:
    """What is compared with the targets.

    Attributes:
        positions: as forecast.
        turned: forecast for inputs that were turned at random, and turned back; or None.
    """

    positions: Float[Tensor, "particles 3"]
    turned: Float[Tensor, "particles 3"] | None = None


class ForecastTask(Task[ForecastRecipe]):
    r"""Learn where particles will be.

    .. math::
        L = \big\langle h(\hat x_{ia} - x_{ia}) \big\rangle_{ia}, \qquad h(e) = e^2

    or Huber's penalty. Every training batch is turned and reflected at random, which makes no
    difference for an exactly equivariant model and teaches the others. The score is the mean square
    error of a coordinate, the number that the field reports.

    Args:
        recipe: the recipe as resolved.
        train: the training set.
        valid: the validation set.
        tests: the test sets.
    """

    quantities = QUANTITIES
    scored = ("positions",)
    noun = "of particles"
    samples = "systems"

    def __init__(
        self, recipe: ForecastRecipe, train: Split, valid: Split, tests: list[Split]
    ) -> None:
        self.recipe, self.train, self.valid, self.tests = recipe, train, valid, tests
        self.device = choose_device(recipe.train.device)
        self.thorough = True

    @classmethod
    def prepare(cls, recipe: ForecastRecipe, console: RunConsole) -> Self:
        """Read the systems, and settle epochs and batches."""
        data, train = recipe.data, recipe.train
        splits = {"train": read_split("train", recipe.paths(data.train))}
        if data.valid is not None:
            splits["valid"] = read_split("valid", recipe.paths(data.valid))
        else:
            fraction = data.valid_fraction
            splits["train"], splits["valid"] = held_out(splits["train"], fraction, train.seed)
        tests = [read_split(name, files) for name, files in recipe.test_sets().items()]
        listed = [*splits.values(), *tests]
        counts = " / ".join(f"{len(split.samples)} {split.name}" for split in listed)
        console.fact("data", f"systems of particles: {counts}")
        sizes = [_pairs(sample) for sample in splits["train"].samples]
        changes = automatic_epochs(train, len(sizes), console)
        if train.batch_edges == "auto":
            changes["batch_edges"] = automatic_edge_budget(sizes, train.batch_size)
        settled = recipe.model_copy(update={"train": train.model_copy(update=changes)})
        return cls(settled, splits["train"], splits["valid"], tests)

    @classmethod
    def for_model(
        cls, model: AbstractModel, files: Sequence[str], recipe: Mapping[str, Any]
    ) -> Self:
        """A task whose training set are these files."""
        section = ForecasterRecipe(**model.recipe)
        settled = ForecastRecipe(
            data=ForecastDataRecipe(train=list(files)),
            model=section,
            train=ForecastTrainRecipe(device=str(model.device)),
        )
        nothing = Split("valid", [], [], [], "")
        return cls(settled, read_split("train", list(map(Path, files))), nothing, [])

    def build_model(self) -> AbstractModel:
        """The untrained forecaster."""
        section, train = self.recipe.model, self.recipe.train
        arguments = section.model_dump(exclude={"name"})
        dtype = getattr(torch, train.dtype)
        return build_model(section.name, seed=train.seed, dtype=dtype, **arguments).to(self.device)

    def facts(self, model: AbstractModel) -> list[tuple[str, str]]:
        """Model and loss in a line each."""
        train = self.recipe.train
        kind = f"huber (delta {train.huber_delta:g})" if train.loss == "huber" else "mse"
        turned = ", batches turned and reflected at random" if train.turn else ""
        return [*super().facts(model), ("loss", f"{kind} of a coordinate{turned}")]

    def size(self, sample: Particles) -> int:
        """Directed pairs of particles."""
        return _pairs(sample)

    def collate(self, samples: Sequence[Particles]) -> ParticleBatch:
        """Several systems as one."""
        return collate_particles(samples)

    def predict(self, model: Any, batch: ParticleBatch) -> Forecast:
        """The forecast; in an evaluation also that for a turned system."""
        with torch.no_grad():
            if not self.thorough:
                return Forecast(model(batch, average=1))
            positions = model(batch)
            generator = torch.Generator().manual_seed(len(batch.charges))
            turn = random_rotations(generator=generator).to(batch.positions)
            return Forecast(positions, model(turned(batch, turn)) @ turn)

    def loss(
        self, model: Any, batch: ParticleBatch, progress: float
    ) -> tuple[Float[Tensor, ""], Forecast]:
        """The mean penalty of a coordinate."""
        train = self.recipe.train
        turn = torch.eye(3, dtype=batch.positions.dtype, device=batch.positions.device)
        if train.turn:
            mirrored = bool(torch.randint(2, ()))
            turn = random_rotations(generator=torch.default_generator, improper=mirrored).to(turn)
        positions = model(turned(batch, turn)) @ turn
        error = positions - batch.targets
        if train.loss == "mse":
            loss = error.square().mean()
        else:
            zero = torch.zeros_like(error)
            loss = nn.functional.huber_loss(error, zero, delta=train.huber_delta)
        return loss, Forecast(positions.detach())

    def errors(self, prediction: Forecast, batch: ParticleBatch) -> dict[str, Rows]:
        """Forecast minus target, and with a second forecast also what turning changes."""
        found = {"positions": Rows(prediction.positions - batch.targets, batch.batch)}
        if prediction.turned is not None:
            found["turned"] = Rows(prediction.turned - batch.targets, batch.batch)
            change = prediction.turned - prediction.positions
            found["equivariance"] = Rows(change, batch.batch)
        return found

    def pairs(
        self, prediction: Forecast, batch: ParticleBatch
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Coordinates."""
        return {"positions": (batch.targets, prediction.positions)}

    def validate(self, model: AbstractModel, *, batch_edges: int | None = None) -> Metrics:
        """Errors on the validation set, without turning it."""
        self.thorough = False
        try:
            return super().validate(model, batch_edges=batch_edges)
        finally:
            self.thorough = True

    def evaluate(
        self,
        model: AbstractModel,
        samples: Sequence[Any],
        *,
        groups: Sequence[str] | None = None,
        batch_edges: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Predict systems and compare; many at once, since they are small."""
        edges = batch_edges or AT_ONCE * max(map(self.size, samples), default=1)
        options = {"groups": groups, "batch_edges": edges, "progress": progress}
        return compare(self, model, samples, batch_samples=AT_ONCE, **options)

    def card(self) -> dict[str, Any]:
        """What the numbers mean."""
        return {"horizon": self.recipe.model.horizon}


def read_split(name: str, files: list[Path]) -> Split:
    """One set of systems."""
    samples, names, fingerprint = read_particles(files)
    return Split(name, samples, names, ["default"] * len(samples), fingerprint)


def turned(batch: ParticleBatch, turn: Float[Tensor, "3 3"]) -> ParticleBatch:
    """The batch in a turned frame, targets left alone."""
    return replace(batch, positions=batch.positions @ turn.T, velocities=batch.velocities @ turn.T)


def _pairs(sample: Particles) -> int:
    return len(sample.charges) * (len(sample.charges) - 1)
