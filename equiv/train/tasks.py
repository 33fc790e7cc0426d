"""The tasks, by the name a recipe class gives; each is imported when it is used."""

from importlib import import_module
from typing import Any

from equiv.choices import choose
from equiv.train.task import Task

TASKS = {
    "potential": "equiv.train.potential:PotentialTask",
    "hamiltonian": "equiv.train.hamiltonian:HamiltonianTask",
    "forecast": "equiv.train.forecast:ForecastTask",
    "property": "equiv.train.property:PropertyTask",
}
"""Where the class of every task is, as `module:class`."""


def task_class(name: str) -> type[Task[Any]]:
    """The class of a task.

    Raises:
        EquivError: there is none of that name.
    """
    module, _, attribute = choose(TASKS, name, "task").partition(":")
    return getattr(import_module(module), attribute)
