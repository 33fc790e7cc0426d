"""What a run learns and where it stands: the part of its state that is not a tensor."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from equiv.train.errors import ErrorSum, Metrics

REASONS = {
    "epochs": "all epochs done",
    "max_time": "max_time is used up",
    "patience": "no better validation error for train.patience epochs",
}


@dataclass(frozen=True)
class Learned:
    """Which labels are learned, and their natural size in the training set.

    Attributes:
        energy: standard deviation of the energy per atom after subtraction of the reference
            energies, eV/atom; None if energies are not learned.
        forces: root mean square of the components, eV/Angstrom, or None.
        stress: root mean square of the components, eV/Angstrom^3, or None.
    """

    energy: float | None
    forces: float | None
    stress: float | None

    def score(self, metrics: Metrics) -> float:
        r"""The validation score, which picks the best epoch: the mean of the relative errors.

        .. math:: \frac{1}{n} \sum_q \frac{\mathrm{RMSE}_q}{s_q}

        Here :math:`q` runs over the :math:`n` properties that are learned and :math:`s_q` is the
        natural size of each. The weights of the loss do not enter: they may change during a run.
        """
        sizes = {"energy_per_atom": self.energy, "forces": self.forces, "stress": self.stress}
        parts = [
            metrics[name].rmse / size
            for name, size in sizes.items()
            if size is not None and metrics[name].count
        ]
        return sum(parts) / len(parts) if parts else math.nan


@dataclass
class Position:
    """Where a run stands between two steps.

    Attributes:
        epoch: the present epoch, from 0.
        cursor: batches of it that are done.
        step: optimizer steps done since the beginning.
        learning_rate: of the last step.
        elapsed: seconds of training, all resumed pieces together.
        best_score: the best validation score.
        best_epoch: the epoch that reached it.
        best_stage: the stage of the model in which that was; each stage begins a new search.
        waiting: epochs since then.
        loss: sum of the losses of the present epoch.
        gradient: sum of their gradient norms.
        errors: running error sums of the present epoch.
        finished: why the run is over; None while it is not.
    """

    epoch: int = 0
    cursor: int = 0
    step: int = 0
    learning_rate: float = 0.0
    elapsed: float = 0.0
    best_score: float = math.inf
    best_epoch: int = -1
    best_stage: int = 0
    waiting: int = 0
    loss: float = 0.0
    gradient: float = 0.0
    errors: dict[str, ErrorSum] = field(default_factory=dict)
    finished: str | None = None

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.cursor = self.epoch + 1, 0
        self.loss, self.gradient, self.errors = 0.0, 0.0, {}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Position":
        """The inverse of `to_dict`."""
        errors = {name: ErrorSum(**sums) for name, sums in values["errors"].items()}
        return cls(**{**values, "errors": errors})


class NotANumber(ArithmeticError):
    """The loss or its gradient is no longer a number.

    Attributes:
        indices: positions in the training set of the structures to blame.
    """

    def __init__(self, message: str, indices: list[int]) -> None:
        super().__init__(message)
        self.indices = indices
