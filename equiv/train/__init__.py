"""Training: `run(recipe)` does the whole job; the parts are here for those who write their own."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Metrics": "equiv.train.errors",
    "Recipe": "equiv.train.recipe",
    "Result": "equiv.train.job",
    "Task": "equiv.train.task",
    "Trainer": "equiv.train.loop",
    "TrainingDiverged": "equiv.train.job",
    "evaluate_model": "equiv.train.metrics",
    "load_recipe": "equiv.train.recipe_load",
    "run": "equiv.train.job",
}

__all__ = [
    "Metrics",
    "Recipe",
    "Result",
    "Task",
    "Trainer",
    "TrainingDiverged",
    "evaluate_model",
    "load_recipe",
    "run",
]

if TYPE_CHECKING:
    from equiv.train.errors import Metrics
    from equiv.train.job import Result, TrainingDiverged, run
    from equiv.train.loop import Trainer
    from equiv.train.metrics import evaluate_model
    from equiv.train.recipe import Recipe
    from equiv.train.recipe_load import load_recipe
    from equiv.train.task import Task


def __getattr__(name: str) -> Any:
    # Recipes are checked before anything heavy is imported, so the heavy names are fetched when
    # they are used.
    if name not in _HOME:
        raise AttributeError(
            f"module 'equiv.train' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    return getattr(import_module(_HOME[name]), name)
