"""From names of files to raw structures, each with the place where it came from."""

import collections
import glob
import io
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.db import connect
from ase.io.formats import UnknownFileTypeError, filetype, ioformats, open_with_compression

from equiv.data.damage import DAMAGED, reason_of, unreadable
from equiv.data.npz import read_npz
from equiv.data.slices import sliced
from equiv.errors import DataError

Sources = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

# Formats that hold bare numbers. ASE converts all others to eV and Angstrom while it reads them.
UNCONVERTED = ("extxyz", "xyz", "npz", "traj", "db", "json", "bundletrajectory")


@dataclass
class RawFrame:
    """A structure as it stands in a file, nothing converted.

    Attributes:
        atoms: the structure.
        results: what ASE took for results of a calculation, as stored (constraints not applied).
        source: the file.
        index: number in the file, from 0.
        line: line where it begins, from 1, if it is a text file read by lines.
        notes: oddities of the file seen on the way.
    """

    atoms: ase.Atoms
    results: dict[str, Any]
    source: str
    index: int
    line: int | None = None
    notes: list[str] = field(default_factory=list)


def find_files(sources: Sources) -> list[Path]:
    """Every file that `sources` (files, folders, glob patterns, or a list of them) names, once.

    The order is that of the list; what one pattern or folder yields is sorted by name. A part of a
    file is named as ASE does it, `molecules.npz@:500`.

    Raises:
        DataError: something named does not exist or matches nothing, or a folder holds no data
            file.
    """
    names = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not names:
        raise DataError("no data file was named; give at least one file, folder or pattern")
    found: dict[Path, None] = {}
    for name in names:
        for path in _matches(os.path.expanduser(os.fspath(name))):
            found[path] = None
    return list(found)


def _matches(name: str) -> list[Path]:
    path = Path(name)
    if path.is_fifo():
        raise DataError(
            f"{name}: this is a pipe, and a data file is read more than once; write it to a file"
        )
    if path.is_dir() and path.suffix != ".bundle":
        files = sorted(
            entry for entry in path.iterdir() if entry.is_file() and _looks_like_data(entry)
        )
        if not files:
            raise DataError(
                f"{name}: this folder holds no data file (.xyz, .extxyz, .traj, .db, .json, .npz, "
                "vasprun.xml, OUTCAR); name the files if they are called otherwise"
            )
        return files
    if path.exists():
        return [path]
    if glob.has_magic(name):
        files = sorted(Path(match) for match in glob.glob(name, recursive=True))
        if not files:
            raise DataError(f"{name}: no file matches this pattern (in {Path.cwd()})")
        return [file for match in files for file in _matches(str(match))]
    if sliced(path)[0].is_file():
        return [path]
    hint = ""
    if not path.is_absolute():
        hint = f" (looked in {Path.cwd()})"
    raise DataError(f"{name}: no such file{hint}")


def _looks_like_data(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    return not path.name.startswith(".") and (
        name.endswith((".xyz", ".extxyz", ".traj", ".db", ".json", ".npz"))
        or name.startswith(("vasprun", "outcar"))
    )


def read_file(path: Path) -> Iterator[RawFrame]:
    """The structures of one file, or of the part of it that is named, one at a time.

    Raises:
        DataError: the file is empty, of unknown format, truncated or damaged; the message names the
            file, the number of the structure and, in text files, the line.
    """
    name = path
    path, part = sliced(name)
    form = file_format(path)
    if form in ("extxyz", "xyz"):
        frames = _read_xyz(path)
    elif form == "npz":
        frames = (
            RawFrame(atoms, results, str(path), index) for index, atoms, results in read_npz(path)
        )
    else:
        frames = _read_with_ase(path, form)
    count = 0
    for frame in frames if part == slice(None) else list(frames)[part]:
        count += 1
        yield frame
    if count == 0:
        raise DataError(f"{name}: the file holds no structure")


def file_format(path: Path) -> str:
    """ASE's name of the format of a file (or of one that a part is named of), or `npz`.

    Raises:
        DataError: it cannot be read or nobody knows the format.
    """
    path, _ = sliced(path)
    if path.suffix == ".npz":
        return "npz"
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        form = filetype(str(path))
    except UnknownFileTypeError:
        raise DataError(
            f"{path}: unknown file format; extended XYZ (.xyz) is understood by every program"
        ) from None
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be read: {reason_of(error)}") from error
    if form not in ioformats:
        raise DataError(
            f"{path}: unknown file format {form!r}; extended XYZ (.xyz) is understood by every "
            "program"
        )
    return form


def _read_with_ase(path: Path, form: str) -> Iterator[RawFrame]:
    index = 0
    try:
        notes = _cut_off(path) if form == "vasp-xml" else []
        structures = iter(
            _rows(path, form)
            if form in ("db", "json")
            else ase.io.iread(path, index=":", format=form)
        )
        while True:
            with warnings.catch_warnings():
                # Readers warn about entries we do not use; what we do use is checked afterwards.
                warnings.simplefilter("ignore")
                atoms = next(structures, None)
            if atoms is None:
                return
            frame = _raw(atoms, path, index)
            frame.notes += notes
            yield frame
            index += 1
    except DataError:
        raise
    except Exception as error:  # readers of some 80 formats fail in their own ways
        raise unreadable(path, index, None, error, form) from error


def _rows(path: Path, form: str) -> Iterator[ase.Atoms]:
    """Structures of an ASE database with everything their rows hold under a name."""
    for row in connect(path, type=form, use_lock_file=False).select():
        atoms = row.toatoms()
        atoms.info.update(row.key_value_pairs)
        for key, value in row.data.items():
            array = np.asarray(value)
            if array.ndim > 1 and len(array) == len(atoms):
                atoms.arrays.setdefault(key, array)
            else:
                atoms.info.setdefault(key, value)
        yield atoms


def _cut_off(path: Path) -> list[str]:
    """ASE reads the complete steps of a vasprun.xml and is silent about the rest."""
    with open_with_compression(str(path), "rb") as file:
        tail = collections.deque(file, maxlen=3)
    if any(b"</modeling>" in line for line in tail):
        return []
    return ["the file is not complete (the calculation was still running, or was stopped)"]


def _read_xyz(path: Path) -> Iterator[RawFrame]:
    """(Extended) XYZ by lines: readers of whole files stop silently at the first blank line."""
    number, index = 0, 0
    try:
        with open_with_compression(str(path), "r") as file:
            head = file.readline()
            while head:
                number += 1
                if not head.strip():
                    head = file.readline()
                    continue
                start = number
                count = _atom_count(head, path, index, number)
                chunk = [head, *itertools.islice(file, count + 1)]
                number = start + len(chunk) - 1
                if len(chunk) < count + 2:
                    raise DataError(
                        f"{path}: structure {index} (line {start}) is cut off: it should have "
                        f"{count} atoms, but the file ends after {max(len(chunk) - 2, 0)}"
                    )
                head = file.readline()
                while head.startswith("VEC"):  # lattice vectors in the dialect of ADF
                    chunk.append(head)
                    number += 1
                    head = file.readline()
                frame = _parse_xyz(chunk, path, index, start)
                if not chunk[-1].endswith("\n"):
                    frame.notes.append("the last line does not end; the file may have been cut off")
                yield frame
                index += 1
    except DataError:
        raise
    except DAMAGED as error:
        raise unreadable(path, index, number + 1, error, "xyz") from error


def _atom_count(head: str, path: Path, index: int, line: int) -> int:
    try:
        count = int(head)
    except ValueError:
        count = -1
    if count < 0:
        raise DataError(
            f"{path}: structure {index} (line {line}) should begin with its number of atoms, "
            f"got {head.strip()[:60]!r}"
        )
    return count


def _parse_xyz(chunk: list[str], path: Path, index: int, line: int) -> RawFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms: Any = ase.io.read(io.StringIO("".join(chunk)), index=0, format="extxyz")
    except Exception as error:  # a damaged line surfaces as whatever numpy or ASE tripped over
        place = f"{path}: structure {index} (line {line})"
        if isinstance(error, KeyError):  # of the table of elements
            raise DataError(f"{place}: {error} is not a chemical element") from error
        if "could not assign tuple" in str(error):
            raise DataError(
                f"{place}: a line of its {len(chunk) - 2} atoms has fewer columns than the second "
                "line announces; is the number of atoms right, and the file complete?"
            ) from error
        raise unreadable(path, index, line, error, "extxyz") from error
    frame = _raw(atoms, path, index)
    frame.line = line
    if len(chunk) > 2:
        columns = 4 + sum(
            np.asarray(array).reshape(len(atoms), -1).shape[1]
            for name, array in {**atoms.arrays, **_per_atom(frame.results, len(atoms))}.items()
            if name not in ("numbers", "positions")
        )
        extra = len(chunk[2].split()) - columns
        if extra > 0 and "Properties" not in chunk[1]:
            frame.notes.append(
                f"{extra} columns after the coordinates have no name (no Properties= in the second "
                "line) and are not read"
            )
    return frame


def _per_atom(results: dict[str, Any], atoms: int) -> dict[str, Any]:
    return {k: v for k, v in results.items() if np.ndim(v) and np.shape(v)[0] == atoms}


def _raw(atoms: Any, path: Path, index: int) -> RawFrame:
    # The stored results, never get_forces(): that one zeroes forces on constrained atoms.
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    atoms.calc = None
    return RawFrame(atoms, results, str(path), index)
