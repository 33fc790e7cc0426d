"""What is measured when a model is compared with a reference, and how it is written and shown."""

from dataclasses import dataclass

STATISTICS = {"mae": "MAE", "rmse": "RMSE", "mse": "MSE", "mean": "mean"}
"""Statistics of errors by their key in `metrics.json`, and what they are called in tables.

`mean` is the mean size, for quantities that are not errors, such as a similarity.
"""


@dataclass(frozen=True)
class Quantity:
    """One kind of error.

    Attributes:
        name: key in `metrics.json`, of error sums and of plotted pairs.
        symbol: one or two letters for the head of a column.
        words: what it is, in the singular: `force`.
        unit: unit of the stored numbers; empty if they have none.
        shown_unit: unit of the numbers that are shown.
        factor: from the stored to the shown number, for errors themselves (squares take its
            square).
        statistics: what is stored and shown, of :data:`STATISTICS`.
        headline: the one statistic of epoch table, learning curve and report.
        epochs: for which of `train` and `valid` the epoch table has a column.
        short: name in the log; `name` when empty.
        logged: whether the log has columns for it.
        title: of the parity plot; `words` when empty.
        axis_unit: unit of the axes of that plot; `unit` when empty.
        axis_factor: from the stored number to that on the axes.
    """

    name: str
    symbol: str
    words: str
    unit: str = ""
    shown_unit: str = ""
    factor: float = 1.0
    statistics: tuple[str, ...] = ("mae", "rmse")
    headline: str = "rmse"
    epochs: tuple[str, ...] = ("train", "valid")
    short: str = ""
    logged: bool = True
    title: str = ""
    axis_unit: str = ""
    axis_factor: float = 1.0

    @property
    def label(self) -> str:
        """Its name in the log."""
        return self.short or self.name

    def shown(self, value: float, statistic: str) -> float:
        """A stored statistic in the unit that is shown."""
        return value * (self.factor**2 if statistic == "mse" else self.factor)
