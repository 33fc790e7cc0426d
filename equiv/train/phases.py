"""When the sparse gates of a model stop to choose."""

from typing import Any

from equiv.train.automatic import AUTOMATIC_STEPS
from equiv.train.recipe import LoopRecipe

PHASES = {"random_until": 0.02, "fixed_from": 0.05}
"""Ends of the random and of the adaptive phase, as a share of all optimizer steps."""


def settled_phases(model: Any, train: LoopRecipe, samples: int) -> dict[str, int]:
    """Steps for those of the two keys that are ``auto`` in the model's section.

    With a clock only, the steps are those of a usual run.
    """
    if train.epochs == "auto":
        steps = AUTOMATIC_STEPS
    else:
        steps = train.epochs * -(-samples // train.batch_size)
    return {
        name: round(share * steps)
        for name, share in PHASES.items()
        if getattr(model, name, None) == "auto"
    }
