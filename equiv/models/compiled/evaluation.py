"""Energies, forces and stress by compiled code."""

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from equiv.choices import choose
from equiv.errors import EquivError
from equiv.graph.layout import Layout
from equiv.models.block_model import BlockModel, in_batch_order
from equiv.models.compiled.agreement import Agreement, compare
from equiv.models.compiled.programs import Programs, Report, Run, Task
from equiv.models.compiled.worth import CHOICES, WORK, work
from equiv.models.interface import Model, Prediction

CHECKED_ATOMS = 256
"""The first use of a program is checked with this many atoms at most."""


@dataclass(frozen=True)
class Arrangement:
    """A batch as models see it.

    Attributes:
        positions: of the rows, Angstrom, float64.
        cell: of the structures, Angstrom, float64.
        layout: the integers.
    """

    positions: Float[Tensor, "rows 3"]
    cell: Float[Tensor, "structures 3 3"]
    layout: Layout

    @classmethod
    def of(cls, model: BlockModel, batch: Any) -> "Arrangement":
        """What a model makes of a batch, padded so that sizes of 0 or 1 are rare."""
        layout = model.layout(batch, padded=True)
        positions, cell = layout.geometry(batch)
        return cls(positions.detach(), cell.detach(), layout)


@dataclass(frozen=True)
class Evaluate:
    """The function to compile: energies and forces, with stress and virials if wanted."""

    stress: bool
    atomic_virials: bool

    def __call__(
        self, model: BlockModel, learned: dict[str, Tensor], inputs: Arrangement
    ) -> dict[str, Tensor | None]:
        """The fields of a prediction, in the order of the rows."""
        prediction = model.evaluate(
            inputs.positions,
            inputs.cell,
            inputs.layout,
            forces=True,
            stress=self.stress,
            atomic_virials=self.atomic_virials,
        )
        return fields(prediction)


def compile_model(
    model: Model, mode: str, report: Report | None = None
) -> "CompiledEvaluation | None":
    """What answers the calls of a model in a mode; None if the model does.

    Raises:
        EquivError: no such mode.
    """
    choose(dict.fromkeys(CHOICES), mode, "compile")
    report = tell if report is None else report
    if mode == "auto" and model.device.type != "cpu":
        report("not compiled: on a GPU that is done on request only (compile: on)")
        return None
    if mode == "off":
        return None
    return CompiledEvaluation(model, report, after=WORK if mode == "auto" else 0.0)


def tell(text: str) -> None:
    """Print to the standard error."""
    print(f"compile    {text}", file=sys.stderr, flush=True)


class CompiledEvaluation:
    """Stands in for the call of a model: same arguments, same predictions, compiled where it can.

    Predictions that are to be differentiated again, and those without forces, are left to the
    model itself.

    Args:
        model: the model; later changes of its weights are seen.
        report: told what is compiled, and why something is not.
        after: the work (:mod:`equiv.models.compiled.worth`) to do uncompiled first.
    """

    def __init__(self, model: Model, report: Report, *, after: float = 0.0) -> None:
        self.model, self.programs = model, Programs(model, report)
        self._left = after

    def __call__(
        self, batch: Any, *, forces: bool = True, stress: bool = False, atomic_virials: bool = False
    ) -> Prediction:
        """Predict a batch; see :meth:`equiv.models.Model.forward`."""
        model = self.model
        final = not (model.training or batch.positions.requires_grad)
        if self._left > 0:
            self._left -= work(1, batch.positions.shape[0])
        elif forces and final and self.programs.possible() and isinstance(model, BlockModel):
            prediction = self._compiled(model, batch, Evaluate(stress, atomic_virials))
            if prediction is not None:
                return prediction
        return model.forward(batch, forces=forces, stress=stress, atomic_virials=atomic_virials)

    def _compiled(self, model: BlockModel, batch: Any, function: Evaluate) -> Prediction | None:
        inputs = Arrangement.of(model, batch)
        wanted = [
            "energy and forces",
            *(k.replace("_", " ") for k, on in vars(function).items() if on),
        ]
        task = Task(
            ", ".join(wanted),
            function,
            vars(function),
            lambda: EvaluationCheck(model, batch, function),
        )
        values = self.programs.run(task, inputs)
        if values is None:
            return None
        return in_batch_order(predicted(values), inputs.layout, batch.num_graphs)


class EvaluationCheck:
    """Compares a program with its model and the model's copy in float64.

    Args:
        model: the model.
        batch: what to predict; the first atoms are enough.
        function: what the program computes.
    """

    def __init__(self, model: BlockModel, batch: Any, function: Evaluate) -> None:
        self.model, self.batch, self.function = model, batch, function
        self.exact = copy.deepcopy(model).double()
        self._predict(excerpt(batch, CHECKED_ATOMS))

    def __call__(self, run: Run) -> Agreement:
        """Run the program on the same atoms, and compare."""
        inputs = Arrangement.of(self.model, self.part)
        values = run(inputs)
        if values is None and self.part is not self.batch:
            self._predict(self.batch)
            return self(run)
        if values is None:
            raise EquivError("the graph does not hold for the batch it was made for")
        compiled = in_batch_order(predicted(values), inputs.layout, self.part.cell.shape[0])
        dtype = self.model.dtype
        return compare(*map(_compared, (compiled, self.eager, self.reference)), dtype=dtype)

    def _predict(self, part: Any) -> None:
        self.part = part
        self.eager, self.reference = (
            model.forward(part, forces=True, stress=self.function.stress)
            for model in (self.model, self.exact)
        )


def excerpt(batch: Any, atoms: int) -> Any:
    """The first atoms of a batch and the edges between them."""
    if batch.positions.shape[0] <= atoms:
        return batch
    inside = (batch.senders < atoms) & (batch.receivers < atoms)
    graphs = int(batch.batch[atoms - 1]) + 1
    return SimpleNamespace(
        positions=batch.positions[:atoms],
        atomic_numbers=batch.atomic_numbers[:atoms],
        batch=batch.batch[:atoms],
        cell=batch.cell[:graphs],
        pbc=batch.pbc[:graphs],
        senders=batch.senders[inside],
        receivers=batch.receivers[inside],
        shifts=batch.shifts[inside],
        num_graphs=graphs,
    )


def predicted(values: Mapping[str, Any]) -> Prediction:
    """The inverse of :func:`fields`; what is not there is None."""
    return Prediction(**values)


def fields(prediction: Prediction) -> dict[str, Tensor | None]:
    """The tensors of a prediction by name."""
    names = ("energy", "energies", "forces", "stress", "virials", "atomic_virials")
    return {name: getattr(prediction, name) for name in names}


def _compared(prediction: Prediction) -> dict[str, Tensor | None]:
    return {name: getattr(prediction, name) for name in ("energies", "forces", "stress")}
