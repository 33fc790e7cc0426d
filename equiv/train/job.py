"""A whole training run, from a recipe to a model with its errors, plots and report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from equiv import __version__
from equiv.atomic import write_bytes
from equiv.errors import EquivError, RecipeError
from equiv.models import AbstractModel
from equiv.train.checkpoint import Checkpoint, load_checkpoint
from equiv.train.console import RunConsole, clock
from equiv.train.loop import Trainer
from equiv.train.outcome import Outcome
from equiv.train.randomness import own_randomness, own_settings
from equiv.train.recipe import Recipe
from equiv.train.recipe_load import load_recipe
from equiv.train.state import NotANumber
from equiv.train.task import Task
from equiv.train.tasks import task_class

# What may change between a run and its continuation. Anything else would make it a different run.
MAY_CHANGE = (
    "train.epochs",
    "train.max_time",
    "train.patience",
    "train.checkpoint_interval",
    "train.threads",
    "train.compile",
    "card",
)
LOCK = ".lock"
# Where the data lie may change too: what counts is their content, and that has a fingerprint.
PLACES = ("data.train", "data.valid", "data.test", "train.start_from", "output")


@dataclass
class Result:
    """What a run leaves behind.

    Attributes:
        folder: the folder of the run.
        model: the model file, with the averaged weights of the best epoch.
        finished: whether training is over; false if it was interrupted and can be resumed.
        reason: why it stopped: `epochs`, `max_time`, `patience`, or `interrupted by ...`.
        metrics: errors by split, in the units of `metrics.json` (empty if interrupted).
        history: one row per epoch.
        warnings: what the run complained about.
    """

    folder: Path
    model: Path
    finished: bool
    reason: str
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float | None]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class TrainingDiverged(EquivError):
    """Training stopped because the loss was no longer a number."""


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    console: Console | None = None,
    report: bool = True,
) -> Result:
    """Train a model.

    Running the same recipe again continues an interrupted run, and shows the results of a finished
    one. The caller's random states, thread count and dtype are left as they were.

    Args:
        recipe: a recipe, a dictionary with the same keys, a `.yaml` file, or a file of structures
            (then the rest is chosen).
        overrides: texts such as `train.learning_rate=1e-3`.
        output: folder of the run, instead of the recipe's.
        console: a rich console that shows the progress; silent without.
        report: make the plots and `report.html` at the end.

    Raises:
        RecipeError: the recipe has unknown keys or values that cannot be used, or differs from that
            of the run it would continue.
        DataError: the data cannot be trained on.
        TrainingDiverged: the loss became NaN or infinite; the structures to blame are in
            `nan_frames.xyz`.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, output=output)
    elif overrides or output is not None:
        raise RecipeError("overrides and output belong into load_recipe if the recipe is a Recipe")
    folder = recipe.run_folder
    with (
        _folder_of_run(folder),
        _only_one(folder),
        own_settings(threads=recipe.train.threads, deterministic=recipe.train.deterministic),
        own_randomness(recipe.train.seed),
    ):
        return _Run(recipe, folder, RunConsole(console), report=report).run()


class _Run:
    """One call of `run`."""

    def __init__(self, recipe: Recipe, folder: Path, console: RunConsole, *, report: bool) -> None:
        self.recipe, self.folder, self.console, self.report = recipe, folder, console, report

    def run(self) -> Result:
        """Prepare, continue or begin, train, conclude."""
        console, folder = self.console, self.folder
        versions = f"equiv {__version__}, torch {torch.__version__}"
        console.fact("run", f"{folder}   seed {self.recipe.train.seed}   {versions}")
        checkpoint = load_checkpoint(folder, console.warn)
        if checkpoint is not None:
            self._compare(checkpoint)
        task = task_class(self.recipe.task).prepare(self.recipe, console)
        if checkpoint is not None and checkpoint.state["fingerprint"] != task.fingerprint:
            raise RecipeError(
                f"{folder} was trained on other data: the structures or labels have changed since; "
                "give another output folder to train on the new ones, or bring the old ones back"
            )
        with _memory_explained("lower model.channels or the other sizes of the model"):
            model = task.build_model()
        self._describe(model, task)
        trainer = self._trainer(model, task)
        outcome = Outcome(self.recipe, trainer, folder, console, report=self.report)
        if checkpoint is None:
            with _memory_explained():
                edges = trainer.rehearse()
            console.fact("memory", f"the largest possible batch ({edges} edges) fits")
        else:
            trainer.restore(checkpoint)
            position = trainer.position
            already = f"after {clock(position.elapsed)} of training"
            console.fact("resume", f"epoch {position.epoch}, step {position.step}, {already}")
        if checkpoint is not None and self._is_complete(trainer):
            console.fact(
                "finished", "all done; raise train.epochs, max_time or patience to train further"
            )
            if (stored := outcome.stored()) is not None:
                console.errors("errors", stored, task.quantities)
                return self._result(stored, trainer)
        else:
            self._compile(trainer)
            self._write_recipe(task.recipe)
            reason = self._fit(trainer)
            if trainer.position.finished is None:
                outcome.save_model({})
                again = "everything is saved - run the same command again to continue"
                console.fact("stopped", f"{reason}; {again}")
                return self._result({}, trainer, reason)
        return self._result(outcome.conclude(), trainer)

    def _compare(self, checkpoint: Checkpoint) -> None:
        """Refuse to continue a run under another recipe, and show what may change."""
        before, now = flatten(checkpoint.state["recipe"]), flatten(self.recipe.to_dict())
        changed = {
            key: f"{key}: {before.get(key)} -> {now.get(key)}"
            for key in sorted({**before, **now})
            if before.get(key) != now.get(key) and not _is_one_of(key, PLACES)
        }
        refused = [key for key in changed if not _is_one_of(key, MAY_CHANGE)]
        if refused:
            difference = "\n  ".join(changed.values())
            raise RecipeError(
                f"{self.folder} holds a run with another recipe:\n  {difference}\n"
                f"a run can be continued with other {', '.join(MAY_CHANGE[:3])}, but not with "
                f"another {', '.join(refused)}; give another output folder (--output), or delete "
                f"{self.folder} to start over"
            )
        for line in changed.values():
            self.console.fact("changed", line)

    def _trainer(self, model: AbstractModel, task: Task[Any]) -> Trainer:
        return Trainer(
            model,
            task,
            folder=self.folder,
            console=self.console,
            extra={"recipe": self.recipe.to_dict(), "fingerprint": task.fingerprint},
        )

    def _compile(self, trainer: Trainer) -> None:
        """Compile if the recipe wants it, or wants it to be decided and the run is long."""
        choice = trainer.task.compiling
        if choice == "off":
            return
        if choice == "auto" and (reason := trainer.reason_not_to_compile()) is not None:
            self.console.fact("compile", f"no: {reason} (train.compile=on does it anyway)")
            return
        with _memory_explained():
            trainer.compile()

    def _describe(self, model: AbstractModel, task: Task[Any]) -> None:
        """Print model, loss and schedule in three lines."""
        for topic, text in task.facts(model):
            self.console.fact(topic, text)
        train = task.recipe.train
        length = [f"{train.epochs} epochs"] if train.epochs != "auto" else []
        length += [f"at most {clock(train.max_time)}"] if train.max_time is not None else []
        self.console.fact(
            "training",
            f"{', '.join(length)}; batches of {train.batch_size} {task.samples} or "
            f"{train.batch_edges} edges; learning rate {train.learning_rate:g} to {train.floor:g} "
            f"({train.schedule}); average {train.ema_decay:g}\n"
            f"{train.dtype} on {task.device}, {torch.get_num_threads()} threads",
        )

    def _write_recipe(self, recipe: Recipe) -> None:
        """The recipe as resolved, beside the results; its paths start at the folder of the run."""
        text = yaml.safe_dump(recipe.relocated(self.folder), sort_keys=False, allow_unicode=True)
        head = f"# The recipe of this run with every choice filled in (equiv {__version__}).\n"
        write_bytes(self.folder / "recipe.yaml", (head + text).encode())

    def _is_complete(self, trainer: Trainer) -> bool:
        """Whether a restored run has nothing left to do under the present limits."""
        position, recipe = trainer.position, trainer.recipe
        if position.finished == "epochs":
            return recipe.epochs == "auto" or position.epoch >= recipe.epochs
        if position.finished == "max_time":
            return recipe.max_time is not None and position.elapsed >= recipe.max_time
        if position.finished == "patience":
            return recipe.patience is not None and position.waiting >= recipe.patience
        return False

    def _fit(self, trainer: Trainer) -> str:
        task = trainer.task
        self.console.header(task.shown)
        try:
            with _memory_explained():
                return trainer.fit()
        except NotANumber as error:
            path = task.write_guilty(self.folder, error.indices)
            guilty = [task.train.names[i] for i in error.indices]
            names = ", ".join(guilty[:10])
            more = f" and {len(guilty) - 10} more" if len(guilty) > 10 else ""
            written = f"written to {path}; " if path is not None else ""
            raise TrainingDiverged(
                f"{error}\n  {task.samples}: {names}{more}\n  {written}check them, or lower "
                f"train.learning_rate ({self.recipe.train.learning_rate:g})"
            ) from error

    def _result(self, metrics: dict[str, Any], trainer: Trainer, reason: str = "") -> Result:
        finished = trainer.position.finished
        return Result(
            folder=self.folder,
            model=self.folder / "model.safetensors",
            finished=finished is not None,
            reason=finished or reason,
            metrics=metrics,
            history=trainer.log.rows(),
            warnings=list(self.console.warnings),
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_one_of(key: str, keys: Sequence[str]) -> bool:
    return any(key == one or key.startswith(one + ".") for one in keys)


@contextmanager
def _folder_of_run(folder: Path) -> Iterator[None]:
    """Make the folder of the run; take it away again if the run fails before it left anything."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"output: the folder {folder} cannot be made: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        if is_new and {path.name for path in folder.iterdir()} <= {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a second process on the same run; the lock falls with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EquivError(
                f"another process is training in {folder}; wait for it, or give another output "
                "folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


@contextmanager
def _memory_explained(
    advice: str = "lower train.batch_size or train.batch_edges",
) -> Iterator[None]:
    """Turn a lack of memory into advice."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU only the text tells
        text = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text:
            raise EquivError(f"out of memory: {text}; {advice}") from error
        raise
