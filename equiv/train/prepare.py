"""From files to what the loop needs: checked structures, graphs, and a model of the right size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from equiv.data import (
    CheckReport,
    Dataset,
    ReferenceEnergies,
    check_frames,
    check_leakage,
    read_frames,
    reference_energies,
    split_frames,
)
from equiv.errors import DataError, EquivError
from equiv.graph import AtomGraph
from equiv.models import AbstractModel, build_model
from equiv.train.automatic import automatic_epochs
from equiv.train.console import RunConsole
from equiv.train.device import choose_device
from equiv.train.phases import settled_phases
from equiv.train.recipe_potential import PotentialRecipe
from equiv.train.sampler import automatic_edge_budget
from equiv.train.start import header_of, load_weights
from equiv.train.state import Learned
from equiv.train.task import Split


@dataclass
class LabelledSplit(Split):
    """One set of structures, as graphs and as read."""

    dataset: Dataset

    @classmethod
    def of(cls, name: str, dataset: Dataset, cutoff: float) -> "LabelledSplit":
        """The graphs of all structures, with their labels."""
        return cls(
            name=name,
            samples=graphs_of(dataset, cutoff),
            names=[frame.where for frame in dataset],
            groups=[frame.group for frame in dataset],
            fingerprint=dataset.fingerprint,
            dataset=dataset,
        )

    @property
    def graphs(self) -> list[AtomGraph]:
        """The samples."""
        return self.samples


@dataclass
class Prepared:
    """Everything that is settled before the first step.

    Attributes:
        recipe: the recipe with every `auto` replaced by the value chosen (except epochs that follow
            the clock).
        train: the training set.
        valid: the validation set; may be empty.
        tests: the test sets.
        learned: which labels are learned, and their natural sizes.
        reference: energies of the free atoms.
        arguments: arguments of the architecture.
        device: where training runs.
    """

    recipe: PotentialRecipe
    train: LabelledSplit
    valid: LabelledSplit
    tests: list[LabelledSplit]
    learned: Learned
    reference: ReferenceEnergies
    arguments: dict[str, Any]
    device: torch.device

    def model(self) -> AbstractModel:
        """The untrained model."""
        train = self.recipe.train
        model = build_model(
            self.recipe.model.name,
            seed=train.seed,
            dtype=getattr(torch, train.dtype),
            **self.arguments,
        ).to(self.device)
        if train.start_from is not None:
            load_weights(model, self.recipe.path(train.start_from))
        return model

    def dataset(self, name: str) -> Dataset:
        """The structures of a set."""
        splits = (self.train, self.valid, *self.tests)
        return next(split.dataset for split in splits if split.name == name)


def prepare(recipe: PotentialRecipe, console: RunConsole) -> Prepared:
    """Read and check the data, and settle every choice the recipe leaves open; each is printed.

    Raises:
        EquivError: the data cannot be trained on; the message says which structures and why.
    """
    device = choose_device(recipe.train.device)
    train, valid, tests = read_splits(recipe, console)
    reference = reference_energies(train, recipe.data.reference_energies)
    console.fact("E0", str(reference))
    train, valid = train.without_isolated(), valid.without_isolated()
    if not len(train):
        raise DataError("no structure but isolated atoms: there is nothing to train on")
    how = ""
    if recipe.data.valid is None:
        fraction, key = recipe.data.valid_fraction, recipe.data.group_key
        train, valid = split_frames(train, fraction, seed=recipe.train.seed, group_key=key)
        how = f" ({fraction:.0%} held out by content hash, seed {recipe.train.seed})"
    others = "".join(f" / {len(dataset)} {name}" for name, dataset in tests.items())
    console.fact("split", f"{len(train)} train / {len(valid)} valid{how}{others}")
    _require_known_elements(train, {"valid": valid, **tests})
    _report(check_leakage(train, {"valid": valid, **tests}), console)
    splits = [
        LabelledSplit.of(name, dataset, recipe.model.cutoff)
        for name, dataset in {"train": train, "valid": valid, **tests}.items()
    ]
    sizes = natural_sizes(splits[0], reference.values, recipe)
    recipe, arguments = settle(recipe, splits[0], reference, sizes, console)
    return Prepared(
        recipe=recipe,
        train=splits[0],
        valid=splits[1],
        tests=splits[2:],
        learned=sizes.learned,
        reference=reference,
        arguments=arguments,
        device=device,
    )


def read_splits(
    recipe: PotentialRecipe, console: RunConsole
) -> tuple[Dataset, Dataset, dict[str, Dataset]]:
    """Read and check all sets of a recipe; the validation set is empty if it is to be held out."""
    data = recipe.data

    def read(name: str, files: list[Path]) -> Dataset:
        dataset = read_frames(files, labels=data.labels, units=data.units, group_key=data.group_key)
        console.fact("data" if name == "train" else name, str(dataset.labels))
        _report(check_frames(dataset), console)
        return dataset

    train = read("train", recipe.paths(data.train))
    valid = read("valid", recipe.paths(data.valid)) if data.valid is not None else train.subset([])
    tests = {name: read(name, files) for name, files in recipe.test_sets().items()}
    return train, valid, tests


def graphs_of(dataset: Dataset, cutoff: float) -> list[AtomGraph]:
    """The graphs of all structures of a set, with their labels."""
    graphs = []
    for frame in dataset:
        try:
            graphs.append(AtomGraph.from_atoms(frame.atoms, cutoff, labels=frame))
        except DataError as error:
            raise DataError(f"{frame.where}: {error}") from error
    return graphs


@dataclass(frozen=True)
class Sizes:
    """What is measured on the training set.

    Attributes:
        learned: which labels are learned, and their natural sizes.
        shift: mean of the energy per atom after subtraction of the reference energies, eV/atom.
        neighbors: mean number of neighbours of an atom.
    """

    learned: Learned
    shift: float
    neighbors: float


def natural_sizes(
    split: LabelledSplit, reference: Mapping[int, float], recipe: PotentialRecipe
) -> Sizes:
    r"""Measure labels and graphs of the training set.

    .. math::
        s_E = \mathrm{std}_s \frac{E_s - \sum_{i \in s} E^0_{z_i}}{N_s}, \qquad
        s_F = \sqrt{\langle F_{i\alpha}^2 \rangle}, \qquad
        s_\sigma = \sqrt{\langle \sigma_{s\alpha\beta}^2 \rangle}

    A size of zero (a single structure, say) is replaced by 1 meV/atom, 1 meV/Angstrom or
    0.1 meV/Angstrom^3, which matters for the validation score only. A label whose weight in the
    loss is zero is not learned.

    Raises:
        DataError: nothing is left to learn.
    """
    weights = recipe.train
    energies, forces, stresses = [], [], []
    for frame in split.dataset:
        numbers = frame.atoms.numbers
        if frame.energy is not None and len(numbers):
            energies.append((frame.energy - sum(reference[int(z)] for z in numbers)) / len(numbers))
        if frame.forces is not None:
            forces.append(frame.forces.ravel())
        if frame.stress is not None:
            stresses.append(frame.stress.ravel())
    learned = Learned(
        energy=max(float(np.std(energies)), 1e-3) if energies and weights.energy_weight else None,
        forces=max(_rms(forces), 1e-3) if forces and weights.forces_weight else None,
        stress=max(_rms(stresses), 1e-4) if stresses and weights.stress_weight else None,
    )
    if learned == Learned(None, None, None):
        raise DataError(
            "there is nothing to learn: the training set has no label with a positive weight"
        )
    atoms = sum(int(graph.num_nodes or 0) for graph in split.graphs)
    edges = sum(int(graph.senders.shape[0]) for graph in split.graphs)
    shift = float(np.mean(energies)) if energies else 0.0
    return Sizes(learned, shift, edges / atoms if atoms else 0.0)


def settle(
    recipe: PotentialRecipe,
    split: LabelledSplit,
    reference: ReferenceEnergies,
    sizes: Sizes,
    console: RunConsole,
) -> tuple[PotentialRecipe, dict[str, Any]]:
    """Replace every `auto` by a value and say so; the recipe and the arguments of the architecture.

    Raises:
        EquivError: no atom has a neighbour within the cutoff.
    """
    model, train, learned = recipe.model, recipe.train, sizes.learned
    changes: dict[str, dict[str, Any]] = {"model": {}, "train": {}}

    def choose(section: str, name: str, value: Any, shown: str) -> None:
        if getattr(getattr(recipe, section), name) == "auto":
            changes[section][name] = value
            console.fact("auto", f"{section}.{name} = {shown}")

    if sizes.neighbors == 0 and model.mean_neighbors == "auto":
        raise EquivError(
            "no atom of the training set has a neighbour within model.cutoff = "
            f"{model.cutoff:g} Angstrom; raise the cutoff or check the unit of length"
        )
    scale = learned.forces if learned.forces is not None else learned.energy or 1.0
    choose("model", "mean_neighbors", sizes.neighbors, f"{sizes.neighbors:.2f}")
    choose("model", "scale", scale, f"{scale:.4g} eV")
    shift = sizes.shift
    if getattr(model, "long_range", None) is not None and not any(reference.values.values()):
        shift = 0.0  # energies are counted from free pieces: their mean is the long-range term's
    choose("model", "shift", shift, f"{shift:.4g} eV/atom")
    num_edges = [int(graph.senders.shape[0]) for graph in split.graphs]
    budget = automatic_edge_budget(num_edges, train.batch_size)
    choose("train", "batch_edges", budget, f"{budget}, and at most {train.batch_size} structures")
    changes["train"] |= automatic_epochs(train, len(num_edges), console)
    known = train.model_copy(update=changes["train"])
    for name, step in settled_phases(model, known, len(num_edges)).items():
        gated = bool(getattr(model, "sparsity", 0.0))
        changes["model"][name] = step if gated else 0
        if gated:
            console.fact("auto", f"model.{name} = {step}")
    model = model.model_copy(update=changes["model"])
    elements = sorted(split.dataset.elements)
    energies = {chemical_symbols[z]: float(reference.values[z]) for z in elements}
    if train.start_from is not None:
        energies, elements = _with_those_of(recipe, energies, elements, console)
    symbols = [chemical_symbols[z] for z in elements]
    data = recipe.data.model_copy(update={"reference_energies": energies})
    train = train.model_copy(update=changes["train"])
    settled = recipe.model_copy(update={"model": model, "train": train, "data": data})
    arguments = model.model_dump(exclude={"name"})
    return settled, {**arguments, "elements": symbols, "reference_energies": energies}


def _with_those_of(
    recipe: PotentialRecipe, energies: dict[str, float], elements: list[int], console: RunConsole
) -> tuple[dict[str, float], list[int]]:
    """Reference energies and elements, with those that only the model to start from knows.

    Raises:
        DataError: the data hold elements that model does not know.
    """
    assert recipe.train.start_from is not None
    path = recipe.path(recipe.train.start_from)
    header = header_of(path)
    if unknown := set(elements) - set(header.elements):
        raise DataError(
            f"the training set holds {', '.join(chemical_symbols[z] for z in sorted(unknown))}, "
            f"which the model to start from, {path}, does not know; it knows "
            f"{', '.join(chemical_symbols[z] for z in header.elements)}"
        )
    console.fact("start", f"{path}: a {header.model} with {header.parameters:,} weights")
    return {**header.reference_energies, **energies}, list(header.elements)


def _rms(parts: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate(parts)))))


def _require_known_elements(train: Dataset, others: Mapping[str, Dataset]) -> None:
    """Every element that is ever predicted must be trained on."""
    for name, dataset in others.items():
        if unknown := set(dataset.elements) - set(train.elements):
            symbols = ", ".join(chemical_symbols[z] for z in sorted(unknown))
            raise DataError(
                f"the {name} set holds {symbols}, which no training structure does; "
                "add structures with these elements to data.train, or leave them out"
            )


def _report(report: CheckReport, console: RunConsole) -> None:
    """Print what a check found; errors stop the run."""
    for finding in report.of("warning"):
        console.warn(str(finding))
    for finding in report.of("note"):
        console.fact("note", str(finding))
    if report.errors:
        lines = "\n  ".join(str(finding) for finding in report.errors)
        raise DataError(f"the data cannot be trained on:\n  {lines}")
