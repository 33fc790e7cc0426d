"""The training loop. It knows a model by its interface only."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from equiv.graph import collate
from equiv.models.compiled.worth import worthwhile
from equiv.models.interface import Model
from equiv.train.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from equiv.train.console import RunConsole
from equiv.train.ema import MovingAverage, weights_of
from equiv.train.interrupt import Interruption
from equiv.train.log import RunLog
from equiv.train.loss import EnergyForcesStressLoss, LossWeights
from equiv.train.metrics import EVALUATION_BATCH, ErrorSum, Metrics, batch_errors, evaluate_model
from equiv.train.optimizer import build_optimizer
from equiv.train.randomness import random_tensors, restore_random
from equiv.train.recipe import TrainRecipe
from equiv.train.sampler import EdgeBudgetSampler
from equiv.train.schedule import Schedule
from equiv.train.state import Learned, NotANumber, Position
from equiv.train.step import CompiledStep, EagerStep, Step

COLUMNS = (
    "epoch",
    "step",
    "time_s",
    "learning_rate",
    "energy_weight",
    "loss",
    *("train_energy_rmse", "train_forces_rmse", "train_stress_rmse"),
    *("valid_energy_mae", "valid_energy_rmse", "valid_forces_mae", "valid_forces_rmse"),
    *("valid_stress_mae", "valid_stress_rmse"),
    "score",
    "gradient_norm",
    "best",
)
LONG_TIME = 600.0  # seconds of training that repay a compilation
LEAST_PAUSE = 5.0  # seconds between the checkpoints of very short epochs


class Trainer:
    """Train a model until the recipe says it is enough, ready to be stopped after any step.

    Args:
        model: the model, with its first weights.
        recipe: how to train. Nothing in it may be `auto` except `epochs`, and that only together
            with `max_time`.
        train: labelled training graphs.
        valid: labelled validation graphs; may be empty.
        learned: what is learned.
        folder: where log and checkpoints go.
        console: what the user sees.
        extra: further JSON-able facts for the checkpoint.
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
        if recipe.batch_edges == "auto" or (recipe.epochs == "auto" and recipe.max_time is None):
            raise ValueError("batch_edges, and epochs or max_time, must be known before training")
        self.model, self.recipe, self.learned = model, recipe, learned
        self.train_graphs, self.valid_graphs = list(train), list(valid)
        self.folder, self.console, self.extra = folder, console, extra
        self.sampler = EdgeBudgetSampler(
            [int(graph.senders.shape[0]) for graph in train],
            max_edges=recipe.batch_edges,
            max_structures=recipe.batch_size,
            seed=recipe.seed,
        )
        self.parameters = {
            name: value for name, value in model.named_parameters() if value.requires_grad
        }
        self.optimizer = build_optimizer(self.parameters, recipe)
        self.average = MovingAverage(self.parameters, recipe.ema_decay)
        self.best = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.schedule = Schedule(recipe)
        self.criterion = EnergyForcesStressLoss(
            recipe.loss,
            delta=recipe.huber_delta,
            energy=learned.energy is not None,
            forces=learned.forces is not None,
            stress=learned.stress is not None,
        )
        self.step: Step = EagerStep(model, self.criterion)
        self.log = RunLog(folder, COLUMNS)
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
        EagerStep(self.model, self.criterion)(self._batch(largest), self._weights(0.0))
        self.optimizer.zero_grad(set_to_none=True)
        restore_random(before)
        return int(self.sampler.num_edges[largest].sum())

    def too_short_to_compile(self) -> str | None:
        """Why compiling does not pay; a matter of recipe and data alone, equal in a resumed run."""
        recipe, graphs = self.recipe, self.train_graphs
        if self.model.device.type != "cpu":
            return "on a GPU that is done on request only"
        if recipe.epochs == "auto":
            assert recipe.max_time is not None
            short = recipe.max_time < LONG_TIME
            return f"{recipe.max_time:g} s are too short to repay it" if short else None
        batches = len(self.sampler.batches(0))
        atoms = sum(int(graph.num_nodes or 0) for graph in graphs) / batches
        steps = recipe.epochs * batches
        if worthwhile(steps, atoms):
            return None
        return f"{steps} steps of {atoms:.0f} atoms are too few to repay it"

    def compile(self) -> None:
        """Compute steps, and validation if that is long enough, by compiled code.

        The largest batch goes first, so that the same run is compiled in the same way after a
        resume. Where it cannot be done the user is told why, and nothing changes.
        """
        report, graphs = self._report_compile, self.train_graphs
        small = sorted(range(len(graphs)), key=lambda i: (int(graphs[i].num_nodes or 0), i))[:2]
        step = CompiledStep(EagerStep(self.model, self.criterion), self._batch(small), report)
        if not step.possible:
            return
        self.step = step
        before = random_tensors()
        step(self._batch(self.sampler.largest()), self._weights(0.0))
        self.optimizer.zero_grad(set_to_none=True)
        restore_random(before)
        if step.compiled_batches and self.learned.forces is not None:
            self.model.compile(report=report)
            evaluate_model(self.model, self.valid_graphs[:2])  # now, and not within an epoch

    def _report_graphs(self) -> None:
        """How many graphs it took, for user and log."""
        if not isinstance(self.step, CompiledStep):
            return
        programs, steps = self.step.programs, self.step.compiled_batches
        counts = {"graphs": programs.graphs, "built": programs.compiled, "loaded": programs.loaded}
        self.log.event("compiled", {**counts, "batches": steps})
        self._report_compile(
            f"{programs.graphs} graphs for the training step ({programs.compiled} built now, "
            f"{programs.loaded} from earlier runs); {steps} batches computed by them"
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
        loss, prediction = self.step(batch, self._weights(progress))
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
        for name, rows in batch_errors(prediction, batch).items():
            position.errors.setdefault(name, ErrorSum()).add(rows.error)

    def _batch(self, indices: list[int]) -> Any:
        return collate([self.train_graphs[i] for i in indices]).to(self.model.device)

    def _weights(self, progress: float) -> LossWeights:
        recipe = self.recipe
        energy = self.schedule.energy_weight(progress)
        return LossWeights(energy, recipe.forces_weight, recipe.stress_weight)

    def _end_epoch(self, num_batches: int) -> None:
        """Validate, remember the best, write the log, and see whether it is enough."""
        position, recipe = self.position, self.recipe
        metrics, score = None, math.nan
        with self.average.applied():
            if self.valid_graphs:
                metrics = evaluate_model(
                    self.model, self.valid_graphs, batch_edges=self.evaluation_edges
                )
                score = self.learned.score(metrics)
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
            "energy_weight": self.schedule.energy_weight(self._progress(num_batches)),
            "loss": position.loss / done,
            "score": score,
            "gradient_norm": position.gradient / done,
            "best": int(best),
        }
        for name in ("energy_per_atom", "forces", "stress"):
            short = name.removesuffix("_per_atom")
            sums = position.errors.get(name)
            if sums is not None and sums.count:
                row[f"train_{short}_rmse"] = sums.rmse
            if metrics is not None and metrics[name].count:
                row[f"valid_{short}_mae"] = metrics[name].mae
                row[f"valid_{short}_rmse"] = metrics[name].rmse
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
        eager = EagerStep(self.model, self.criterion)
        loss, _ = eager(self._batch([index]), self._weights(0.0))
        if not math.isfinite(loss.item()):
            return False
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
