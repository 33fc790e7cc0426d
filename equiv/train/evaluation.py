"""Compare a model with a set of samples; what is compared, and how, a comparison says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from equiv.models.abstract import AbstractModel
from equiv.train.errors import Metrics, Rows
from equiv.train.quantity import Quantity
from equiv.train.sampler import EdgeBudgetSampler, automatic_edge_budget

EVALUATION_BATCH = 8  # average samples whose edges, twice, are predicted at once


class Comparison(Protocol):
    """How predictions are made and compared with the labels of a batch."""

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What is measured."""
        ...

    def size(self, sample: Any) -> int:
        """Edges of a sample, or whatever else memory follows."""
        ...

    def collate(self, samples: Sequence[Any]) -> Any:
        """A batch, on the CPU; it has a method `to(device)`."""
        ...

    def predict(self, model: Any, batch: Any) -> Any:
        """The model's prediction for a batch, not to be differentiated."""
        ...

    def evaluation_errors(self, prediction: Any, batch: Any) -> dict[str, Rows]:
        """Errors of the labels that exist, by name of the quantity."""
        ...

    def pairs(self, prediction: Any, batch: Any) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Reference and predicted values of labels that exist, of equal shapes, for plots."""
        ...


@dataclass
class Evaluation:
    """What a model says about a set of samples, beside what the reference says.

    Attributes:
        metrics: the errors.
        pairs: reference and predicted values of the labels, by quantity. Shapes ``[labels, 2]``.
        of_samples: error of every sample by quantity: with its sign if there is one number, else
            the root mean square; NaN without labels. Shapes ``[samples]``.
    """

    metrics: Metrics
    pairs: dict[str, np.ndarray]
    of_samples: dict[str, np.ndarray]

    def worst(self, count: int, names: Sequence[str]) -> list[int]:
        """The samples with the largest errors of the first quantity that there is, worst first."""
        for name in names:
            errors = np.abs(self.of_samples.get(name, np.empty(0)))
            if np.isfinite(errors).any():
                order = np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable")
                return [int(i) for i in order if np.isfinite(errors[i])][:count]
        return []


def compare(
    comparison: Comparison,
    model: AbstractModel,
    samples: Sequence[Any],
    *,
    groups: Sequence[str] | None = None,
    batch_edges: int | None = None,
    batch_samples: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict samples and compare.

    The model's mode is restored afterwards. Every sample is predicted exactly once.

    Args:
        comparison: how.
        model: the model.
        samples: what the comparison makes batches of.
        groups: name of the group of each sample.
        batch_edges: most edges predicted at once; chosen when not given.
        batch_samples: most samples predicted at once.
        progress: called after each batch with the number of samples just done.
    """
    metrics = Metrics(comparison.quantities)
    pairs: dict[str, list[np.ndarray]] = {}
    of_samples: dict[str, np.ndarray] = {}
    training = model.training
    model.eval()
    try:
        sizes = list(map(comparison.size, samples))
        for indices in evaluation_batches(sizes, batch_edges, batch_samples):
            batch = comparison.collate([samples[i] for i in indices]).to(model.device)
            prediction = comparison.predict(model, batch)
            errors = comparison.evaluation_errors(prediction, batch)
            members = None if groups is None else [groups[i] for i in indices]
            metrics.add(errors, len(indices), members)
            for name, values in comparison.pairs(prediction, batch).items():
                columns = [value.detach().double().flatten() for value in values]
                pairs.setdefault(name, []).append(torch.stack(columns, dim=-1).cpu().numpy())
            for name, rows in errors.items():
                found = of_samples.setdefault(name, np.full(len(samples), np.nan))
                found[indices] = _per_sample(rows, len(indices))
            if progress is not None:
                progress(len(indices))
    finally:
        model.train(training)
    joined = {name: np.concatenate(parts) for name, parts in pairs.items()}
    return Evaluation(metrics, joined, of_samples)


def evaluation_batches(
    sizes: Sequence[int], batch_edges: int | None = None, batch_samples: int = 32
) -> list[list[int]]:
    """Indices of the samples of these sizes to predict together, in the order they came."""
    if not sizes:
        return []
    chosen = batch_edges or automatic_edge_budget(sizes, EVALUATION_BATCH)
    budget = max([chosen, *sizes])
    return EdgeBudgetSampler(
        sizes, max_edges=budget, max_structures=batch_samples, seed=0
    ).in_order()


def _per_sample(rows: Rows, count: int) -> np.ndarray:
    """The one error of each sample, or the root mean square of its many; NaN without a label."""
    error = rows.error.double()
    signed = error.dim() == 1 and int(rows.graph.unique().numel()) == error.shape[0]
    error = error.reshape(error.shape[0], -1) if error.numel() else error.new_zeros(0, 1)
    sums = error.new_zeros(count).index_add(
        0, rows.graph, (error if signed else error.square()).sum(-1)
    )
    counts = error.new_zeros(count).index_add(
        0, rows.graph, torch.full_like(error[:, 0], error.shape[1])
    )
    mean = torch.where(counts > 0, sums / counts.clamp(min=1), torch.nan)
    return (mean if signed else mean.sqrt()).cpu().numpy()
