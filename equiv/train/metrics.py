"""Errors of predictions, computed in this one place for training and evaluation alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiv.graph import collate
from equiv.models.interface import Model, Prediction
from equiv.train.sampler import EdgeBudgetSampler, automatic_edge_budget

PROPERTIES = ("energy_per_atom", "energy", "forces", "stress")
EVALUATION_BATCH = 8  # average structures whose edges, twice, are predicted at once
VOIGT = (
    (0, 0),
    (1, 1),
    (2, 2),
    (1, 2),
    (0, 2),
    (0, 1),
)  # the six independent components of the stress


@dataclass
class ErrorSum:
    r"""Running sums behind the mean absolute and the root mean square error of one property.

    .. math:: \mathrm{MAE} = \frac{1}{n}\sum |x - y|, \qquad \mathrm{RMSE} = \sqrt{\frac{1}{n}\sum
    (x - y)^2}

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
    def rmse(self) -> float:
        """Root mean square error; NaN without a label."""
        return (self.squared / self.count) ** 0.5 if self.count else float("nan")


@dataclass
class Metrics:
    """Errors of a set of structures, in eV and Angstrom.

    Attributes:
        frames: number of structures.
        errors: error sums by property: `energy_per_atom` (eV/atom), `energy` (eV per structure),
            `forces` (eV/A per Cartesian component), `stress` (eV/A^3 per component, six to a
            structure).
        groups: the same for each group of structures.
    """

    frames: int = 0
    errors: dict[str, ErrorSum] = field(
        default_factory=lambda: {name: ErrorSum() for name in PROPERTIES}
    )
    groups: "dict[str, Metrics]" = field(default_factory=dict)

    def __getitem__(self, name: str) -> ErrorSum:
        return self.errors[name]

    def add(self, prediction: Prediction, batch: Any, groups: Sequence[str] | None = None) -> None:
        """Count a predicted batch; labels that are missing are left out.

        `groups` names the group of each structure.
        """
        errors = batch_errors(prediction, batch)
        self._add(errors, batch.num_graphs)
        for group in dict.fromkeys(groups or ()):
            member = torch.tensor(
                [name == group for name in groups or ()], device=batch.batch.device
            )
            chosen = {
                name: Rows(rows.error[member[rows.graph]], rows.graph)
                for name, rows in errors.items()
            }
            self.groups.setdefault(group, Metrics())._add(chosen, int(member.sum()))

    def _add(self, errors: "dict[str, Rows]", frames: int) -> None:
        self.frames += frames
        for name, rows in errors.items():
            self.errors[name].add(rows.error)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: `frames`, and for every property with labels `mae`, `rmse` and `count`."""
        table: dict[str, Any] = {"frames": self.frames}
        for name, error in self.errors.items():
            if error.count:
                table[name] = {"mae": error.mae, "rmse": error.rmse, "count": error.count}
        if len(self.groups) > 1:
            table["groups"] = {group: metrics.to_dict() for group, metrics in self.groups.items()}
        return table


@dataclass
class Rows:
    """Errors of the labels that exist, and the structure of the batch to which each row belongs."""

    error: Tensor
    graph: Tensor


def batch_errors(prediction: Prediction, batch: Any) -> dict[str, Rows]:
    """Predicted minus reference for every label of a batch that exists, by property."""
    structures = torch.arange(batch.num_graphs, device=batch.batch.device)
    has = batch.has_energy
    difference = (prediction.energy.detach() - batch.energy)[has]
    atoms = torch.bincount(batch.batch, minlength=batch.num_graphs)[has]
    errors = {
        "energy": Rows(difference, structures[has]),
        "energy_per_atom": Rows(difference / atoms.clamp(min=1), structures[has]),
    }
    if prediction.forces is not None:
        has = batch.has_forces[batch.batch]
        errors["forces"] = Rows((prediction.forces.detach() - batch.forces)[has], batch.batch[has])
    if prediction.stress is not None:
        has = batch.has_stress
        errors["stress"] = Rows(
            voigt((prediction.stress.detach() - batch.stress)[has]), structures[has]
        )
    return errors


def voigt(stress: Tensor) -> Tensor:
    """The six independent components of symmetric 3x3 tensors, in the order xx yy zz yz xz xy."""
    return torch.stack([0.5 * (stress[..., a, b] + stress[..., b, a]) for a, b in VOIGT], dim=-1)


@dataclass
class Evaluation:
    """What a model says about a set of structures, beside what the reference says.

    Attributes:
        metrics: the errors.
        pairs: reference and predicted values of every label that exists, by property, shape
            [labels, 2]: `energy_per_atom` (eV/atom), `forces` (eV/A), `stress` (eV/A^3).
        frame_forces: root mean square force error of every structure (eV/A), NaN without labels.
            Shape [frames].
        frame_energy: error of the energy per atom of every structure (eV/atom), NaN without label.
            Shape [frames].
    """

    metrics: Metrics
    pairs: dict[str, np.ndarray]
    frame_forces: np.ndarray
    frame_energy: np.ndarray

    def worst(self, count: int) -> list[int]:
        """The structures with the largest errors, of forces or else of energies, worst first."""
        errors = self.frame_forces
        if not np.isfinite(errors).any():
            errors = np.abs(self.frame_energy)
        order = np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable")
        return [int(i) for i in order if np.isfinite(errors[i])][:count]


def evaluate_model(
    model: Model,
    graphs: Sequence[Any],
    *,
    groups: Sequence[str] | None = None,
    batch_edges: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Metrics:
    """Errors of a model on labelled graphs; see :func:`evaluate` for the arguments."""
    return evaluate(
        model, graphs, groups=groups, batch_edges=batch_edges, progress=progress
    ).metrics


def evaluate(
    model: Model,
    graphs: Sequence[Any],
    *,
    groups: Sequence[str] | None = None,
    batch_edges: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict labelled graphs and compare.

    The model's mode is restored afterwards. Every structure is predicted exactly once.

    Args:
        model: any model.
        graphs: labelled structures (:class:`equiv.graph.AtomGraph`).
        groups: name of the group of each structure.
        batch_edges: most edges predicted at once; chosen when not given.
        progress: called after each batch with the number of structures just done.
    """
    metrics = Metrics()
    pairs: dict[str, list[np.ndarray]] = {"energy_per_atom": [], "forces": [], "stress": []}
    frame_forces, frame_energy = np.full(len(graphs), np.nan), np.full(len(graphs), np.nan)
    wants_forces = any(bool(graph.has_forces.any()) for graph in graphs)
    wants_stress = any(bool(graph.has_stress.any()) for graph in graphs)
    training = model.training
    model.eval()
    try:
        for indices in evaluation_batches(graphs, batch_edges):
            batch = collate([graphs[i] for i in indices]).to(model.device)
            prediction = model(batch, forces=wants_forces, stress=wants_stress)
            metrics.add(prediction, batch, None if groups is None else [groups[i] for i in indices])
            _collect(prediction, batch, pairs)
            errors = batch_errors(prediction, batch)
            frame_energy[indices] = _per_graph(
                errors["energy_per_atom"], batch.num_graphs, signed=True
            )
            if "forces" in errors:
                frame_forces[indices] = _per_graph(errors["forces"], batch.num_graphs, signed=False)
            if progress is not None:
                progress(len(indices))
    finally:
        model.train(training)
    joined = {
        name: np.concatenate(parts) if parts else np.empty((0, 2)) for name, parts in pairs.items()
    }
    return Evaluation(metrics, joined, frame_forces, frame_energy)


def evaluation_batches(graphs: Sequence[Any], batch_edges: int | None = None) -> list[list[int]]:
    """Indices of the structures to predict together, in the order they came."""
    if not graphs:
        return []
    num_edges = [int(graph.senders.shape[0]) for graph in graphs]
    chosen = batch_edges or automatic_edge_budget(num_edges, EVALUATION_BATCH)
    budget = max([chosen, *num_edges])
    return EdgeBudgetSampler(num_edges, max_edges=budget, max_structures=32, seed=0).in_order()


def _collect(prediction: Prediction, batch: Any, pairs: dict[str, list[np.ndarray]]) -> None:
    """Append reference and predicted values of the labels that exist."""

    def append(name: str, reference: Tensor, predicted: Tensor) -> None:
        columns = torch.stack(
            [reference.double().flatten(), predicted.detach().double().flatten()], dim=-1
        )
        pairs[name].append(columns.cpu().numpy())

    has, atoms = (
        batch.has_energy,
        torch.bincount(batch.batch, minlength=batch.num_graphs).clamp(min=1),
    )
    append("energy_per_atom", (batch.energy / atoms)[has], (prediction.energy / atoms)[has])
    if prediction.forces is not None:
        has = batch.has_forces[batch.batch]
        append("forces", batch.forces[has], prediction.forces[has])
    if prediction.stress is not None:
        append(
            "stress",
            voigt(batch.stress[batch.has_stress]),
            voigt(prediction.stress[batch.has_stress]),
        )


def _per_graph(rows: Rows, num_graphs: int, *, signed: bool) -> np.ndarray:
    """The one error of each structure, or the root mean square of its many; NaN without a label."""
    error = rows.error.double()
    error = error.unsqueeze(-1) if error.dim() == 1 else error
    sums = error.new_zeros(num_graphs).index_add(
        0, rows.graph, (error if signed else error.square()).sum(-1)
    )
    counts = error.new_zeros(num_graphs).index_add(
        0, rows.graph, torch.full_like(error[:, 0], error.shape[1])
    )
    mean = torch.where(counts > 0, sums / counts.clamp(min=1), torch.nan)
    return (mean if signed else mean.sqrt()).cpu().numpy()
