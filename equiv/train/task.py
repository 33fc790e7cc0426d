"""A task: everything about a training run that the loop does not know."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.models.abstract import AbstractModel
from equiv.train.console import RunConsole
from equiv.train.errors import Metrics, Rows
from equiv.train.evaluation import Evaluation, compare
from equiv.train.quantity import Quantity
from equiv.train.recipe import Recipe

Step = Callable[[Any, float], tuple[Tensor, Any]]
"""From a batch and the share of the training done to loss and prediction, both detached; the
gradient is left with the weights."""


@dataclass
class Split:
    """One set of samples.

    Attributes:
        name: `train`, `valid`, or the name of a test set.
        samples: what the task makes batches of.
        names: where each came from.
        groups: the group of each; errors are listed by group where there are several.
        fingerprint: hash of the content.
    """

    name: str
    samples: list[Any]
    names: Sequence[str]
    groups: Sequence[str]
    fingerprint: str


R = TypeVar("R", bound=Recipe)


class Task(ABC, Generic[R]):
    r"""What is learned, from what, and how it is measured.

    The loop draws batches, asks for the loss and its gradient, steps, averages, and asks for errors
    and a score after every epoch; what a sample, a batch, a prediction and an error are it leaves
    to the task. A concrete task sets the attributes and implements the abstract methods; the other
    methods have defaults that suit most.

    The score, which picks the best epoch and is better when it is lower, is by default the mean of
    the headline statistics of :attr:`scored`.

    Attributes:
        recipe: the recipe with every `auto` replaced by the value chosen (except epochs that follow
            the clock).
        device: where training runs.
        train: the training set.
        valid: the validation set; may be empty.
        tests: the test sets.
        quantities: what is measured.
        scored: names of the quantities that make the score; all that are logged when empty.
        noun: what a trained model is called: `potential`.
        samples: what its samples are called: `structures`.
        usage: lines of Python that use the model file, for the report.
    """

    recipe: R
    device: torch.device
    train: Split
    valid: Split
    tests: list[Split]
    quantities: tuple[Quantity, ...]
    scored: tuple[str, ...] = ()
    noun: str = "model"
    samples: str = "samples"
    usage: str = 'import equiv\nmodel = equiv.load_model("model.safetensors")'

    @classmethod
    @abstractmethod
    def prepare(cls, recipe: R, console: RunConsole) -> Self:
        """Read and check the data, and settle every choice the recipe leaves open; print each.

        Raises:
            EquivError: the data cannot be trained on; the message says which and why.
        """

    @abstractmethod
    def build_model(self) -> AbstractModel:
        """The untrained model, on its device."""

    @abstractmethod
    def size(self, sample: Any) -> int:
        """Edges of a sample, or whatever else time and memory follow."""

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Any:
        """A batch, on the CPU; it has a method `to(device)`."""

    @abstractmethod
    def predict(self, model: Any, batch: Any) -> Any:
        """The model's prediction for a batch, not to be differentiated."""

    @abstractmethod
    def loss(self, model: Any, batch: Any, progress: float) -> tuple[Float[Tensor, ""], Any]:
        """The loss of a batch, to be differentiated, and the prediction.

        Random numbers come from torch's global generator, whose state is part of a checkpoint.

        Args:
            model: in training mode.
            batch: on the device of the model.
            progress: the share of the training that is done, in [0, 1].
        """

    @abstractmethod
    def errors(self, prediction: Any, batch: Any) -> dict[str, Rows]:
        """Errors of a training batch by quantity; asked for in every step, so let it be cheap."""

    def evaluation_errors(self, prediction: Any, batch: Any) -> dict[str, Rows]:
        """Errors of a batch of an evaluation by quantity; by default those of :meth:`errors`."""
        return self.errors(prediction, batch)

    def pairs(self, prediction: Any, batch: Any) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Reference and predicted values by quantity, for the parity plot; none by default."""
        return {}

    @classmethod
    def for_model(
        cls, model: AbstractModel, files: Sequence[str], recipe: Mapping[str, Any]
    ) -> Self:
        """The task whose only set, `train`, are these files: what `equiv evaluate` compares with.

        Args:
            model: a trained model.
            files: files like those it was trained on.
            recipe: the recipe it was trained by, as its card tells it; may be empty.

        Raises:
            EquivError: that cannot be done, or the files do not suit.
        """
        raise EquivError(
            f"a {model.name} model cannot be evaluated from the command line; name the files in "
            "the recipe under data.test and run `equiv train` with it again: a finished run "
            "evaluates new test sets"
        )

    @property
    def splits(self) -> list[Split]:
        """Training, validation and test sets, those that hold anything."""
        return [split for split in (self.train, self.valid, *self.tests) if split.samples]

    @property
    def fingerprint(self) -> str:
        """Hash of the content of the training and validation samples and of their labels."""
        return f"{self.train.fingerprint}:{self.valid.fingerprint}"

    @property
    def shown(self) -> tuple[Quantity, ...]:
        """The quantities with columns in epoch table and learning curve."""
        return tuple(q for q in self.quantities if q.logged)

    def facts(self, model: AbstractModel) -> list[tuple[str, str]]:
        """What to print about model and loss before training, as topic and text."""
        weights = sum(value.numel() for value in model.parameters())
        shape = self.recipe.model
        return [("model", f"{shape.name}: {weights:,} weights, {shape.summary()}")]

    def card(self) -> dict[str, Any]:
        """Further facts for the card of the model; entries of `data` are put beside the loop's."""
        return {}

    def findings(self, model: AbstractModel) -> dict[str, Any]:
        """Facts for the card that are measured on the trained model."""
        return {}

    def score(self, metrics: Metrics) -> float:
        """The validation score, lower is better; NaN if nothing could be measured."""
        names = self.scored or tuple(q.name for q in self.quantities if q.logged)
        parts = [
            getattr(metrics[q.name], q.headline)
            for q in self.quantities
            if q.name in names and metrics[q.name].count
        ]
        return sum(parts) / len(parts) if parts else math.nan

    def evaluate(
        self,
        model: AbstractModel,
        samples: Sequence[Any],
        *,
        groups: Sequence[str] | None = None,
        batch_edges: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Predict samples and compare; see :func:`equiv.train.evaluation.compare`."""
        options = {"groups": groups, "batch_edges": batch_edges, "progress": progress}
        return compare(self, model, samples, **options)

    def validate(self, model: AbstractModel, *, batch_edges: int | None = None) -> Metrics:
        """Errors on the validation set after an epoch; may be fewer than those of an evaluation."""
        return self.evaluate(model, self.valid.samples, batch_edges=batch_edges).metrics

    def step(self, model: AbstractModel) -> Step:
        """How to compute loss and gradient of a batch."""
        return GradientStep(self, model)

    @property
    def compiling(self) -> str:
        """Whether to compile the step: `on`, `off`, or `auto`."""
        return "off"

    def reason_not_to_compile(self, steps: float) -> str | None:
        """Why a run of so many steps is not to be compiled; None if it is."""
        return f"a {self.noun} is not compiled"

    def compiled_step(
        self, model: AbstractModel, largest: Any, report: Callable[[str], None]
    ) -> Step | None:
        """The same, compiled, after a first call with the largest batch; None if it cannot be."""
        return None

    def compiled_graphs(self, step: Step) -> dict[str, int]:
        """`graphs`, `built`, `loaded`, and `batches` served by them; empty if not compiled."""
        return {}

    def decays(self, name: str, value: nn.Parameter) -> bool:
        """Whether weight decay pulls on a parameter: by default on matrices."""
        return value.ndim >= 2

    def log_values(self, progress: float) -> dict[str, float]:
        """Further columns of the log, with their values at this share of the training."""
        return {}

    def ranking(self) -> tuple[str, ...]:
        """Quantities by whose errors samples are called bad; the first that there is counts."""
        return tuple(quantity.name for quantity in self.quantities)

    def write_worst(self, folder: Path, split: Split, evaluation: Evaluation) -> None:
        """Write the samples with the largest errors into the folder of the run."""

    def write_guilty(self, folder: Path, indices: Sequence[int]) -> Path | None:
        """Write training samples whose loss is not a number; the file, or None if none is."""
        return None


@dataclass(frozen=True)
class GradientStep:
    """Compute the loss of a batch and its gradient, operation by operation.

    Attributes:
        task: knows the loss.
        model: the gradients of its weights are replaced.
    """

    task: Task[Any]
    model: AbstractModel

    def __call__(self, batch: Any, progress: float) -> tuple[Tensor, Any]:
        """Loss and prediction; the gradient is left with the weights."""
        self.model.zero_grad(set_to_none=True)
        loss, prediction = self.task.loss(self.model.train(), batch, progress)
        loss.backward()
        return loss.detach(), prediction
