"""A data set at a glance: sizes, compositions, ranges of its values."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv import units
from equiv.data.dataset import DEFAULT_GROUP, Dataset, Frame
from equiv.data.moments import Statistics, statistics
from equiv.data.reference import ReferenceEnergies, left_over
from equiv.data.suspicions import nearest_contact

if TYPE_CHECKING:
    from rich.table import Table

FEW = 5  # compositions or groups named one by one


@dataclass(frozen=True)
class Range:
    """How one property is distributed.

    Attributes:
        name: what it is.
        unit: unit of the numbers, chosen so that they are near one.
        low: smallest value.
        mean: mean.
        rms: root mean square.
        high: largest value.
    """

    name: str
    unit: str
    low: float
    mean: float
    rms: float
    high: float


@dataclass(frozen=True)
class Overview:
    """What is in a data set apart from free atoms.

    Attributes:
        facts: topics and sentences.
        ranges: distributions.
        moments: what training will use; None if some element has no reference energy.
    """

    facts: dict[str, str]
    ranges: list[Range]
    moments: Statistics | None

    @property
    def table(self) -> "Table":
        """The distributions as a rich table."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("value", style="bold")
        for name in ("smallest", "mean", "rms", "largest"):
            table.add_column(name, justify="right")
        table.add_column("unit")
        for row in self.ranges:
            numbers = (_rounded(value) for value in (row.low, row.mean, row.rms, row.high))
            table.add_row(row.name, *numbers, row.unit)
        return table

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in eV and Angstrom but for the units written beside the numbers."""
        return {
            "facts": self.facts,
            "ranges": [vars(row) for row in self.ranges],
            "statistics": None if self.moments is None else vars(self.moments),
        }


def overview(dataset: Dataset, reference: ReferenceEnergies | None, *, cutoff: float) -> Overview:
    """Look at every structure once.

    Args:
        dataset: structures without faults.
        reference: energies of the free atoms; None leaves energies out.
        cutoff: for the number of neighbours, Angstrom.
    """
    bound = dataset.without_isolated()
    frames = list(bound)
    ranges = []
    energies = [f for f in frames if f.energy is not None and len(f.atoms)]
    moments = None
    if reference is not None and all(z in reference.values for z in bound.elements):
        values = np.array([left_over(frame, reference.values) for frame in energies])
        ranges += _range("energy above reference", "eV/atom", values)
        moments = statistics(frames, cutoff, reference.values)
    forces = _all(frames, lambda f: None if f.forces is None else f.forces.ravel())
    ranges += _range("force component", "eV/Å", forces)
    ranges += _range(
        "force on an atom",
        "eV/Å",
        _all(frames, lambda f: None if f.forces is None else np.linalg.norm(f.forces, axis=1)),
    )
    stress = _all(frames, lambda f: None if f.stress is None else f.stress.ravel())
    ranges += _range("stress component", "GPa", stress / units.GPA)
    ranges += _range(
        "pressure",
        "GPa",
        _all(frames, lambda f: None if f.stress is None else -np.trace(f.stress)[None] / 3)
        / units.GPA,
    )
    ranges += _range(
        "volume per atom",
        "Å³",
        _all(
            frames,
            lambda f: (
                np.array([f.atoms.cell.volume / len(f.atoms)])
                if f.atoms.pbc.all() and len(f.atoms)
                else None
            ),
        ),
    )
    contacts = np.array([nearest_contact(frame)[0] for frame in frames])
    ranges += _range("shortest bond / covalent", "", contacts[np.isfinite(contacts)])
    return Overview(_facts(bound), ranges, moments)


def _facts(dataset: Dataset) -> dict[str, str]:
    frames = list(dataset)
    sizes = [len(frame.atoms) for frame in frames]
    facts: dict[str, str] = {}
    formulas = Counter(frame.atoms.get_chemical_formula("hill") for frame in frames)
    facts["formulas"] = _named(formulas, "compositions")
    if sizes and min(sizes) != max(sizes):
        facts["formulas"] += (
            f"; {min(sizes)} to {max(sizes)} atoms, {np.mean(sizes):.1f} on average"
        )
    kinds = Counter(_KINDS[int(frame.atoms.pbc.sum())] for frame in frames)
    facts["periodic"] = _named(kinds, "kinds")
    groups = Counter(frame.group for frame in frames)
    if set(groups) != {DEFAULT_GROUP}:
        facts["groups"] = _named(groups, "groups")
    return facts


_KINDS = ("not periodic", "periodic in 1 direction", "periodic in 2 directions", "periodic crystal")


def _named(counts: Counter[str], plural: str) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    shown = ", ".join(f"{name} ({count})" for name, count in counts.most_common(FEW))
    return shown + (f" and {len(counts) - FEW} more {plural}" if len(counts) > FEW else "")


def _all(frames: list[Frame], values: Callable[[Frame], Any]) -> np.ndarray:
    found = [value for frame in frames if (value := values(frame)) is not None]
    return np.concatenate(found) if found else np.zeros(0)


def _range(name: str, unit: str, values: np.ndarray) -> list[Range]:
    if not values.size:
        return []
    return [
        Range(
            name,
            unit,
            float(values.min()),
            float(values.mean()),
            float(np.sqrt(np.mean(np.square(values)))),
            float(values.max()),
        )
    ]


def _rounded(value: float) -> str:
    # "-0.000" tells nobody anything.
    text = f"{value:.3f}"
    return "0.000" if float(text) == 0 else text
