"""Choices that every task leaves open in the same way."""

import math
from typing import Any

from equiv.train.console import RunConsole
from equiv.train.recipe import LoopRecipe

AUTOMATIC_STEPS = 20_000  # optimizer steps of a run that names neither epochs nor max_time


def automatic_epochs(train: LoopRecipe, samples: int, console: RunConsole) -> dict[str, Any]:
    """What becomes of `epochs: auto`, and say so.

    Args:
        train: the section of the recipe.
        samples: size of the training set.
        console: what the user sees.

    Returns:
        What to change in the section; nothing if epochs are given, or follow the clock.
    """
    if train.epochs != "auto":
        return {}
    if train.max_time is not None:
        clock = "the schedule follows the clock, so no two runs are equal"
        console.fact("auto", f"train.epochs = as many as max_time allows ({clock})")
        return {}
    epochs = min(max(math.ceil(AUTOMATIC_STEPS * train.batch_size / samples), 10), 2000)
    console.fact("auto", f"train.epochs = {epochs}")
    return {"epochs": epochs}
