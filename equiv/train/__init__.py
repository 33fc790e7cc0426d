"""Training: `run(recipe)` does the whole job; the parts are here for those who write their own."""

from typing import TYPE_CHECKING

from equiv.lazy import lazy_names

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

# Recipes are checked before anything heavy is imported, so heavy names wait until they are used.
__getattr__, __dir__ = lazy_names(__name__, __all__, _HOME)
