"""Sums of errors, kept in float64, in this one place for training and evaluation alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from equiv.train.quantity import Quantity


@dataclass
class ErrorSum:
    r"""Running sums behind the mean absolute and the (root) mean square error of one quantity.

    .. math:: \mathrm{MAE} = \frac{1}{n}\sum |x - y|, \qquad \mathrm{RMSE} = \sqrt{\mathrm{MSE}},
        \quad \mathrm{MSE} = \frac{1}{n}\sum (x - y)^2

    Sums are kept in float64; `count` is the number of labels that were really there.
    """

    count: int = 0
    absolute: float = 0.0
    squared: float = 0.0

    def add(self, error: Tensor) -> None:
        """Count the entries of a tensor of errors."""
        error = error.detach().double()
        self.count += error.numel()
        self.absolute += float(error.abs().sum())
        self.squared += float(error.square().sum())

    @property
    def mae(self) -> float:
        """Mean absolute error; NaN without a label."""
        return self.absolute / self.count if self.count else float("nan")

    @property
    def mse(self) -> float:
        """Mean square error; NaN without a label."""
        return self.squared / self.count if self.count else float("nan")

    @property
    def rmse(self) -> float:
        """Root mean square error; NaN without a label."""
        return self.mse**0.5 if self.count else float("nan")

    @property
    def mean(self) -> float:
        """Mean size, for what is no error; NaN without a label."""
        return self.mae


@dataclass
class Rows:
    """Errors of the labels that exist, and the sample of the batch to which each row belongs.

    Attributes:
        error: predicted minus reference. Shape ``[rows, ...]``.
        graph: position in the batch. Shape ``[rows]``.
    """

    error: Tensor
    graph: Tensor


@dataclass
class Metrics:
    """Errors of a set of samples, in the units of the quantities.

    Attributes:
        quantities: what is measured, in the order of tables.
        frames: number of samples.
        errors: error sums by name of the quantity.
        groups: the same for each group of samples.
    """

    quantities: tuple[Quantity, ...] = ()
    frames: int = 0
    errors: dict[str, ErrorSum] = field(default_factory=dict)
    groups: "dict[str, Metrics]" = field(default_factory=dict)

    def __getitem__(self, name: str) -> ErrorSum:
        return self.errors.get(name, ErrorSum())

    def add(
        self, errors: Mapping[str, Rows], frames: int, groups: Sequence[str] | None = None
    ) -> None:
        """Count the errors of a batch of `frames` samples; `groups` names the group of each."""
        self.frames += frames
        for name, rows in errors.items():
            self.errors.setdefault(name, ErrorSum()).add(rows.error)
        for group in dict.fromkeys(groups or ()):
            member = torch.tensor([name == group for name in groups or ()])
            chosen = {}
            for name, rows in errors.items():
                of_group = member.to(rows.graph.device)[rows.graph]
                chosen[name] = Rows(rows.error[of_group], rows.graph[of_group])
            mine = self.groups.setdefault(group, Metrics(self.quantities))
            mine.add(chosen, int(member.sum()))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: `frames`, and for every quantity with labels its statistics and `count`."""
        table: dict[str, Any] = {"frames": self.frames}
        for quantity in self.quantities:
            error = self[quantity.name]
            if error.count:
                values = {name: getattr(error, name) for name in quantity.statistics}
                table[quantity.name] = {**values, "count": error.count}
        if len(self.groups) > 1:
            table["groups"] = {group: metrics.to_dict() for group, metrics in self.groups.items()}
        return table
