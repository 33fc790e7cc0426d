"""The training loop. It knows a model by its interface, and what it learns by its task, only."""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from equiv.models.abstract import AbstractModel
from equiv.train.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from equiv.train.console import RunConsole
from equiv.train.ema import MovingAverage, weights_of
from equiv.train.errors import ErrorSum, Metrics
from equiv.train.evaluation import EVALUATION_BATCH
from equiv.train.interrupt import Interruption
from equiv.train.log import RunLog
from equiv.train.optimizer import build_optimizer
from equiv.train.quantity import Quantity
from equiv.train.randomness import random_tensors, restore_random
from equiv.train.sampler import EdgeBudgetSampler
from equiv.train.schedule import Schedule
from equiv.train.state import NotANumber, Position
from equiv.train.task import Step, Task

LEAST_PAUSE = 5.0  # seconds between the checkpoints of very short epochs


class Trainer:
    """Train a model until the recipe says it is enough, ready to be stopped after any step.

    Args:
        model: the model, with its first weights.
        task: what is learned, from what, and how. Nothing in its recipe may be `auto` except
            `epochs`, and that only together with `max_time`.
        folder: where log and checkpoints go.
        console: what the user sees.
        extra: further JSON-able facts for the checkpoint.
    """

    def __init__(
        self,
        model: AbstractModel,
        task: Task[Any],
        *,
        folder: Path,
        console: RunConsole,
        extra: dict[str, Any],
    ) -> None:
        recipe = task.recipe.train
        if recipe.batch_edges == "auto" or (recipe.epochs == "auto" and recipe.max_time is None):
            raise ValueError("batch_edges, and epochs or max_time, must be known before training")
        self.model, self.task, self.recipe = model, task, recipe
        self.folder, self.console, self.extra = folder, console, extra
        self.sampler = EdgeBudgetSampler(
            [task.size(sample) for sample in task.train.samples],
            max_edges=recipe.batch_edges,
            max_structures=recipe.batch_size,
            seed=recipe.seed,
        )
        self.parameters = {
            name: value for name, value in model.named_parameters() if value.requires_grad
        }
        self.optimizer = build_optimizer(self.parameters, recipe, task.decays)
        self.average = MovingAverage(self.parameters, recipe.ema_decay)
        self.best = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.schedule = Schedule(recipe)
        self.step: Step = task.step(model)
        self.log = RunLog(folder, log_columns(task.quantities, task.log_values(0.0)))
        self.position = Position()
        self.interruption = Interruption()
        self._log_lengths = [0, 0]
        self._last_saved = monotonic()
        self._seconds_per_step: float | None = None

    def fit(self) -> str:
        """Train until it is enough or somebody says stop.

        Returns:
            `epochs`, `max_time`, `patience`, or `interrupted by SIGTERM` and the like; in the last
            case `position.finished` is None and the same call after `restore` goes on.

        Raises:
            NotANumber: the loss or its gradient is NaN or infinite; the last checkpoint is from
                before that.
        """
        position = self.position
        self.log.cut(self._log_lengths)
        place = {"epoch": position.epoch, "step": position.step}
        self.log.event("resume" if position.step else "start", place)
        position.finished = None
        with self.interruption.watched(), self.console.live():
            began = monotonic() - position.elapsed
            while position.finished is None:
                batches = self.sampler.batches(position.epoch)
                while position.cursor < len(batches) and not self._out_of_time():
                    started = monotonic()
                    self._step(batches[position.cursor], len(batches))
                    position.elapsed = monotonic() - began
                    self._show(monotonic() - started, len(batches))
                    if self.interruption:
                        break
                    self._save_after(self.recipe.checkpoint_interval)
                else:
                    self._end_epoch(len(batches))
                    position.elapsed = monotonic() - began
                    self._save_after(min(self.recipe.checkpoint_interval, LEAST_PAUSE))
                if self.interruption and position.finished is None:
                    self.save()
                    return f"interrupted by {self.interruption.name}"
        self._report_graphs()
        self.save()
        return position.finished

    def rehearse(self) -> int:
        """Run the heaviest possible batch forward and backward; its number of edges.

        A lack of memory shows now and not in an hour. No weight and no random state is changed.
        """
        largest = self.sampler.largest()
        before = random_tensors()
        self.task.step(self.model)(self._batch(largest), 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        restore_random(before)
        return int(self.sampler.num_edges[largest].sum())

    def reason_not_to_compile(self) -> str | None:
        """Why compiling does not pay; a matter of recipe and data alone, equal in a resumed run."""
        epochs = 1 if self.recipe.epochs == "auto" else self.recipe.epochs
        return self.task.reason_not_to_compile(epochs * len(self.sampler.batches(0)))

    def compile(self) -> None:
        """Compute steps, and validation if that is long enough, by compiled code.

        The largest batch goes first, so that the same run is compiled in the same way after a
        resume. Where it cannot be done the user is told why, and nothing changes.
        """
        before = random_tensors()
        largest = self._batch(self.sampler.largest())
        step = self.task.compiled_step(self.model, largest, self._report_compile)
        self.optimizer.zero_grad(set_to_none=True)
        restore_random(before)
        if step is not None:
            self.step = step

    def _report_graphs(self) -> None:
        """How many graphs it took, for user and log."""
        counts = self.task.compiled_graphs(self.step)
        if not counts:
            return
        self.log.event("compiled", counts)
        self._report_compile(
            f"{counts['graphs']} graphs for the training step ({counts['built']} built now, "
            f"{counts['loaded']} from earlier runs); {counts['batches']} batches computed by them"
        )

    def _report_compile(self, text: str) -> None:
        self.console.fact("compile", text)

    @property
    def evaluation_edges(self) -> int | None:
        """The most edges to predict at once: limited if the training batches are small."""
        small = self.recipe.batch_size < EVALUATION_BATCH
        return self.sampler.max_edges if small else None

    def with_best(self) -> AbstractContextManager[None]:
        """A context in which the model has the weights of the best epoch."""
        return weights_of(self.parameters, self.best)

    def save(self) -> None:
        """Write a checkpoint."""
        names: dict[Tensor, str] = {value: name for name, value in self.parameters.items()}
        parts: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "average": self.average.average,
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer, names),
            "random": random_tensors(),
        }
        tensors = {
            f"{part}/{name}": value
            for part, named in parts.items()
            for name, value in named.items()
        }
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
        """Continue from a checkpoint. Rows of the log behind it go when training goes on."""
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

    def _step(self, indices: list[int], num_batches: int) -> None:
        position = self.position
        progress = self._progress(num_batches)
        position.learning_rate = self.schedule.learning_rate(position.step, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = position.learning_rate
        batch = self._batch(indices)
        loss, prediction = self.step(batch, progress)
        value, norm = loss.item(), math.nan
        if math.isfinite(value):
            limit = math.inf if self.recipe.clip_gradient is None else self.recipe.clip_gradient
            norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit).item()
        if not math.isfinite(norm):
            self._blame(indices, value)
        self.optimizer.step()
        self.average.update()
        position.step += 1
        position.cursor += 1
        self.model.advance(position.step)
        position.loss += value
        position.gradient += norm
        for name, rows in self.task.errors(prediction, batch).items():
            position.errors.setdefault(name, ErrorSum()).add(rows.error)

    def _batch(self, indices: list[int]) -> Any:
        samples = self.task.train.samples
        return self.task.collate([samples[i] for i in indices]).to(self.model.device)

    def _end_epoch(self, num_batches: int) -> None:
        """Validate, remember the best, write the log, and see whether it is enough."""
        position, recipe = self.position, self.recipe
        metrics, score = None, math.nan
        with self.average.applied():
            if self.task.valid.samples:
                metrics = self.task.validate(self.model, batch_edges=self.evaluation_edges)
                score = self.task.score(metrics)
            if self.model.stage != position.best_stage:
                position.best_score, position.best_stage = math.inf, self.model.stage
            best = score < position.best_score or metrics is None
            if best:
                self.best = {
                    name: value.detach().clone() for name, value in self.parameters.items()
                }
        if best:
            position.best_score = math.inf if metrics is None else score
            position.best_epoch, position.waiting = position.epoch, 0
        else:
            position.waiting += 1
        self.schedule.validated(score)
        row = self._row(metrics, score, best, num_batches)
        self.log.row(row)
        position.next_epoch()
        self.console.row(row, left=self._time_left(num_batches), best=best)
        if recipe.epochs != "auto" and position.epoch >= recipe.epochs:
            position.finished = "epochs"
        elif self._out_of_time():
            position.finished = "max_time"
        elif recipe.patience is not None and position.waiting >= recipe.patience:
            position.finished = "patience"

    def _row(
        self, metrics: Metrics | None, score: float, best: bool, num_batches: int
    ) -> dict[str, Any]:
        """The log row of the epoch that ends now."""
        position = self.position
        done = max(position.cursor, 1)
        row: dict[str, Any] = {
            "epoch": position.epoch,
            "step": position.step,
            "time_s": position.elapsed,
            "learning_rate": position.learning_rate,
            **self.task.log_values(self._progress(num_batches)),
            "loss": position.loss / done,
            "score": score,
            "gradient_norm": position.gradient / done,
            "best": int(best),
        }
        for quantity in logged(self.task.quantities):
            name = quantity.label
            sums = position.errors.get(quantity.name)
            if sums is not None and sums.count:
                row[f"train_{name}_{quantity.headline}"] = getattr(sums, quantity.headline)
            if metrics is not None and metrics[quantity.name].count:
                for statistic in quantity.statistics:
                    row[f"valid_{name}_{statistic}"] = getattr(metrics[quantity.name], statistic)
        return row

    def _progress(self, num_batches: int) -> float:
        """The share of the training that is done: of the epochs if they are given, else of time."""
        position, recipe = self.position, self.recipe
        if recipe.epochs != "auto":
            return (position.epoch + position.cursor / num_batches) / recipe.epochs
        assert recipe.max_time is not None
        return position.elapsed / recipe.max_time

    def _out_of_time(self) -> bool:
        return self.recipe.max_time is not None and self.position.elapsed >= self.recipe.max_time

    def _time_left(self, num_batches: int) -> float | None:
        """Seconds until the end at the mean speed so far, validation included."""
        position, recipe = self.position, self.recipe
        left = math.inf if recipe.max_time is None else recipe.max_time - position.elapsed
        done = self._progress(num_batches)
        if recipe.epochs != "auto" and done > 0:
            left = min(left, position.elapsed * (1 - done) / done)
        return max(left, 0.0) if math.isfinite(left) else None

    def _show(self, seconds: float, num_batches: int) -> None:
        """Move the progress bar; the speed is a running mean."""
        mean, position = self._seconds_per_step, self.position
        self._seconds_per_step = seconds if mean is None else 0.95 * mean + 0.05 * seconds
        self.console.step(
            position.epoch,
            position.cursor,
            num_batches,
            speed=self._seconds_per_step,
            left=self._time_left(num_batches),
        )

    def _save_after(self, interval: float) -> None:
        if monotonic() - self._last_saved >= interval:
            self.save()

    def _blame(self, indices: list[int], loss: float) -> None:
        """Find the structures of a batch whose own loss or gradient is not finite, and stop."""
        guilty = [index for index in indices if not self._harmless(index)]
        position = self.position
        what = "the gradient of the loss is not finite"
        if not math.isfinite(loss):
            what = f"the loss became {loss}"
        everyone = "" if 0 < len(guilty) < len(indices) else ", with every structure of the batch"
        raise NotANumber(
            f"{what} in epoch {position.epoch}, step {position.step}{everyone}",
            guilty or indices,
        )

    def _harmless(self, index: int) -> bool:
        """Whether the loss of one structure and its gradient are finite."""
        loss, _ = self.task.step(self.model)(self._batch([index]), 0.0)
        if not math.isfinite(loss.item()):
            return False
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def logged(quantities: Sequence[Quantity]) -> list[Quantity]:
    """The quantities that the log has columns for."""
    return [quantity for quantity in quantities if quantity.logged]


def log_columns(quantities: Sequence[Quantity], further: Iterable[str]) -> list[str]:
    """The columns of `log.csv`."""
    kept = logged(quantities)
    return [
        *("epoch", "step", "time_s", "learning_rate", *further, "loss"),
        *(f"train_{q.label}_{q.headline}" for q in kept),
        *(f"valid_{q.label}_{statistic}" for q in kept for statistic in q.statistics),
        *("score", "gradient_norm", "best"),
    ]
