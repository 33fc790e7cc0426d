"""How the learning rate changes during training."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from equiv.train.recipe import LoopRecipe


@dataclass
class Plateau:
    """The part of a schedule that depends on what validation said: it must survive a restart.

    Attributes:
        factor: the learning rate of a `plateau` schedule relative to its highest value.
        best: the best validation score so far.
        waiting: epochs since then, or since the last reduction.
    """

    factor: float = 1.0
    best: float = math.inf
    waiting: int = 0


class Schedule:
    r"""Learning rate at a given step and a given share of the training done.

    .. math::
        \eta = \eta_{\max} \min\Big(1, \frac{t+1}{t_w}\Big) f(p), \qquad
        f_{\cos}(p) = c + \frac{1-c}{2} (1 + \cos \pi p), \quad
        f_{\exp}(p) = c^p

    Here :math:`t` is the step, :math:`t_w` the number of warm-up steps, :math:`p \in [0, 1]` the
    share of the training that is done, and :math:`c` the ratio of the final to the highest learning
    rate. `plateau` multiplies by `plateau_factor` whenever validation has not improved for
    `plateau_patience` epochs, down to the final learning rate.
    """

    def __init__(self, recipe: LoopRecipe) -> None:
        self.recipe = recipe
        self.plateau = Plateau()

    def learning_rate(self, step: int, progress: float) -> float:
        """The learning rate of step `step` (from 0), with `progress` of the training done."""
        recipe = self.recipe
        floor = recipe.floor / recipe.learning_rate
        progress = min(max(progress, 0.0), 1.0)
        factor = {
            "cosine": lambda: floor + 0.5 * (1 - floor) * (1 + math.cos(math.pi * progress)),
            "exponential": lambda: floor**progress,
            "plateau": lambda: max(self.plateau.factor, floor),
            "constant": lambda: 1.0,
        }[recipe.schedule]()
        warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
        return recipe.learning_rate * warm * factor

    def validated(self, score: float) -> None:
        """Tell the schedule the validation score of an epoch (lower is better)."""
        state = self.plateau
        if score < state.best:
            state.best, state.waiting = score, 0
            return
        state.waiting += 1
        if state.waiting >= self.recipe.plateau_patience:
            state.factor, state.waiting = state.factor * self.recipe.plateau_factor, 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state."""
        return asdict(self.plateau)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.plateau = Plateau(**state)
