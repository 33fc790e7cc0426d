"""A whole training run, from a recipe to a model with its errors, plots and report."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any

import ase.io
import torch
import yaml
from rich.console import Console

from equiv import __version__
from equiv.atomic import write_bytes
from equiv.errors import EquivError, RecipeError
from equiv.models import Model
from equiv.models.file import save_model
from equiv.train.checkpoint import Checkpoint, load_checkpoint
from equiv.train.console import RunConsole, clock
from equiv.train.loop import NonFiniteLoss, Trainer
from equiv.train.metrics import Evaluation, evaluate
from equiv.train.prepare import Prepared, Split, prepare
from equiv.train.randomness import own_randomness, own_settings
from equiv.train.recipe import Recipe
from equiv.train.recipe_load import load_recipe

# What may change between a run and its continuation. Everything else would make it a different run.
MAY_CHANGE = (
    "train.epochs",
    "train.max_time",
    "train.patience",
    "train.checkpoint_interval",
    "train.threads",
    "card",
)
# Where the data lie may change too: what counts is their content, and that has a fingerprint.
PLACES = ("data.train", "data.valid", "data.test", "output")
WORST = 20  # structures in worst.xyz


@dataclass
class Result:
    """What a run leaves behind.

    Attributes:
        folder: the folder of the run.
        model: the model file, with the averaged weights of the best epoch.
        finished: whether training is over; false if it was interrupted and can be resumed.
        reason: why it stopped: `epochs`, `max_time`, `patience`, or `interrupted by ...`.
        metrics: errors by split, in eV and Angstrom (empty if interrupted).
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
    """Train a potential. Running the same thing again continues an interrupted run, and shows the results of a finished one.

    Args:
        recipe: a recipe, a dictionary with the same keys, a `.yaml` file, or a file of structures (the rest is chosen).
        overrides: texts such as `train.learning_rate=1e-3`.
        output: folder of the run, instead of the recipe's.
        console: a rich console that shows the progress; silent without.
        report: make the plots and `report.html` at the end.

    Raises:
        RecipeError: the recipe has unknown keys or values that cannot be used, or differs from that of the run it would
            continue.
        DataError: the data cannot be trained on.
        TrainingDiverged: the loss became NaN or infinite; the structures to blame are in `nan_frames.xyz`.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, output=output)
    elif overrides or output is not None:
        raise RecipeError(
            "overrides and output go into load_recipe when the recipe is a Recipe already"
        )
    folder = recipe.run_folder
    _make_folder(folder)
    with (
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
        console, folder = self.console, self.folder
        console.fact(
            "run",
            f"{folder}   seed {self.recipe.train.seed}   equiv {__version__}, torch {torch.__version__}",
        )
        checkpoint = load_checkpoint(folder, console.warn)
        if checkpoint is not None:
            self._compare(checkpoint)
        prepared = prepare(self.recipe, console)
        if checkpoint is not None and checkpoint.state["fingerprint"] != prepared.fingerprint:
            raise RecipeError(
                f"{folder} was trained on other data (the structures or labels have changed since); "
                "give another output folder to train on the new data, or bring the old data back"
            )
        model = prepared.model()
        self._describe(model, prepared)
        trainer = self._trainer(model, prepared)
        if checkpoint is None:
            self._write_recipe(prepared.recipe)
            edges = trainer.rehearse()
            console.fact(
                "memory",
                f"the largest possible batch ({edges} edges) ran through forward and backward",
            )
        else:
            trainer.restore(checkpoint)
            position = trainer.position
            console.fact(
                "resume",
                f"epoch {position.epoch}, step {position.step}, after {clock(position.elapsed)} of training",
            )
        if checkpoint is None or not self._done(trainer):
            if checkpoint is not None:
                self._write_recipe(prepared.recipe)
            reason = self._fit(trainer, prepared)
            if trainer.position.finished is None:
                console.fact(
                    "stopped",
                    f"{reason}; everything is saved - run the same command again to continue",
                )
                self._save_model(trainer, prepared, {})
                return self._result(False, reason, {}, trainer)
        else:
            console.fact(
                "finished",
                "this run is complete; raise train.epochs, max_time or patience to continue it",
            )
            if (stored := self._stored_metrics()) is not None:
                console.errors("errors", stored)
                return self._result(True, str(trainer.position.finished), stored, trainer)
        return self._conclude(trainer, prepared)

    # -- before ---------------------------------------------------------------------------------------------------

    def _compare(self, checkpoint: Checkpoint) -> None:
        """Refuse to continue a run under another recipe, and show what may change."""
        before, now = flatten(checkpoint.state["recipe"]), flatten(self.recipe.to_dict())
        changed = {
            key: (before.get(key), now.get(key))
            for key in sorted({**before, **now})
            if before.get(key) != now.get(key) and not _is_one_of(key, PLACES)
        }
        refused = [key for key in changed if not _is_one_of(key, MAY_CHANGE)]
        lines = [f"{key}: {old} -> {new}" for key, (old, new) in changed.items()]
        if refused:
            raise RecipeError(
                f"{self.folder} holds a run with another recipe:\n  " + "\n  ".join(lines) + "\n"
                f"a run can be continued with other {', '.join(MAY_CHANGE[:3])}, but not with another "
                f"{', '.join(refused)}; give another output folder (--output), or delete {self.folder} to start over"
            )
        for line in lines:
            self.console.fact("changed", line)

    def _trainer(self, model: Model, prepared: Prepared) -> Trainer:
        return Trainer(
            model,
            prepared.recipe.train,
            train=prepared.train.graphs,
            valid=prepared.valid.graphs,
            learned=prepared.learned,
            folder=self.folder,
            console=self.console,
            extra={"recipe": self.recipe.to_dict(), "fingerprint": prepared.fingerprint},
        )

    def _describe(self, model: Model, prepared: Prepared) -> None:
        recipe = prepared.recipe
        weights = sum(value.numel() for value in model.parameters())
        self.console.fact(
            "model",
            f"{recipe.model.name}: {weights:,} weights, {recipe.model.channels} channels, "
            f"{recipe.model.layers} layers, l <= {recipe.model.hidden_degree} / {recipe.model.edge_degree}, "
            f"order {recipe.model.correlation}, cutoff {recipe.model.cutoff:g} A",
        )
        train = recipe.train
        terms = [
            f"{name} {weight:g}"
            for name, weight, size in (
                ("energy", train.energy_weight, prepared.learned.energy),
                ("forces", train.forces_weight, prepared.learned.forces),
                ("stress", train.stress_weight, prepared.learned.stress),
            )
            if size is not None
        ]
        grows = train.final_energy_weight is not None and prepared.learned.energy is not None
        self.console.fact(
            "loss",
            f"{train.loss}{f' (delta {train.huber_delta:g})' if train.loss == 'huber' else ''}, weights: {', '.join(terms)}"
            + (f" (energy to {train.final_energy_weight:g} in the second half)" if grows else ""),
        )
        length = f"{train.epochs} epochs" if train.epochs != "auto" else ""
        limit = f"at most {clock(train.max_time)}" if train.max_time is not None else ""
        self.console.fact(
            "training",
            f"{' , '.join(part for part in (length, limit) if part)}; batches of {train.batch_size} structures, "
            f"at most {train.batch_edges} edges; learning rate {train.learning_rate:g} -> "
            f"{train.floor:g} ({train.schedule}), average {train.ema_decay:g}; "
            f"{train.dtype} on {prepared.device}, {torch.get_num_threads()} threads",
        )

    def _write_recipe(self, recipe: Recipe) -> None:
        """The recipe as resolved, beside the results; its paths start at the folder of the run."""
        text = yaml.safe_dump(relocated(recipe, self.folder), sort_keys=False, allow_unicode=True)
        head = f"# The recipe of this run with every choice filled in (equiv {__version__}).\n"
        write_bytes(self.folder / "recipe.yaml", (head + text).encode())

    # -- during ---------------------------------------------------------------------------------------------------

    def _done(self, trainer: Trainer) -> bool:
        """Whether a restored run has nothing left to do under the present limits."""
        position, recipe = trainer.position, trainer.recipe
        if position.finished == "epochs":
            return recipe.epochs == "auto" or position.epoch >= recipe.epochs
        if position.finished == "max_time":
            return recipe.max_time is not None and position.elapsed >= recipe.max_time
        if position.finished == "patience":
            return recipe.patience is not None and position.waiting >= recipe.patience
        return False

    def _fit(self, trainer: Trainer, prepared: Prepared) -> str:
        learned = prepared.learned
        self.console.header(
            energy=learned.energy is not None,
            forces=learned.forces is not None,
            stress=learned.stress is not None,
        )
        try:
            return trainer.fit()
        except NonFiniteLoss as error:
            path = self.folder / "nan_frames.xyz"
            frames = [prepared.train.dataset[i] for i in error.indices]
            ase.io.write(path, [labelled(frame) for frame in frames], format="extxyz")
            names = ", ".join(where(frame) for frame in frames[:10])
            more = f" and {len(frames) - 10} more" if len(frames) > 10 else ""
            raise TrainingDiverged(
                f"{error}\n  structures: {names}{more}\n  written to {path}"
            ) from error
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(error) from error

    # -- after ----------------------------------------------------------------------------------------------------

    def _conclude(self, trainer: Trainer, prepared: Prepared) -> Result:
        """Evaluate the best weights on every split, and write model, errors, plots and report."""
        console, position = self.console, trainer.position
        reason = str(position.finished)
        console.fact(
            "done",
            f"{_REASONS[reason]}; best epoch {position.best_epoch}, {clock(position.elapsed)} of training",
        )
        started = monotonic()
        evaluations: dict[str, Evaluation] = {}
        with trainer.with_best():
            for split in prepared.splits:
                groups = split.groups
                evaluations[split.name] = evaluate(
                    trainer.model, split.graphs, groups=groups if len(set(groups)) > 1 else None
                )
        metrics = {name: evaluation.metrics.to_dict() for name, evaluation in evaluations.items()}
        document = {
            "splits": metrics,
            "units": {
                "energy": "eV",
                "energy_per_atom": "eV/atom",
                "forces": "eV/Angstrom",
                "stress": "eV/Angstrom^3",
            },
            "training": self._training_facts(trainer, prepared),
        }
        write_bytes(self.folder / "metrics.json", (json.dumps(document, indent=1) + "\n").encode())
        self._save_model(trainer, prepared, metrics)
        trainer.log.event(
            "end", {"reason": reason, "best_epoch": position.best_epoch, "splits": metrics}
        )
        console.errors(f"errors of the best epoch, {position.best_epoch}", metrics)
        last = prepared.splits[-1]
        worst = worst_frames(last, evaluations[last.name])
        if worst:
            ase.io.write(self.folder / "worst.xyz", worst, format="extxyz")
        if self.report:
            self._pictures(trainer, prepared, evaluations, document)
        console.fact("evaluated", f"in {clock(monotonic() - started)}")
        console.fact("model", str(self.folder / "model.safetensors"))
        if self.report:
            console.fact("report", str(self.folder / "report.html"))
        return self._result(True, reason, metrics, trainer)

    def _training_facts(self, trainer: Trainer, prepared: Prepared) -> dict[str, Any]:
        position = trainer.position
        return {
            "epochs": position.epoch,
            "steps": position.step,
            "best_epoch": position.best_epoch,
            "seconds": round(position.elapsed, 1),
            "stopped_by": position.finished,
            "device": str(prepared.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def _save_model(self, trainer: Trainer, prepared: Prepared, errors: Mapping[str, Any]) -> None:
        """The model file: averaged weights of the best epoch, and in its card how it came about."""
        sizes = {split.name: len(split.dataset) for split in prepared.splits}
        card = {
            **self.recipe.card,
            "recipe": self.recipe.to_dict(),
            "data": {
                "structures": sizes,
                "fingerprint": prepared.fingerprint,
                "labels": str(prepared.train.dataset.labels),
            },
            "reference_energies_from": prepared.reference.how,
            "training": self._training_facts(trainer, prepared),
            "errors": dict(errors),
        }
        with trainer.with_best():
            save_model(trainer.model, self.folder / "model.safetensors", card=card)

    def _pictures(
        self,
        trainer: Trainer,
        prepared: Prepared,
        evaluations: Mapping[str, Evaluation],
        document: Mapping[str, Any],
    ) -> None:
        """Plots and report. They come last, and a failure in them is loud but costs no results."""
        try:
            from equiv.train.plots import learning_curve, parity
            from equiv.train.report import write_report

            parity(evaluations, self.folder / "parity.png")
            learning_curve(trainer.log.rows(), self.folder / "learning_curve.png")
            write_report(
                self.folder,
                document=document,
                recipe=relocated(prepared.recipe, self.folder),
                evaluations=evaluations,
                names={
                    split.name: [where(frame) for frame in split.dataset]
                    for split in prepared.splits
                },
                warnings=self.console.warnings,
            )
        except (
            Exception
        ) as error:  # matplotlib fails in many ways, and none of them may cost a trained model
            self.console.warn(
                f"the plots or the report could not be made: {type(error).__name__}: {error}"
            )

    def _stored_metrics(self) -> dict[str, Any] | None:
        path = self.folder / "metrics.json"
        if not path.exists() or not (self.folder / "model.safetensors").exists():
            return None
        try:
            return json.loads(path.read_text())["splits"]
        except (ValueError, KeyError):
            return None

    def _result(
        self, finished: bool, reason: str, metrics: dict[str, Any], trainer: Trainer
    ) -> Result:
        return Result(
            folder=self.folder,
            model=self.folder / "model.safetensors",
            finished=finished,
            reason=reason,
            metrics=metrics,
            history=trainer.log.rows(),
            warnings=list(self.console.warnings),
        )


_REASONS = {
    "epochs": "all epochs done",
    "max_time": "max_time is used up",
    "patience": "no better validation error for train.patience epochs",
}


def worst_frames(split: Split, evaluation: Evaluation) -> list[Any]:
    """The structures of a split with the largest errors, worst first, with the errors in `info`."""
    errors = evaluation.frame_forces
    if not (errors == errors).any():
        errors = abs(evaluation.frame_energy)
    order = sorted(
        (i for i in range(len(errors)) if errors[i] == errors[i]), key=lambda i: -errors[i]
    )
    found = []
    for i in order[:WORST]:
        atoms = labelled(split.dataset[i])
        atoms.info["force_rmse_eV_per_A"] = float(evaluation.frame_forces[i])
        atoms.info["energy_error_eV_per_atom"] = float(evaluation.frame_energy[i])
        atoms.info["from"] = where(split.dataset[i])
        found.append(atoms)
    return found


def where(frame: Any) -> str:
    """File and position of a structure."""
    return f"{Path(str(frame.source)).name}:{frame.index}"


def labelled(frame: Any) -> Any:
    """A structure with its reference labels where every reader finds them: `REF_energy`, `REF_forces`, `REF_stress`."""
    atoms = frame.atoms.copy()
    atoms.info = {}
    if frame.energy is not None:
        atoms.info["REF_energy"] = float(frame.energy)
    if frame.forces is not None:
        atoms.arrays["REF_forces"] = frame.forces
    if frame.stress is not None:
        atoms.info["REF_stress"] = frame.stress
    return atoms


def relocated(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The recipe as a dictionary whose paths start at `folder`."""

    def move(value: Any) -> Any:
        if isinstance(value, str):
            return os.path.relpath(recipe.path(value), folder)
        if isinstance(value, list):
            return [move(item) for item in value]
        if isinstance(value, dict):
            return {key: move(item) for key, item in value.items()}
        return value

    content = recipe.to_dict()
    for key in ("train", "valid", "test"):
        content["data"][key] = move(content["data"][key])
    content["output"] = "."
    return content


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    found = {"python": platform.python_version(), "equiv": __version__}
    for name in ("torch", "e3nn", "torch_geometric", "ase", "numpy", "vesin"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _is_one_of(key: str, keys: Sequence[str]) -> bool:
    return any(key == one or key.startswith(one + ".") for one in keys)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"output: the folder {folder} cannot be made: {error.strerror}"
        ) from error


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a second process on the same run; the lock falls with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EquivError(
                f"another process is training in {folder}; wait for it, or give another output folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _out_of_memory(error: Exception) -> EquivError:
    return EquivError(
        f"the GPU is out of memory: {str(error).splitlines()[0]}; lower train.batch_size or train.batch_edges"
    )
