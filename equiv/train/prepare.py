"""From files to what the loop needs: checked structures, splits, graphs, statistics, and a model of the right size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from equiv.data import (
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
from equiv.models import Model, build_model
from equiv.train.console import RunConsole
from equiv.train.loop import Learned
from equiv.train.recipe import Recipe
from equiv.train.sampler import automatic_edge_budget

AUTOMATIC_STEPS = 20_000  # optimizer steps of a run that names neither epochs nor max_time


@dataclass
class Split:
    """One set of structures: as read, and as graphs."""

    name: str
    dataset: Dataset
    graphs: list[AtomGraph]

    @property
    def groups(self) -> list[str]:
        """The group of every structure."""
        return [frame.group for frame in self.dataset]


@dataclass
class Prepared:
    """Everything that is settled before the first step.

    Attributes:
        recipe: the recipe with every `auto` replaced by the value chosen (except epochs that follow the clock).
        train: the training set.
        valid: the validation set; may be empty.
        tests: the test sets.
        learned: which labels are learned, and their natural sizes.
        reference: energies of the free atoms.
        arguments: arguments of the architecture.
        fingerprint: hash of the content of the training and validation structures and of their labels.
        device: where training runs.
    """

    recipe: Recipe
    train: Split
    valid: Split
    tests: list[Split]
    learned: Learned
    reference: ReferenceEnergies
    arguments: dict[str, Any]
    fingerprint: str
    device: torch.device

    def model(self) -> Model:
        """The untrained model."""
        train = self.recipe.train
        return build_model(
            self.recipe.model.name,
            seed=train.seed,
            dtype=getattr(torch, train.dtype),
            **self.arguments,
        ).to(self.device)

    @property
    def splits(self) -> list[Split]:
        """Training, validation and test sets, those that hold anything."""
        return [split for split in (self.train, self.valid, *self.tests) if len(split.dataset)]


def prepare(recipe: Recipe, console: RunConsole) -> Prepared:
    """Read and check the data, and settle every choice the recipe leaves open; each one is printed.

    Raises:
        EquivError: the data cannot be trained on; the message says which structures and why.
    """
    device = choose_device(recipe.train.device)
    train, valid, tests = read_splits(recipe, console)
    reference = reference_energies(train, recipe.data.reference_energies)
    console.fact("E0", str(reference))
    train, valid = _without_isolated(train), _without_isolated(valid)
    if recipe.data.valid is None:
        train, valid = split_frames(
            train,
            recipe.data.valid_fraction,
            seed=recipe.train.seed,
            group_key=recipe.data.group_key,
        )
    console.fact(
        "split",
        f"{len(train)} train / {len(valid)} valid"
        + (
            ""
            if recipe.data.valid is not None
            else f" (held out: {recipe.data.valid_fraction:.0%}, by content hash)"
        )
        + "".join(f" / {len(dataset)} {name}" for name, dataset in tests.items()),
    )
    if not len(train):
        raise DataError(
            "no structure is left to train on after setting isolated atoms and the validation part aside"
        )
    _report(check_leakage(train, {"valid": valid, **tests}), console)

    cutoff = recipe.model.cutoff
    splits = [
        Split(name, dataset, graphs_of(dataset, cutoff))
        for name, dataset in {"train": train, "valid": valid, **tests}.items()
    ]
    learned, shift, neighbors = natural_sizes(splits[0], reference.values, recipe)
    recipe, arguments = _settle(recipe, splits[0], reference, learned, shift, neighbors, console)
    return Prepared(
        recipe=recipe,
        train=splits[0],
        valid=splits[1],
        tests=splits[2:],
        learned=learned,
        reference=reference,
        arguments=arguments,
        fingerprint=f"{train.fingerprint}:{valid.fingerprint}",
        device=device,
    )


def read_splits(recipe: Recipe, console: RunConsole) -> tuple[Dataset, Dataset, dict[str, Dataset]]:
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
    """The graphs of all structures of a set, with labels; `frame_index` is the position in the set."""
    graphs = []
    for index, frame in enumerate(dataset):
        graph = AtomGraph.from_atoms(frame.atoms, cutoff, labels=frame)
        graph.frame_index = torch.tensor([index])
        graphs.append(graph)
    return graphs


def natural_sizes(
    split: Split, reference: dict[int, float], recipe: Recipe
) -> tuple[Learned, float, float]:
    r"""Which labels there are to learn and their natural sizes; the energy shift per atom; the mean number of neighbours.

    The size of the energies is the standard deviation of :math:`(E - \sum_i E^0_{z_i}) / N`, that of forces and stress
    the root mean square of their components. A size of zero (a single structure, say) is replaced by 1 meV/atom,
    1 meV/Angstrom or 0.1 meV/Angstrom^3, which only matters for the scale of the validation score.
    """
    weights = recipe.train
    energies, forces, stresses = [], [], []
    for frame in split.dataset:
        numbers = frame.atoms.numbers
        if frame.energy is not None and len(numbers):
            energies.append((frame.energy - sum(reference[int(z)] for z in numbers)) / len(numbers))
        if frame.forces is not None:
            forces.append(np.asarray(frame.forces).ravel())
        if frame.stress is not None:
            stresses.append(np.asarray(frame.stress).ravel())
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
    return learned, shift, edges / atoms if atoms else 0.0


def _settle(
    recipe: Recipe,
    split: Split,
    reference: ReferenceEnergies,
    learned: Learned,
    shift: float,
    neighbors: float,
    console: RunConsole,
) -> tuple[Recipe, dict[str, Any]]:
    """Replace every `auto` and say so."""
    chosen: list[str] = []

    def settle(name: str, given: Any, value: Any, shown: str) -> Any:
        if given != "auto":
            return given
        chosen.append(f"{name} = {shown}")
        return value

    model, train = recipe.model, recipe.train
    if neighbors == 0 and model.mean_neighbors == "auto":
        raise EquivError(
            f"no atom of the training set has a neighbour within model.cutoff = {model.cutoff:g} Angstrom; "
            "raise the cutoff or check the unit of length"
        )
    scale = learned.forces if learned.forces is not None else learned.energy or 1.0
    model = model.model_copy(
        update={
            "mean_neighbors": settle(
                "mean_neighbors", model.mean_neighbors, neighbors, f"{neighbors:.2f}"
            ),
            "scale": settle("scale", model.scale, scale, f"{scale:.4g} eV"),
            "shift": settle("shift", model.shift, shift, f"{shift:.4g} eV/atom"),
        }
    )
    num_edges = [int(graph.senders.shape[0]) for graph in split.graphs]
    budget = automatic_edge_budget(num_edges, train.batch_size)
    changes: dict[str, Any] = {
        "batch_edges": settle(
            "batch_edges",
            train.batch_edges,
            budget,
            f"{budget} (up to {train.batch_size} structures)",
        )
    }
    if train.epochs == "auto" and train.max_time is None:
        epochs = min(max(math.ceil(AUTOMATIC_STEPS * train.batch_size / len(num_edges)), 10), 2000)
        changes["epochs"] = settle("epochs", "auto", epochs, str(epochs))
    elif train.epochs == "auto":
        chosen.append(
            "epochs = as many as max_time allows (the schedule follows the clock: runs differ in detail)"
        )
    for line in chosen:
        console.fact("auto", line)
    table = {chemical_symbols[z]: float(energy) for z, energy in reference.values.items()}
    symbols = [chemical_symbols[z] for z in split.dataset.elements]
    arguments = model.model_dump(exclude={"name"}) | {
        "elements": symbols,
        "reference_energies": {symbol: table[symbol] for symbol in symbols},
    }
    data = recipe.data.model_copy(update={"reference_energies": arguments["reference_energies"]})
    settled = recipe.model_copy(
        update={"model": model, "train": train.model_copy(update=changes), "data": data}
    )
    return settled, arguments


def choose_device(name: str) -> torch.device:
    """The device of a recipe; `auto` is the first GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EquivError(
            f"train.device = {name!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return device


def _rms(parts: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate(parts))))) if parts else 0.0


def _without_isolated(dataset: Dataset) -> Dataset:
    return dataset.subset([i for i, frame in enumerate(dataset) if not frame.isolated])


def _report(report: Any, console: RunConsole) -> None:
    """Print what a check found; errors stop the run."""
    errors = [str(finding) for finding in report.findings if finding.severity == "error"]
    for finding in report.findings:
        if finding.severity == "warning":
            console.warn(str(finding))
        elif finding.severity == "note":
            console.fact("note", str(finding))
    if errors:
        raise DataError("the data cannot be trained on:\n  " + "\n  ".join(errors))
