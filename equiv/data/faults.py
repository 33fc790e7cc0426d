"""Faults that make data useless: no structure, no number, or zero everywhere."""

from collections.abc import Callable

import numpy as np
from scipy.spatial import KDTree

from equiv.data.dataset import Dataset, Frame
from equiv.data.report import Finding, find, short_names

SAME_PLACE = 1e-3  # Angstrom


def find_faults(dataset: Dataset) -> list[Finding]:
    """Errors that need no judgement. Looks at every structure and label once."""
    findings = [
        finding
        for kind, message, broken in _STRUCTURE_FAULTS
        if (finding := _collect(dataset, kind, message, broken)) is not None
    ]
    findings += [
        finding
        for kind, message, broken in _LABEL_FAULTS
        if (finding := _collect(dataset, kind, message, broken)) is not None
    ]
    return findings + _zero_everywhere(dataset)


def _collect(
    dataset: Dataset, kind: str, message: str, broken: Callable[[Frame], bool]
) -> Finding | None:
    concerned = [frame for frame in dataset if broken(frame)]
    if not concerned:
        return None
    count = f"{len(concerned)} structure" + ("s" if len(concerned) > 1 else "")
    return find("error", kind, f"{count} {message}", concerned)


def _no_volume(frame: Frame) -> bool:
    rows = frame.atoms.cell.array[frame.atoms.pbc]
    if not len(rows) or not np.isfinite(rows).all():
        return False
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if (lengths == 0).any():
        return True
    return bool(np.linalg.svd(rows / lengths, compute_uv=False)[-1] < 1e-8)


def _same_place(frame: Frame) -> bool:
    """Whether two atoms, or an atom and a periodic image of another, sit on the same point."""
    positions, pbc = frame.atoms.positions, frame.atoms.pbc
    cell = np.asarray(frame.atoms.cell.complete().array) if pbc.any() else np.eye(3)
    if _no_volume(frame) or not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        return False
    inverse = np.linalg.inv(cell)
    reach = SAME_PLACE * np.linalg.norm(inverse, 2)
    if reach > 0.1 and pbc.any():  # so small a cell is a wrong unit, which is told elsewhere
        return False
    fractional = positions @ inverse
    wrapped = fractional[:, pbc] % 1.0
    fractional[:, pbc] = np.where(wrapped < 1.0, wrapped, 0.0)  # -1e-20 % 1 is 1
    pairs = KDTree(fractional, boxsize=pbc.astype(float)).query_pairs(reach, output_type="ndarray")
    apart = fractional[pairs[:, 0]] - fractional[pairs[:, 1]]
    apart -= np.round(apart) * pbc
    return bool((np.linalg.norm(apart @ cell, axis=1) < SAME_PLACE).any())


_STRUCTURE_FAULTS: list[tuple[str, str, Callable[[Frame], bool]]] = [
    ("empty structure", "without any atom", lambda f: len(f.atoms) == 0),
    (
        "unknown element",
        "with atoms that are no chemical element (X, or a symbol nobody knows); remove ghost atoms",
        lambda f: len(f.atoms) > 0 and bool((f.atoms.numbers < 1).any()),
    ),
    (
        "non-finite positions",
        "with positions that are not finite numbers",
        lambda f: not np.isfinite(f.atoms.positions).all(),
    ),
    (
        "non-finite cell",
        "with a cell that has entries that are not finite numbers",
        lambda f: not np.isfinite(f.atoms.cell.array).all(),
    ),
    (
        "no volume",
        "periodic in a direction whose lattice vector is zero or depends on the others; correct "
        "pbc or the cell",
        _no_volume,
    ),
    (
        "atoms on top of each other",
        "with two atoms in the same place (less than 0.001 Ang apart)",
        _same_place,
    ),
]

_LABEL_FAULTS: list[tuple[str, str, Callable[[Frame], bool]]] = [
    (
        "non-finite energy",
        "with an energy that is not a finite number",
        lambda f: f.energy is not None and not np.isfinite(f.energy),
    ),
    (
        "non-finite forces",
        "with forces that are not finite numbers",
        lambda f: f.forces is not None and not np.isfinite(f.forces).all(),
    ),
    (
        "non-finite stress",
        "with a stress that is not a finite number",
        lambda f: f.stress is not None and not np.isfinite(f.stress).all(),
    ),
]


def _zero_everywhere(dataset: Dataset) -> list[Finding]:
    """Labels that are exactly zero in all structures of a file: written, but never computed."""
    files: dict[str, list[Frame]] = {}
    for frame in dataset:
        if not frame.isolated and len(frame.atoms):
            files.setdefault(frame.source, []).append(frame)
    names = short_names(files)
    findings = []
    for name in ("energy", "forces", "stress"):
        for source, frames in files.items():
            labelled = [frame for frame in frames if getattr(frame, name) is not None]
            if not labelled or any(np.any(getattr(frame, name) != 0) for frame in labelled):
                continue
            if name != "energy" and len(labelled) == 1:
                # One perfect crystal may well have no forces and no stress.
                continue
            verb = "are" if name == "forces" else "is"
            findings.append(
                find(
                    "error",
                    f"all-zero {name}",
                    f"{name} {verb} exactly zero in all {len(labelled)} structures of "
                    f"{names[source]}; name the right key with labels.{name}, or leave {name} out "
                    "with null",
                    labelled,
                )
            )
    return findings
