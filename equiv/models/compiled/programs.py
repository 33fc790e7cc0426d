"""The compiled programs of one model, by what they compute and for what form of input."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from equiv.errors import EquivError
from equiv.models.block_model import BlockModel
from equiv.models.compiled import store
from equiv.models.compiled.agreement import Agreement
from equiv.models.compiled.program import Program, build, missing_compiler
from equiv.models.compiled.records import Leaf, form, leaves
from equiv.models.compiled.trace import Function, NotGeneral, trace, weights
from equiv.models.interface import Model

Report = Callable[[str], None]
Run = Callable[[Any], Mapping[str, Tensor] | None]
MOST_GRAPHS = 8


@dataclass(frozen=True)
class Task:
    """Something to compile.

    Attributes:
        name: in a word or two, for the user.
        function: what to compute.
        options: all that the function depends on beside model and inputs, JSON-able.
        prepare: runs the model, and gives a function that compares it with a program. That one
            gets a function that runs the program on a record, or returns None for sizes the program
            does not hold for.
        learns: whether the function differentiates by the weights, so that it matters which of
            them are learned.
    """

    name: str
    function: Function
    options: dict[str, Any]
    prepare: Callable[[], Callable[[Run], Agreement]]
    learns: bool = False


class Programs:
    """Compile on first use, remember, check, and say why not.

    Args:
        model: whose weights the programs read, as they are at the time of the run.
        report: told in one line what has been compiled, and the reason for everything that has not.

    Attributes:
        compiled: graphs compiled here.
        loaded: graphs taken from an earlier run.
    """

    def __init__(self, model: Model, report: Report) -> None:
        self.model, self.report = model, report
        self.compiled = self.loaded = 0
        self._programs: dict[Any, Program | None] = {}
        self._said: set[str] = set()
        self._weights: list[Tensor] = []
        self._state: Any = None

    @property
    def graphs(self) -> int:
        """Graphs in use or refused."""
        return len(self._programs)

    def possible(self) -> bool:
        """Whether this model can be compiled here at all; if not, the reason is reported."""
        reason = None
        if not isinstance(self.model, BlockModel):
            reason = (
                f"a {type(self.model).__name__} does not keep integers and arithmetic apart, as "
                "equiv.models.block_model.BlockModel does"
            )
        elif self.model.kept_paths:
            reason = "sparse gates choose what it computes; export it first (`equiv export`)"
        else:
            reason = missing_compiler()
        if reason is not None:
            self.say(f"not compiled: {reason}")
        return reason is None

    def run(self, task: Task, inputs: Any) -> dict[str, Tensor] | None:
        """What the task's function gives for a record; None if it has to be computed eagerly.

        Everything in the record lies contiguously on the device of the model.
        """
        found = leaves(inputs)
        if min(_sizes(found)) < 2:
            return None
        self._renew()
        identity = (task.name, str(task.options), form(found), torch.get_num_threads())
        if identity not in self._programs:
            self._programs[identity] = self._make(task, inputs, form(found))
        program = self._programs[identity]
        return None if program is None else self._run(program, found, task.name)

    def say(self, text: str) -> None:
        """Report, but the same thing only once."""
        if text not in self._said:
            self._said.add(text)
            self.report(text)

    def _run(self, program: Program, found: list[Leaf], name: str) -> dict[str, Tensor] | None:
        if not program.accepts(_sizes(found)):
            self.say(f"{name}: some batches have sizes that the graph does not hold for")
            return None
        own = [x.detach() for x in self._weights]
        return program(own + [leaf.tensor for leaf in found])

    def _make(self, task: Task, inputs: Any, shape: tuple[Any, ...]) -> Program | None:
        """Load or build a program and check it; None, with a reason given, if that fails."""
        if self.graphs >= MOST_GRAPHS:
            self.say(f"no further graph is compiled: there are {MOST_GRAPHS} already")
            return None
        try:
            return self._load_or_build(task, inputs, shape)
        except NotGeneral as error:
            reason = f"no graph fits all sizes ({error})"
        except EquivError as error:
            reason = str(error)
        except Exception as error:  # compilers fail in dozens of ways
            words = " ".join(str(error).split())[:200]
            reason = f"the compiler failed ({type(error).__name__}: {words})"
        self.say(f"{task.name} not compiled: {reason}")
        return None

    def _load_or_build(self, task: Task, inputs: Any, shape: tuple[Any, ...]) -> Program:
        """A checked program.

        Raises:
            EquivError: it disagrees with the model.
        """
        compare = task.prepare()

        def check(program: Program) -> Agreement:
            return compare(lambda inputs: self._run(program, leaves(inputs), task.name))

        facts = {"task": [task.name, task.options], "form": str(shape), **self._facts(task)}
        name = store.key(facts)
        folder = store.find(name)
        if folder is not None:
            program = Program(folder, self.model.device)
            agreement = check(program)
            if agreement:
                self.loaded += 1
                self.say(f"{task.name}: compiled earlier; deviates by {agreement}")
                return program
            store.discard(name)
        self.say(f"{task.name}: compiling; the first time takes a minute or more")
        began = monotonic()
        with store.adding(name) as temporary:
            graph = trace(task.function, self.model, inputs)
            build(graph, temporary)
        program = Program(store.root() / name, self.model.device)
        agreement = check(program)
        if not agreement:
            store.discard(name)
            raise EquivError(
                f"the compiled code disagrees with the model in float64: {agreement.faults}"
            )
        self.compiled += 1
        self.say(
            f"{task.name}: compiled in {monotonic() - began:.0f} s, one graph for all sizes; "
            f"deviates by {agreement}"
        )
        return program

    def _facts(self, task: Task) -> dict[str, Any]:
        """What a graph depends on beside its function: the model except the values of weights."""
        model = self.model
        kind = type(model)
        own = inspect.getsourcefile(kind) if kind.__module__.split(".")[0] != "equiv" else None
        learned = {n for n, x in model.named_parameters() if task.learns and x.requires_grad}
        return {
            "model": [kind.__module__, kind.__qualname__, model.recipe],
            "own source": None if own is None else Path(own).read_text(),
            "device": model.device.type,
            "training": model.training,
            "weights": [
                [name, str(x.dtype), list(x.shape), name in learned]
                for name, x in weights(model).items()
            ],
        }

    def _renew(self) -> None:
        """Forget everything if the model has been moved or has changed its precision."""
        model = self.model
        state = (model.dtype, model.device)
        if state != self._state:
            self._programs.clear()
            self._state, self._weights = state, list(weights(model).values())


def _sizes(found: list[Leaf]) -> tuple[int, ...]:
    """The free sizes of a record in a row."""
    return tuple(leaf.tensor.shape[axis] for leaf in found for axis in leaf.free)
