"""Energies of the free atoms, which a model adds back to what it learns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from equiv.data.dataset import Dataset, Frame
from equiv.errors import DataError

SHOWN = 12  # elements named one by one
Choice = Literal["auto", "isolated", "least_squares"] | Mapping[str, float]


@dataclass(frozen=True)
class ReferenceEnergies:
    """:math:`E^0_z` for every element, and where they come from.

    Attributes:
        values: eV by atomic number.
        how: `isolated`, `table` or `least_squares`.
        rank: for least squares: how many independent compositions there are.
        condition: for least squares: ratio of the largest to the smallest singular value that is
            not zero.
        residual: root mean square of what the reference energies leave over, eV/atom; NaN without
            energies.
        undetermined: combinations of elements whose energy the data cannot tell, in words.
    """

    values: dict[int, float]
    how: str
    rank: int | None = None
    condition: float | None = None
    residual: float = float("nan")
    undetermined: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, by symbol."""
        return {**vars(self), "values": {chemical_symbols[z]: e for z, e in self.values.items()}}

    def __str__(self) -> str:
        energies = sorted(self.values.items())
        table = "  ".join(f"{chemical_symbols[z]} {e:.4f}" for z, e in energies)
        if len(energies) > SHOWN:
            low, high = (choose(energies, key=lambda item: item[1]) for choose in (min, max))
            table = (
                f"{len(energies)} elements from {chemical_symbols[low[0]]} {low[1]:.4f} to "
                f"{chemical_symbols[high[0]]} {high[1]:.4f}"
            )
        how = {
            "isolated": "isolated atoms",
            "table": "given table",
            "least_squares": "least squares",
        }[self.how]
        details = []
        if self.rank is not None:
            details.append(f"rank {self.rank} of {len(self.values)}")
        if self.condition is not None and np.isfinite(self.condition) and self.condition > 1:
            details.append(f"condition {self.condition:.1f}")
        if np.isfinite(self.residual):
            details.append(f"leaves {1e3 * self.residual:.0f} meV/atom rms")
        text = f"{how}: {table} eV" + (f" ({', '.join(details)})" if details else "")
        if self.undetermined:
            text += (
                f"; the data do not determine {', '.join(self.undetermined)}: the smallest values "
                "that fit are used, so energies of other compositions mean nothing. Give isolated "
                "atoms or a table to fix that"
            )
        return text


def reference_energies(dataset: Dataset, choice: Choice = "auto") -> ReferenceEnergies:
    r"""Energies of the free atoms of every element in the data.

    .. math::
        E_s \approx \sum_z n_{sz} E^0_z

    with :math:`n_{sz}` atoms of element :math:`z` in structure :math:`s`. `isolated` takes the
    energies of the free atoms in the data (their mean if there are several); `least_squares` fits
    the others, and where the compositions do not determine the answer takes the one of smallest
    norm and says what is undetermined; `auto` is `isolated` if every element has a free atom and
    `least_squares` otherwise; a table gives eV by symbol.

    Raises:
        DataError: an element has no free atom or is not in the table (all are listed); there are no
            energies to fit.
    """
    if len(dataset) == 0:
        raise DataError("reference energies need data; this set has no structure")
    elements = dataset.elements
    if isinstance(choice, Mapping):
        values, how = _from_table(choice, elements), "table"
    elif choice == "least_squares":
        return _least_squares(dataset)
    elif choice in ("auto", "isolated"):
        values, how = _isolated(dataset), "isolated"
        missing = [chemical_symbols[z] for z in elements if z not in values]
        if missing and choice == "auto":
            return _least_squares(dataset)
        if missing:
            raise DataError(
                f"no isolated atom of {', '.join(missing)} is in the data; add a structure with "
                "one atom, no periodicity and its energy for each, or choose least_squares or a "
                "table"
            )
    else:
        raise DataError(
            "reference_energies should be 'auto', 'isolated', 'least_squares' or a table of eV by "
            f"symbol, got {choice!r}"
        )
    residual = _residual(dataset, values)
    return ReferenceEnergies({z: values[z] for z in sorted(values)}, how, residual=residual)


def _from_table(table: Mapping[str, float], elements: list[int]) -> dict[int, float]:
    unknown = [symbol for symbol in table if symbol not in atomic_numbers or symbol == "X"]
    if unknown:
        raise DataError(f"reference_energies: no such element: {', '.join(map(repr, unknown))}")
    infinite = [symbol for symbol, energy in table.items() if not np.isfinite(energy)]
    if infinite:
        raise DataError(f"reference_energies: not a finite number for {', '.join(infinite)}")
    values = {atomic_numbers[symbol]: float(energy) for symbol, energy in table.items()}
    missing = [chemical_symbols[z] for z in elements if z not in values]
    if missing:
        raise DataError(
            f"reference_energies: the table has no {', '.join(missing)}, which the data contain; "
            f"it has {', '.join(table) or 'nothing'}"
        )
    return values


def _isolated(dataset: Dataset) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for frame in dataset:
        if frame.isolated and frame.energy is not None:
            found.setdefault(int(frame.atoms.numbers[0]), []).append(frame.energy)
    for z, energies in found.items():
        if np.ptp(energies) > 0.01:
            raise DataError(
                f"the isolated atoms of {chemical_symbols[z]} have different energies: "
                f"{min(energies):.4f} to {max(energies):.4f} eV; keep one (the ground state), or "
                "give a table"
            )
    return {z: float(np.mean(energies)) for z, energies in found.items()}


def _bound(dataset: Dataset) -> Dataset:
    """What reference energies are measured against: structures with energy but no free atoms."""
    keep = [
        i
        for i, frame in enumerate(dataset)
        if frame.energy is not None and len(frame.atoms) and not frame.isolated
    ]
    return dataset.subset(keep)


def _least_squares(dataset: Dataset) -> ReferenceEnergies:
    bound = _bound(dataset)
    if not len(bound):
        bound = dataset.subset([i for i, f in enumerate(dataset) if f.energy is not None])
    if not len(bound):
        raise DataError(
            "reference energies cannot be fitted without energies; give a table "
            "(reference_energies: {H: 0.0, ...})"
        )
    elements, covered = dataset.elements, set(bound.elements)
    if missing := [chemical_symbols[z] for z in elements if z not in covered]:
        raise DataError(
            f"reference energies of {', '.join(missing)} cannot be fitted: no structure with an "
            "energy contains them; give a table"
        )
    counts, energy = bound.composition(), _energies(bound)
    if not np.isfinite(energy).all():
        raise DataError("reference energies cannot be fitted: some energies are not finite")
    # Every structure counts per atom, as in the loss.
    atoms = counts.sum(axis=1)
    u, s, vt = np.linalg.svd(counts / atoms[:, None], full_matrices=False)
    rank = int((s > 1e-8 * s[0]).sum())
    fitted = vt[:rank].T @ ((u[:, :rank].T @ (energy / atoms)) / s[:rank])
    values = dict(zip(elements, map(float, fitted), strict=True))
    return ReferenceEnergies(
        values,
        "least_squares",
        rank=rank,
        condition=float(s[0] / s[rank - 1]),
        residual=_residual(bound, values),
        undetermined=_undetermined(vt[:rank], elements),
    )


def _undetermined(known: np.ndarray, elements: list[int]) -> list[str]:
    """Groups of elements whose energies trade against each other unseen."""
    # Projector on the null space; elements that occur in it together belong to one group.
    free = np.eye(len(elements)) - known.T @ known
    groups: list[set[int]] = []
    for k in range(len(elements)):
        linked = {j for j in range(len(elements)) if abs(free[k, j]) > 1e-6}
        if not linked:
            continue
        touching = [group for group in groups if group & linked]
        groups = [group for group in groups if not group & linked]
        groups.append(linked.union(*touching))
    return [
        "how the energy is shared among "
        + ", ".join(chemical_symbols[elements[k]] for k in sorted(group))
        for group in groups
    ]


def _energies(dataset: Dataset) -> np.ndarray:
    return np.array([frame.energy for frame in dataset], dtype=np.float64)


def _residual(dataset: Dataset, values: Mapping[int, float]) -> float:
    left = [left_over(frame, values) for frame in _bound(dataset)]
    return float(np.sqrt(np.mean(np.square(left)))) if left else float("nan")


def left_over(frame: Frame, values: Mapping[int, float]) -> float:
    r""":math:`(E - \sum_i E^0_{z_i})/N` of one structure, eV/atom."""
    numbers = frame.atoms.numbers
    energy = float("nan") if frame.energy is None else frame.energy
    return (energy - sum(values[int(z)] for z in numbers)) / len(numbers)
