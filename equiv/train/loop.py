"""The training loop. It knows a model by its interface only."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from equiv.errors import EquivError
from equiv.graph import collate
from equiv.models.interface import Model
from equiv.train.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from equiv.train.console import RunConsole
from equiv.train.ema import MovingAverage, copy_weights, weights_of
from equiv.train.interrupt import Interruption
from equiv.train.log import RunLog
from equiv.train.loss import EnergyForcesStressLoss, LossWeights
from equiv.train.metrics import ErrorSum, Metrics, batch_errors, evaluate_model
from equiv.train.optimizer import build_optimizer
from equiv.train.randomness import random_tensors, restore_random
from equiv.train.recipe import TrainRecipe
from equiv.train.sampler import EdgeBudgetSampler
from equiv.train.schedule import Schedule

COLUMNS = ["epoch", "step", "time_s", "learning_rate", "energy_weight", "loss", "train_energy_rmse", "train_forces_rmse", "train_stress_rmse", "valid_energy_mae", "valid_energy_rmse", "valid_forces_mae", "valid_forces_rmse", "valid_stress_mae", "valid_stress_rmse", "score", "gradient_norm", "best"]


class NonFiniteLoss(EquivError):
    """The loss or its gradient is no longer a number.

    Attributes:
        indices: positions in the training set of the structures to blame.
    """

    def __init__(self, message: str, indices: list[int]) -> None:
        super().__init__(message)
        self.indices = indices


@dataclass(frozen=True)
class Learned:
    """Which labels are learned, and the natural size of each: the root mean square of the training labels.

    Attributes:
        energy: of the energy per atom minus reference energies and mean, eV/atom; None if energies are not learned.
        forces: eV/Angstrom, or None.
        stress: eV/Angstrom^3, or None.
    """

    energy: float | None
    forces: float | None
    stress: float | None

    def score(self, metrics: Metrics) -> float:
        """The mean of the relative errors (RMSE over natural size) of what is learned: the number that picks the best epoch."""
        sizes = {"energy_per_atom": self.energy, "forces": self.forces, "stress": self.stress}
        parts = [
            metrics[name].rmse / size
            for name, size in sizes.items()
            if size is not None and metrics[name].count
        ]
        return sum(parts) / len(parts) if parts else math.nan


@dataclass
class Position:
    """Where a run stands: all of its state that is not a tensor.

    Attributes:
        epoch: the present epoch, from 0.
        cursor: batches of it that are done.
        step: optimizer steps done since the beginning.
        elapsed: seconds of training, all resumed pieces together.
        best_score: the best validation score.
        best_epoch: the epoch that reached it.
        waiting: epochs since then.
        loss: sum of the losses of the present epoch.
        gradient: sum of their gradient norms.
        errors: running error sums of the present epoch.
        finished: why the run is over; None while it is not.
    """

    epoch: int = 0
    cursor: int = 0
    step: int = 0
    elapsed: float = 0.0
    best_score: float = math.inf
    best_epoch: int = -1
    waiting: int = 0
    loss: float = 0.0
    gradient: float = 0.0
    errors: dict[str, ErrorSum] = field(default_factory=dict)
    finished: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Position":
        """The inverse of `to_dict`."""
        errors = {name: ErrorSum(**sums) for name, sums in values["errors"].items()}
        return cls(**{**values, "errors": errors})


class Trainer:
    """Train a model until the recipe says it is enough, ready to be stopped after any step.

    Args:
        model: the model, with its first weights.
        recipe: how to train; nothing in it may be `auto` except `epochs` together with `max_time`.
        train: labelled training graphs.
        valid: labelled validation graphs.
        learned: what is learned.
        folder: where log and checkpoints go.
        console: what the user sees.
        extra: further JSON-able state for the checkpoint, such as the recipe and the fingerprint of the data.
    """

    def __init__(
        self,
        model: Model,
        recipe: TrainRecipe,
        *,
        train: Sequence[Any],
        valid: Sequence[Any],
        learned: Learned,
        folder: Path,
        console: RunConsole,
        extra: dict[str, Any],
    ) -> None:
        self.model, self.recipe, self.learned = model, recipe, learned
        self.train_graphs, self.valid_graphs = list(train), list(valid)
        self.folder, self.console, self.extra = folder, console, extra
        if recipe.batch_edges == "auto":
            raise ValueError("batch_edges must be resolved before training")
        self.sampler = EdgeBudgetSampler(
            [int(graph.senders.shape[0]) for graph in train],
            max_edges=recipe.batch_edges,
            max_structures=recipe.batch_size,
            seed=recipe.seed,
        )
        self.parameters = {
            name: value for name, value in model.named_parameters() if value.requires_grad
        }
        self.names = {value: name for name, value in self.parameters.items()}
        self.optimizer = build_optimizer(self.parameters, recipe)
        self.average = MovingAverage(model, recipe.ema_decay)
        self.schedule = Schedule(recipe)
        self.criterion = EnergyForcesStressLoss(
            recipe.loss,
            delta=recipe.huber_delta,
            energy=learned.energy is not None,
            forces=learned.forces is not None,
            stress=learned.stress is not None,
        )
        self.log = RunLog(folder, COLUMNS)
        self.position = Position()
        self.best = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.interruption = Interruption()
        self._last_saved = monotonic()
        self._seconds_per_step: float | None = None
        self._log_lengths = [0, 0]

    # -- the loop -------------------------------------------------------------------------------------------------

    def fit(self) -> str:
        """Train; the reason why it ended: `epochs`, `max_time`, `patience`, or `interrupted by SIGTERM` and the like.

        Raises:
            NonFiniteLoss: the loss or its gradient is NaN or infinite; the last checkpoint is from before that.
        """
        position = self.position
        self.log.cut(self._log_lengths)
        self.log.event(
            "start" if position.step == 0 else "resume",
            {"epoch": position.epoch, "step": position.step},
        )
        position.finished = None
        with self.interruption.watched(), self.console.live():
            clock = monotonic() - position.elapsed
            while position.finished is None:
                batches = self.sampler.batches(position.epoch)
                while position.cursor < len(batches):
                    started = monotonic()
                    self._step(batches[position.cursor], len(batches))
                    position.elapsed = monotonic() - clock
                    self._clocked(monotonic() - started)
                    left = self._time_left(len(batches))
                    self.console.step(
                        position.epoch,
                        position.cursor,
                        len(batches),
                        speed=self._seconds_per_step,
                        left=left,
                    )
                    if self.interruption:
                        self.save()
                        return f"interrupted by {self.interruption.name}"
                    if self._out_of_time():
                        break
                    if monotonic() - self._last_saved >= self.recipe.checkpoint_interval:
                        self.save()
                self._end_epoch(len(batches))
                position.elapsed = monotonic() - clock
                if position.finished is not None or monotonic() - self._last_saved >= min(
                    self.recipe.checkpoint_interval, 5.0
                ):
                    self.save()
                if self.interruption and position.finished is None:
                    self.save()
                    return f"interrupted by {self.interruption.name}"
        assert position.finished is not None
        return position.finished

    def rehearse(self) -> int:
        """Run the heaviest possible batch forward and backward, so that a lack of memory shows now and not in an hour.

        Nothing is changed by it: no weight, no random state. Returns its number of edges.
        """
        largest = self.sampler.largest()
        before = random_tensors()
        self._loss(self._batch(largest), self._weights(0.0))[0].backward()
        self.optimizer.zero_grad(set_to_none=True)
        restore_random(before)
        return int(self.sampler.num_edges[largest].sum())

    def _step(self, indices: list[int], num_batches: int) -> None:
        position = self.position
        progress = self._progress(num_batches)
        learning_rate = self.schedule.learning_rate(position.step, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        batch = self._batch(indices)
        self.optimizer.zero_grad(set_to_none=True)
        loss, prediction = self._loss(batch, self._weights(progress))
        value = loss.item()
        norm = math.nan
        if math.isfinite(value):
            loss.backward()
            limit = self.recipe.clip_gradient
            norm = torch.nn.utils.clip_grad_norm_(
                list(self.parameters.values()), math.inf if limit is None else limit
            ).item()
        if not math.isfinite(norm):
            self._blame(indices, value)
        self.optimizer.step()
        self.average.update()
        position.step += 1
        position.cursor += 1
        self.model.advance(position.step)
        position.loss += value
        position.gradient += norm
        for name, rows in batch_errors(prediction, batch).items():
            position.errors.setdefault(name, ErrorSum()).add(rows.error)

    def _loss(self, batch: Any, weights: LossWeights) -> tuple[Tensor, Any]:
        self.model.train()
        prediction = self.model(
            batch, forces=self.learned.forces is not None, stress=self.learned.stress is not None
        )
        loss = self.criterion(prediction, batch, weights)
        for term in self.model.loss_terms(prediction, batch).values():
            loss = loss + term
        return loss, prediction

    def _batch(self, indices: list[int]) -> Any:
        return collate([self.train_graphs[i] for i in indices]).to(self.model.device)

    def _weights(self, progress: float) -> LossWeights:
        recipe = self.recipe
        return LossWeights(
            self.schedule.energy_weight(progress), recipe.forces_weight, recipe.stress_weight
        )

    def _end_epoch(self, num_batches: int) -> None:
        """Validate, remember the best, write the log, and see whether it is enough."""
        position, recipe = self.position, self.recipe
        done = max(position.cursor, 1)
        with self.average.applied():
            metrics = evaluate_model(self.model, self.valid_graphs) if self.valid_graphs else None
            score = math.nan if metrics is None else self.learned.score(metrics)
            best = score < position.best_score or metrics is None
            if best:
                position.best_score = score if metrics is not None else math.inf
                position.best_epoch, position.waiting = position.epoch, 0
                self.best = {
                    name: value.detach().clone() for name, value in self.parameters.items()
                }
            else:
                position.waiting += 1
        self.schedule.validated(score)
        progress = self._progress(num_batches)
        row: dict[str, Any] = {
            "epoch": position.epoch,
            "step": position.step,
            "time_s": position.elapsed,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "energy_weight": self.schedule.energy_weight(progress),
            "loss": position.loss / done,
            "score": score,
            "gradient_norm": position.gradient / done,
            "best": int(best),
        }
        for name, short in (
            ("energy_per_atom", "energy"),
            ("forces", "forces"),
            ("stress", "stress"),
        ):
            if (sums := position.errors.get(name)) is not None and sums.count:
                row[f"train_{short}_rmse"] = sums.rmse
            if metrics is not None and metrics[name].count:
                row[f"valid_{short}_mae"], row[f"valid_{short}_rmse"] = (
                    metrics[name].mae,
                    metrics[name].rmse,
                )
        self.log.row(row)
        position.epoch, position.cursor = position.epoch + 1, 0
        position.loss, position.gradient, position.errors = 0.0, 0.0, {}
        self.console.row(row, left=self._time_left(num_batches), best=best)
        if recipe.epochs != "auto" and position.epoch >= recipe.epochs:
            position.finished = "epochs"
        elif self._out_of_time():
            position.finished = "max_time"
        elif recipe.patience is not None and position.waiting >= recipe.patience:
            position.finished = "patience"

    # -- time -----------------------------------------------------------------------------------------------------

    def _progress(self, num_batches: int) -> float:
        """The share of the training that is done: by epochs if their number is given, else by the clock."""
        position, recipe = self.position, self.recipe
        if recipe.epochs != "auto":
            return (position.epoch + position.cursor / num_batches) / recipe.epochs
        assert recipe.max_time is not None
        return position.elapsed / recipe.max_time

    def _out_of_time(self) -> bool:
        return self.recipe.max_time is not None and self.position.elapsed >= self.recipe.max_time

    def _time_left(self, num_batches: int) -> float | None:
        """Seconds until the end at the present speed, validation included."""
        position, recipe = self.position, self.recipe
        left = math.inf
        if recipe.max_time is not None:
            left = recipe.max_time - position.elapsed
        if recipe.epochs != "auto" and position.step > 1:
            share = self._progress(num_batches)
            left = min(left, position.elapsed * (1 - share) / share) if share > 0 else left
        return max(left, 0.0) if math.isfinite(left) else None

    def _clocked(self, seconds: float) -> None:
        mean = self._seconds_per_step
        self._seconds_per_step = seconds if mean is None else 0.95 * mean + 0.05 * seconds

    # -- trouble --------------------------------------------------------------------------------------------------

    def _blame(self, indices: list[int], value: float) -> None:
        """Find the structures of the batch whose own loss or gradient is not finite, and stop."""
        guilty = []
        for index in indices:
            self.optimizer.zero_grad(set_to_none=True)
            loss, _ = self._loss(self._batch([index]), self._weights(0.0))
            if math.isfinite(loss.item()):
                loss.backward()
                gradients = [
                    value.grad for value in self.parameters.values() if value.grad is not None
                ]
                if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
                    continue
            guilty.append(index)
        position = self.position
        what = (
            f"the loss became {value}"
            if not math.isfinite(value)
            else "the gradient of the loss is not finite"
        )
        everyone = (
            ""
            if guilty and len(guilty) < len(indices)
            else " (every structure of the batch: the weights have diverged)"
        )
        raise NonFiniteLoss(
            f"{what} in epoch {position.epoch}, step {position.step}{everyone}; "
            "check these structures, or lower train.learning_rate",
            guilty or indices,
        )

    # -- state ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint."""
        tensors: dict[str, Tensor] = {}
        parts: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "average": self.average.average,
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer, self.names),
            "random": random_tensors(),
        }
        for part, named in parts.items():
            tensors |= {f"{part}/{name}": value for name, value in named.items()}
        state = {
            "position": self.position.to_dict(),
            "average_steps": self.average.steps,
            "schedule": self.schedule.state_dict(),
            "log_lengths": self.log.lengths(),
            **self.extra,
        }
        save_checkpoint(self.folder, Checkpoint(tensors, state))
        self._last_saved = monotonic()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Rows of the log behind it are removed once training really goes on."""
        state = checkpoint.state
        self.model.load_state_dict(checkpoint.part("model"), strict=True)
        for target, part in ((self.average.average, "average"), (self.best, "best")):
            for name, value in checkpoint.part(part).items():
                target[name] = value.to(self.model.device)
        restore_optimizer(self.optimizer, checkpoint.part("optimizer"), self.parameters)
        self.average.steps = state["average_steps"]
        self.schedule.load_state_dict(state["schedule"])
        self.position = Position.from_dict(state["position"])
        self._log_lengths = state["log_lengths"]
        self.model.advance(self.position.step)
        restore_random(checkpoint.part("random"))
        self._last_saved = monotonic()

    def use_best(self) -> None:
        """Leave the weights of the best epoch in the model."""
        copy_weights(self.best, self.parameters)

    def with_best(self) -> Any:
        """A context in which the model has the weights of the best epoch."""
        return weights_of(self.parameters, self.best)
