"""The end of a run: errors of the best weights on every split, the model file, plots and report."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from equiv import __version__
from equiv.atomic import write_bytes
from equiv.models.file import save_model
from equiv.train.console import RunConsole, clock
from equiv.train.evaluation import Evaluation
from equiv.train.loop import Trainer
from equiv.train.recipe import Recipe
from equiv.train.state import REASONS

MODEL = "model.safetensors"


class Outcome:
    """What is written at the end of a run.

    Args:
        recipe: the recipe as given.
        trainer: the trained model, its task and its history.
        folder: the folder of the run.
        console: what the user sees.
        report: whether to make plots and report.
    """

    def __init__(
        self,
        recipe: Recipe,
        trainer: Trainer,
        folder: Path,
        console: RunConsole,
        *,
        report: bool,
    ) -> None:
        self.recipe, self.task, self.trainer = recipe, trainer.task, trainer
        self.folder, self.console, self.report = folder, console, report

    def conclude(self) -> dict[str, Any]:
        """Evaluate the best weights and write everything; the errors by split."""
        console, position = self.console, self.trainer.position
        reason = REASONS[str(position.finished)]
        spent = f"{clock(position.elapsed)} of training"
        console.fact("done", f"{reason}; best epoch {position.best_epoch}, {spent}")
        started = monotonic()
        evaluations = self._evaluate()
        metrics = {name: item.metrics.to_dict() for name, item in evaluations.items()}
        units = {quantity.name: quantity.unit for quantity in self.task.quantities}
        document = {"splits": metrics, "units": units, "training": self._facts(), **self._subject()}
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        write_bytes(self.folder / "metrics.json", text.encode())
        self.save_model(metrics)
        ending = {"reason": position.finished, "best_epoch": position.best_epoch}
        self.trainer.log.event("end", {**ending, "splits": metrics})
        title = f"errors with the weights of epoch {position.best_epoch}"
        console.errors(title, metrics, self.task.quantities)
        last = self.task.splits[-1]
        self.task.write_worst(self.folder, last, evaluations[last.name])
        if self.report:
            self._pictures(evaluations, document)
        console.fact("evaluated", f"in {clock(monotonic() - started)}")
        console.fact("model", str(self.folder / MODEL))
        if self.report:
            console.fact("report", str(self.folder / "report.html"))
        return metrics

    def stored(self) -> dict[str, Any] | None:
        """The errors that an earlier call of `conclude` wrote, if it was about the same data."""
        try:
            document = json.loads((self.folder / "metrics.json").read_text())
            subject = self._subject()
            same = all(document[key] == subject[key] for key in subject)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return document["splits"] if same and (self.folder / MODEL).exists() else None

    def _subject(self) -> dict[str, Any]:
        """What the errors are about: the content of every split; and what the card adds."""
        prints = {split.name: split.fingerprint for split in self.task.splits}
        return {"fingerprints": prints, "card": dict(self.recipe.card)}

    def save_model(self, errors: Mapping[str, Any]) -> None:
        """Write the best averaged weights, with a card that says how they came about."""
        task, further = self.task, self.task.card()
        card = {
            **self.recipe.card,
            # Where the run was kept is nobody's business; the facts for the card stand beside it.
            "recipe": {
                key: value
                for key, value in self.recipe.to_dict().items()
                if key not in ("output", "card")
            },
            "data": {
                "structures": {split.name: len(split.samples) for split in task.splits},
                "fingerprint": task.fingerprint,
                **further.pop("data", {}),
            },
            **further,
            "training": self._facts(),
            "errors": dict(errors),
        }
        with self.trainer.with_best():
            card |= task.findings(self.trainer.model)
            save_model(self.trainer.model, self.folder / MODEL, card=card)

    def _evaluate(self) -> dict[str, Evaluation]:
        evaluations = {}
        with self.trainer.with_best():
            for split in self.task.splits:
                groups = split.groups if len(set(split.groups)) > 1 else None
                evaluations[split.name] = self.task.evaluate(
                    self.trainer.model,
                    split.samples,
                    groups=groups,
                    batch_edges=self.trainer.evaluation_edges,
                )
        return evaluations

    def _facts(self) -> dict[str, Any]:
        position = self.trainer.position
        return {
            "epochs": position.epoch,
            "steps": position.step,
            "best_epoch": position.best_epoch,
            "seconds": round(position.elapsed, 1),
            "stopped_by": position.finished,
            "device": str(self.task.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def _pictures(self, evaluations: Mapping[str, Evaluation], document: dict[str, Any]) -> None:
        """Plots and report. They come last, and a failure in them is loud but costs no results."""
        try:
            from equiv.train.plots import learning_curve, parity
            from equiv.train.report import write_report

            task = self.task
            parity(evaluations, self.folder / "parity.png", task.quantities)
            rows = self.trainer.log.rows()
            learning_curve(rows, self.folder / "learning_curve.png", task.quantities)
            write_report(
                self.folder,
                task=task,
                document=document,
                recipe=task.recipe.relocated(self.folder),
                evaluations=evaluations,
                warnings=self.console.warnings,
            )
        except Exception as error:  # matplotlib fails in many ways; none may cost a trained model
            problem = f"{type(error).__name__}: {error}"
            self.console.warn(f"the plots or the report could not be made: {problem}")


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    found = {"python": platform.python_version(), "equiv": __version__}
    for name in ("torch", "e3nn", "torch_geometric", "ase", "numpy", "vesin"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
