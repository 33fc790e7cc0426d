"""Any property of structures or atoms, read under a name that the user gives."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np

from equiv.data.files import RawFrame, find_files, read_file
from equiv.errors import DataError

SHAPES = {(): "scalar", (3,): "vector", (3, 3): "tensor"}
"""Kinds of properties by the shape of one value."""


@dataclass
class PropertyFrame:
    """One structure and one property of it.

    Attributes:
        atoms: the structure, Angstrom.
        value: the property, of the structure or with one row per atom.
        of_atoms: whether there is one row per atom.
        kind: ``scalar``, ``vector`` or ``tensor``.
        where: file and number.
        group: what it is reported under.
    """

    atoms: ase.Atoms
    value: np.ndarray
    of_atoms: bool
    kind: str
    where: str
    group: str

    def digest(self) -> bytes:
        """Hash of structure and property."""
        digest = hashlib.sha256()
        atoms = self.atoms
        for array in (atoms.numbers, atoms.pbc, atoms.positions, atoms.cell.array, self.value):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()


def read_properties(sources: Sequence[Path | str], key: str) -> list[PropertyFrame]:
    """Every structure in some files, with the property called ``key``.

    Raises:
        DataError: a file cannot be read, a structure lacks the property, or its values are of a
            shape that is no property, not finite, not symmetric, or of different kinds.
    """
    frames = []
    for path in find_files(sources):
        frames += [_frame(raw, key, path) for raw in read_file(path)]
    if not frames:
        raise DataError(f"{', '.join(map(str, sources))}: no structures in there")
    kinds = {(frame.kind, frame.of_atoms): frame.where for frame in frames}
    if len(kinds) > 1:
        listed = "; ".join(
            f"{kind} of {'atoms' if atoms else 'the structure'} ({where})"
            for (kind, atoms), where in kinds.items()
        )
        raise DataError(f"{key} is not the same kind of property throughout: {listed}")
    return frames


def _frame(raw: RawFrame, key: str, path: Path) -> PropertyFrame:
    where = f"{Path(path).name}:{raw.index}"
    places: list[tuple[dict[str, Any], bool]] = [
        (raw.atoms.info, False),
        (raw.atoms.arrays, True),
        (raw.results, False),
    ]
    found = next(((place[key], of_atoms) for place, of_atoms in places if key in place), None)
    if found is None:
        held = sorted({*raw.atoms.info, *raw.atoms.arrays, *raw.results} - {"numbers", "positions"})
        raise DataError(
            f"{where}: no property called {key!r}; this structure has "
            f"{', '.join(held) or 'none at all'}"
        )
    try:
        value = np.array(found[0], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {key} should hold numbers, got {found[0]!r}") from error
    of_atoms = found[1] or (
        key in raw.results and value.ndim > 0 and value.shape[0] == len(raw.atoms) != 3
    )
    shape = value.shape[1:] if of_atoms else value.shape
    if shape == (9,):
        value, shape = value.reshape(*value.shape[:-1], 3, 3), (3, 3)
    if shape == (1,):
        value, shape = value[..., 0], ()
    if shape not in SHAPES:
        raise DataError(
            f"{where}: {key} should be a number, 3 numbers (a vector) or 9 (a symmetric tensor), "
            f"got shape {shape}"
        )
    if not np.isfinite(value).all():
        raise DataError(f"{where}: {key} holds values that are not finite")
    if shape == (3, 3):
        skew = np.abs(value - np.swapaxes(value, -1, -2)).max(initial=0.0)
        if skew > 1e-6 * max(np.abs(value).max(initial=0.0), 1.0):
            raise DataError(
                f"{where}: {key} is no symmetric tensor (components differ by up to {skew:.3g}); "
                "a regressor predicts symmetric ones: take the symmetric part, (T + T^T) / 2"
            )
    group = str(raw.atoms.info.get("config_type", "default"))
    return PropertyFrame(raw.atoms, value, bool(of_atoms), SHAPES[shape], where, group)
