"""The task of a regressor: any property of structures or atoms."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ase.io
import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor, nn

from equiv.data.properties import PropertyFrame, read_properties
from equiv.errors import DataError
from equiv.graph import AtomGraph, collate
from equiv.models import build_model
from equiv.models.abstract import AbstractModel
from equiv.so3.rotations import random_rotations
from equiv.train.automatic import automatic_epochs
from equiv.train.console import RunConsole
from equiv.train.device import choose_device
from equiv.train.errors import Rows
from equiv.train.evaluation import Evaluation
from equiv.train.holdout import held_out
from equiv.train.quantity import Quantity
from equiv.train.recipe_property import (
    PropertyDataRecipe,
    PropertyRecipe,
    PropertyTrainRecipe,
    RegressorRecipe,
)
from equiv.train.sampler import automatic_edge_budget
from equiv.train.task import Split, Task

WORST = 20  # structures in worst.xyz


@dataclass(frozen=True)
class PropertySample:
    """A structure as a graph, and as read."""

    graph: AtomGraph
    frame: PropertyFrame


@dataclass(frozen=True)
class PropertyBatch:
    """Several structures as one, and their property.

    Attributes:
        graphs: batched graphs.
        values: of the structures, or of all atoms.
        owner: the structure each value belongs to.
    """

    graphs: Any
    values: Float[Tensor, "items *components"]
    owner: Tensor

    def to(self, device: torch.device | str) -> "PropertyBatch":
        """The same on a device."""
        return PropertyBatch(self.graphs.to(device), self.values.to(device), self.owner.to(device))


@dataclass(frozen=True)
class PropertyPrediction:
    """The property, and the same with the orientation grid turned at random (or None)."""

    values: Float[Tensor, "items *components"]
    turned: Float[Tensor, "items *components"] | None = None


class PropertyTask(Task[PropertyRecipe]):
    r"""Learn a property.

    .. math::
        L = \big\langle h\big( (\hat y - y) / s \big) \big\rangle, \qquad h(e) = e^2

    or Huber's penalty; the mean runs over components and over structures or atoms, and :math:`s` is
    ``model.scale``. The grid of orientations is turned at random in every step.

    Args:
        recipe: the recipe as resolved.
        splits: training and validation set.
        tests: the test sets.
        elements: chemical symbols.
    """

    scored = ("property",)
    noun = "of a property"
    samples = "structures"

    def __init__(
        self,
        recipe: PropertyRecipe,
        splits: tuple[Split, Split],
        tests: list[Split],
        elements: Sequence[str],
    ) -> None:
        self.recipe, self.tests, self.elements = recipe, tests, list(elements)
        self.train, self.valid = splits
        self.device = choose_device(recipe.train.device)
        key, unit = recipe.data.key, recipe.data.unit
        self.quantities = (
            Quantity("property", key, key, unit=unit, shown_unit=unit),
            Quantity(
                "turning",
                "by turning",
                f"change of {key} by turning the grid",
                unit=unit,
                shown_unit=unit,
                logged=False,
            ),
        )

    @classmethod
    def prepare(cls, recipe: PropertyRecipe, console: RunConsole) -> Self:
        """Read the structures, and settle what the recipe leaves open."""
        data, train, cutoff = recipe.data, recipe.train, recipe.model.cutoff
        first = read_split("train", recipe.paths(data.train), data.key, cutoff)
        if data.valid is not None:
            valid = read_split("valid", recipe.paths(data.valid), data.key, cutoff)
        else:
            first, valid = held_out(first, data.valid_fraction, train.seed)
        tests = [
            read_split(name, files, data.key, cutoff) for name, files in recipe.test_sets().items()
        ]
        frames = [sample.frame for sample in first.samples]
        of = "atoms" if frames[0].of_atoms else "structures"
        counts = " / ".join(f"{len(s.samples)} {s.name}" for s in (first, valid, *tests))
        console.fact("data", f"{counts}; {data.key}: a {frames[0].kind} of {of}")
        numbers = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
        for split in (valid, *tests):
            _require_same(split, numbers, frames[0])
        model = settle_model(recipe.model, first, console)
        sizes = [_edges(sample) for sample in first.samples]
        changes = automatic_epochs(train, len(sizes), console)
        if train.batch_edges == "auto":
            changes["batch_edges"] = automatic_edge_budget(sizes, train.batch_size)
        settled = recipe.model_copy(
            update={"model": model, "train": train.model_copy(update=changes)}
        )
        return cls(settled, (first, valid), tests, [chemical_symbols[z] for z in numbers])

    @classmethod
    def for_model(
        cls, model: AbstractModel, files: Sequence[str], recipe: Mapping[str, Any]
    ) -> Self:
        """A task whose training set are these files, with the property the model was trained on."""
        key = (recipe.get("data") or {}).get("key")
        if not isinstance(key, str):
            raise DataError(
                "the card of this model does not say under which key its property stands in data "
                "files; evaluate it in Python, or train it by a recipe"
            )
        arguments = {k: v for k, v in model.recipe.items() if k not in ("elements", "unit")}
        settled = PropertyRecipe(
            data=PropertyDataRecipe(train=list(files), key=key, unit=model.recipe["unit"]),
            model=RegressorRecipe(**arguments),
            train=PropertyTrainRecipe(device=str(model.device)),
        )
        split = read_split("train", list(map(Path, files)), key, settled.model.cutoff)
        return cls(settled, (split, Split("valid", [], [], [], "")), [], model.recipe["elements"])

    def build_model(self) -> AbstractModel:
        """The untrained regressor."""
        section, train = self.recipe.model, self.recipe.train
        return build_model(
            section.name,
            seed=train.seed,
            dtype=getattr(torch, train.dtype),
            elements=self.elements,
            unit=self.recipe.data.unit,
            **section.model_dump(exclude={"name"}),
        ).to(self.device)

    def facts(self, model: AbstractModel) -> list[tuple[str, str]]:
        """Model and loss in a line each."""
        train, scale = self.recipe.train, self.recipe.model.scale
        kind = f"huber (delta {train.huber_delta:g})" if train.loss == "huber" else "mse"
        unit = f" {self.recipe.data.unit}" if self.recipe.data.unit else ""
        return [*super().facts(model), ("loss", f"{kind} in units of {scale:.4g}{unit}")]

    def size(self, sample: PropertySample) -> int:
        """Edges."""
        return _edges(sample)

    def collate(self, samples: Sequence[PropertySample]) -> PropertyBatch:
        """Several structures as one."""
        graphs = collate([sample.graph for sample in samples])
        values = [torch.from_numpy(sample.frame.value) for sample in samples]
        if samples[0].frame.of_atoms:
            owner: Any = graphs.batch
            return PropertyBatch(graphs, torch.cat(values), owner)
        return PropertyBatch(graphs, torch.stack(values), torch.arange(len(samples)))

    def predict(self, model: Any, batch: PropertyBatch) -> PropertyPrediction:
        """The property, twice."""
        with torch.no_grad():
            generator = torch.Generator().manual_seed(len(batch.values))
            turn = random_rotations(generator=generator).to(model.device)
            return PropertyPrediction(model(batch.graphs), model(batch.graphs, orientation=turn))

    def loss(
        self, model: Any, batch: PropertyBatch, progress: float
    ) -> tuple[Float[Tensor, ""], PropertyPrediction]:
        """The mean penalty of a component."""
        train, turn = self.recipe.train, None
        if train.turn:
            turn = random_rotations(generator=torch.default_generator).to(model.device)
        values = model(batch.graphs, orientation=turn)
        scale = self.recipe.model.scale
        assert scale != "auto"
        error = (values - batch.values) / scale
        if train.loss == "mse":
            loss = error.square().mean()
        else:
            zero = torch.zeros_like(error)
            loss = nn.functional.huber_loss(error, zero, delta=train.huber_delta)
        return loss, PropertyPrediction(values.detach())

    def errors(self, prediction: PropertyPrediction, batch: PropertyBatch) -> dict[str, Rows]:
        """Predicted minus reference, and with a second prediction also what turning changes."""
        found = {"property": Rows(prediction.values - batch.values, batch.owner)}
        if prediction.turned is not None:
            found["turning"] = Rows(prediction.turned - prediction.values, batch.owner)
        return found

    def pairs(
        self, prediction: PropertyPrediction, batch: PropertyBatch
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Components."""
        return {"property": (batch.values, prediction.values)}

    def ranking(self) -> tuple[str, ...]:
        """The property itself."""
        return ("property",)

    def write_worst(self, folder: Path, split: Split, evaluation: Evaluation) -> None:
        """Write `worst.xyz`."""
        errors = evaluation.of_samples.get("property")
        worst = []
        for i in evaluation.worst(WORST, self.ranking()):
            atoms = split.samples[i].frame.atoms.copy()
            atoms.info["from"] = split.names[i]
            atoms.info["error"] = float(errors[i]) if errors is not None else 0.0
            worst.append(atoms)
        if worst:
            ase.io.write(folder / "worst.xyz", worst, format="extxyz")


def read_split(name: str, files: list[Path], key: str, cutoff: float) -> Split:
    """One set of structures with their property."""
    frames = read_properties(files, key)
    samples = []
    for frame in frames:
        try:
            samples.append(PropertySample(AtomGraph.from_atoms(frame.atoms, cutoff), frame))
        except DataError as error:
            raise DataError(f"{frame.where}: {error}") from error
    digests = b"".join(frame.digest() for frame in frames)
    fingerprint = hashlib.sha256(digests).hexdigest()
    names, groups = [frame.where for frame in frames], [frame.group for frame in frames]
    return Split(name, samples, names, groups, fingerprint)


def settle_model(section: RegressorRecipe, train: Split, console: RunConsole) -> RegressorRecipe:
    r"""Replace every `auto` by a value measured on the training set, and say so.

    Offsets are fitted by least squares: per element for sums and properties of atoms, one for all
    elements for means; tensors by a third of their trace. The scale is the root mean square of what
    is left, per atom for a sum :math:`1 / \sqrt N` of it.
    """
    frames = [sample.frame for sample in train.samples]
    changes: dict[str, Any] = {}

    def choose(name: str, value: Any, shown: str) -> Any:
        if getattr(section, name) != "auto":
            return getattr(section, name)
        changes[name] = value
        console.fact("auto", f"model.{name} = {shown}")
        return value

    kind = choose("kind", frames[0].kind, frames[0].kind)
    natural = "atoms" if frames[0].of_atoms else "sum"
    collect = choose("collect", natural, natural)
    if kind != frames[0].kind or (collect == "atoms") != frames[0].of_atoms:
        of = "atoms" if frames[0].of_atoms else "structures"
        raise DataError(
            f"model.kind = {kind} and model.collect = {collect} do not fit the data, which hold a "
            f"{frames[0].kind} of {of}"
        )
    atoms = sum(len(frame.atoms) for frame in frames)
    edges = sum(_edges(sample) for sample in train.samples)
    if edges == 0 and section.mean_neighbors == "auto":
        raise DataError(
            "no atom of the training set has a neighbour within model.cutoff = "
            f"{section.cutoff:g} Angstrom; raise the cutoff or check the unit of length"
        )
    choose("mean_neighbors", edges / atoms, f"{edges / atoms:.2f}")
    offsets, rest = fitted_offsets(frames, kind, collect)
    shown = "  ".join(f"{symbol} {value:.4g}" for symbol, value in offsets.items()) or "none"
    choose("offsets", offsets, shown)
    weight = np.sqrt(atoms / len(frames)) if collect == "sum" else 1.0
    scale = max(float(np.sqrt(np.mean(np.square(rest))) / weight), 1e-6)
    choose("scale", scale, f"{scale:.4g}")
    return section.model_copy(update=changes)


def fitted_offsets(
    frames: Sequence[PropertyFrame], kind: str, collect: str
) -> tuple[dict[str, float], np.ndarray]:
    """Offsets by element, and what they leave of the property."""
    values = np.concatenate(
        [np.atleast_1d(f.value) if f.of_atoms else f.value[None] for f in frames]
    )
    if kind == "vector":
        return {}, values
    isotropic = values if kind == "scalar" else np.trace(values, axis1=-2, axis2=-1) / 3
    numbers = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    symbols = [chemical_symbols[z] for z in numbers]
    counts = np.array([[(f.atoms.numbers == z).sum() for z in numbers] for f in frames], float)
    if collect == "atoms":
        counts = np.concatenate([f.atoms.numbers[:, None] == numbers for f in frames]).astype(float)
    if collect == "mean":
        counts = np.ones((len(values), 1))
    fit = np.linalg.lstsq(counts, isotropic, rcond=None)[0]
    left = isotropic - counts @ fit
    each = np.full(len(numbers), fit[0]) if collect == "mean" else fit
    rest = left if kind == "scalar" else values - (isotropic - left)[:, None, None] * np.eye(3)
    return {symbol: float(value) for symbol, value in zip(symbols, each, strict=True)}, rest


def _require_same(split: Split, numbers: Sequence[int], like: PropertyFrame) -> None:
    """Every set holds the same kind of property, and no element that is not trained on."""
    for sample in split.samples:
        frame = sample.frame
        if (frame.kind, frame.of_atoms) != (like.kind, like.of_atoms):
            raise DataError(
                f"{frame.where}: this set holds a {frame.kind} where the training set holds a "
                f"{like.kind}, or one of structures where the other has one of atoms"
            )
        if unknown := {int(z) for z in frame.atoms.numbers} - set(numbers):
            symbols = ", ".join(chemical_symbols[z] for z in sorted(unknown))
            raise DataError(
                f"the {split.name} set holds {symbols} ({frame.where}), which no training "
                "structure does; add structures with these elements to data.train, or leave them "
                "out"
            )


def _edges(sample: PropertySample) -> int:
    return int(sample.graph.senders.shape[0])
