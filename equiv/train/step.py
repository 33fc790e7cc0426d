"""The gradient of the loss: uncompiled, or as one compiled graph."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.models.block_model import BlockModel, in_batch_order
from equiv.models.compiled.agreement import Agreement, compare
from equiv.models.compiled.evaluation import Arrangement, fields, predicted
from equiv.models.compiled.programs import Programs, Report, Run, Task
from equiv.models.interface import Model, Prediction
from equiv.train.loss import EnergyForcesStressLoss, LossWeights
from equiv.train.targets import Targets

Step = Callable[[Any, LossWeights], tuple[Tensor, Prediction]]
GRADIENT = "gradient of "


@dataclass(frozen=True)
class EagerStep:
    """Compute the loss of a batch and its gradient, operation by operation.

    Attributes:
        model: the model; the gradients of its weights are replaced.
        criterion: the loss.
    """

    model: Model
    criterion: EnergyForcesStressLoss

    def __call__(self, batch: Any, weights: LossWeights) -> tuple[Tensor, Prediction]:
        """Loss and prediction; the gradient is left with the weights."""
        self.model.zero_grad(set_to_none=True)
        loss, prediction = self.loss(batch, weights)
        loss.backward()
        return loss.detach(), prediction.detached()

    def loss(self, batch: Any, weights: LossWeights) -> tuple[Tensor, Prediction]:
        """Loss and prediction, to be differentiated."""
        model = self.model.train()
        prediction = model(batch, forces=self.criterion.forces, stress=self.criterion.stress)
        loss = self.criterion(prediction, batch, weights)
        for term in model.loss_terms(prediction, batch).values():
            loss = loss + term
        return loss, prediction


@dataclass(frozen=True)
class StepInputs:
    """A batch, its labels, and the weights of the three terms of the loss."""

    arrangement: Arrangement
    targets: Targets
    weights: Float[Tensor, "3"]


@dataclass(frozen=True)
class Gradient:
    """The function to compile: prediction, loss and its gradient."""

    criterion: EnergyForcesStressLoss

    def __call__(
        self, model: BlockModel, learned: dict[str, Tensor], inputs: StepInputs
    ) -> dict[str, Tensor | None]:
        """Loss, the fields of a prediction, and the gradient by every weight."""
        arrangement = inputs.arrangement
        prediction = model.evaluate(
            arrangement.positions,
            arrangement.cell,
            arrangement.layout,
            forces=self.criterion.forces,
            stress=self.criterion.stress,
            differentiable=True,
        )
        loss = self.criterion.of(prediction, inputs.targets, inputs.weights)
        gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        named = {GRADIENT + name: g for name, g in zip(learned, gradients, strict=True)}
        return {"loss": loss, **fields(prediction), **named}


class CompiledStep:
    """Compute the loss of a batch and its gradient by one compiled graph.

    Batches it cannot be used for are left to :class:`EagerStep`.

    Args:
        eager: the same, uncompiled.
        check: a small batch; a program is compared with the model in float64 on it.
        report: told what is compiled, and why something is not.

    Attributes:
        compiled_batches: how many batches were computed by compiled code.
    """

    def __init__(self, eager: EagerStep, check: Any, report: Report) -> None:
        self.eager, self.check = eager, check
        self.model, self.criterion = eager.model, eager.criterion
        self.programs = Programs(self.model, report)
        self.compiled_batches = 0
        self._parameters = dict(self.model.named_parameters())

    @property
    def possible(self) -> bool:
        """Whether there is hope; if not, the reason has been reported."""
        if type(self.model).loss_terms is not Model.loss_terms:
            kind = type(self.model).__name__
            self.programs.say(f"not compiled: a {kind} has loss terms of its own")
            return False
        return self.programs.possible()

    def __call__(self, batch: Any, weights: LossWeights) -> tuple[Tensor, Prediction]:
        """Loss and prediction; the gradient is left with the weights."""
        model = self.model.train()
        if not self.possible or not isinstance(model, BlockModel):
            return self.eager(batch, weights)
        inputs = self._inputs(model, batch, weights)
        values = self.programs.run(self._task(model), inputs)
        if values is None:
            return self.eager(batch, weights)
        self.compiled_batches += 1
        for name, parameter in self._parameters.items():
            parameter.grad = values.pop(GRADIENT + name, None)
        loss = values.pop("loss")
        layout = inputs.arrangement.layout
        return loss, in_batch_order(predicted(values), layout, batch.num_graphs)

    def _inputs(self, model: BlockModel, batch: Any, weights: LossWeights) -> StepInputs:
        arrangement = Arrangement.of(model, batch)
        targets = Targets.of(batch).arranged(arrangement.layout)
        parts = [weights.energy, weights.forces, weights.stress]
        return StepInputs(
            arrangement, targets, torch.tensor(parts, dtype=torch.float64, device=model.device)
        )

    def _task(self, model: BlockModel) -> Task:
        criterion = self.criterion
        options = {
            k: getattr(criterion, k) for k in ("kind", "delta", "energy", "forces", "stress")
        }
        return Task(
            "training step",
            Gradient(criterion),
            options,
            lambda: self._prepared(model),
            learns=True,
        )

    def _prepared(self, model: BlockModel) -> Callable[[Run], Agreement]:
        """Run the model, and its copy in float64, on the batch to check with."""
        weights = LossWeights(1.0, 1.0, 1.0)
        eager = _results(EagerStep(copy.deepcopy(model), self.criterion), self.check, weights)
        exact = _results(
            EagerStep(copy.deepcopy(model).double(), self.criterion), self.check, weights
        )
        scale = exact["gradients"].abs().max().clamp(min=1e-30)
        for results in (eager, exact):
            results["gradients"] = results["gradients"].double() / scale
        inputs = self._inputs(model, self.check, weights)

        def agreement(run: Run) -> Agreement:
            values = run(inputs)
            if values is None:
                raise EquivError("the graph does not hold for a small batch")
            parts = {k: x for k, x in values.items() if k != "loss" and GRADIENT not in k}
            layout = inputs.arrangement.layout
            compiled = _named(in_batch_order(predicted(parts), layout, self.check.num_graphs))
            gradients = [values.get(GRADIENT + name) for name in self._parameters]
            joined = _joined(gradients, list(self._parameters.values()))
            compiled["gradients"] = joined.double() / scale
            return compare(compiled, eager, exact, model.dtype)

        return agreement


def _results(step: EagerStep, batch: Any, weights: LossWeights) -> dict[str, Any]:
    _, prediction = step(batch, weights)
    parameters = list(step.model.parameters())
    return _named(prediction) | {"gradients": _joined([p.grad for p in parameters], parameters)}


def _named(prediction: Prediction) -> dict[str, Any]:
    return {name: getattr(prediction, name) for name in ("energies", "forces", "stress")}


def _joined(gradients: list[Tensor | None], parameters: list[Any]) -> Tensor:
    """All gradients in one row; zeros where the loss does not depend on a weight."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
