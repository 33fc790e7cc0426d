"""Molecules in .npz archives, as sGDML, rMD17, SchNet and many others publish them."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.data import chemical_symbols

from equiv.data.damage import unreadable
from equiv.errors import DataError

NAMES = {
    "sizes": ("n_atoms", "natoms", "num_atoms", "N"),
    "numbers": ("nuclear_charges", "atomic_numbers", "numbers", "z", "Z"),
    "positions": ("coords", "coordinates", "positions", "R"),
    "energy": ("energies", "energy", "E"),
    "forces": ("forces", "force", "F"),
    "cell": ("cell", "cells", "lattice"),
    "pbc": ("pbc",),
}
MAX_BYTES = 16 * 2**30


def read_npz(path: Path) -> Iterator[tuple[int, ase.Atoms, dict[str, Any]]]:
    """Number, structure and results of every structure in an archive.

    Values of atoms have shape (structures, atoms, ...) or, where sizes differ, (all atoms, ...)
    with the number of atoms of each structure beside them. Arrays of other names become entries of
    the structures, where labels are looked for. Nothing is unpickled.

    Raises:
        DataError: the archive is damaged, holds pickled objects, has no numbers or positions, or
            shapes that do not fit together.
    """
    arrays = load_arrays(path)
    known = {name: next((k for k in keys if k in arrays), "") for name, keys in NAMES.items()}
    if not known["numbers"] or not known["positions"]:
        raise DataError(
            f"{path}: needs atomic numbers ({', '.join(NAMES['numbers'])}) and positions "
            f"({', '.join(NAMES['positions'])}); it holds {', '.join(sorted(arrays)) or 'nothing'}"
        )
    for name in filter(None, known.values()):
        if arrays[name].dtype.kind not in "biuf":
            raise DataError(
                f"{path}: {name} should hold real numbers, got an array of type "
                f"{arrays[name].dtype}"
            )
    sizes = _sizes(arrays, known)
    count, last = len(sizes), np.cumsum(sizes)

    def of_atoms(name: str, *shape: int) -> np.ndarray:
        flat = _by_atom(arrays[known[name]], sizes)
        if flat is None or flat.shape[1:] != shape:
            raise DataError(
                f"{path}: {known[name]} should have one row for each atom of {count} structures "
                f"with {sizes.sum()} atoms together, got shape {arrays[known[name]].shape}"
            )
        return flat

    numbers, positions = of_atoms("numbers"), of_atoms("positions", 3)
    impossible = (numbers < 0) | (numbers >= len(chemical_symbols)) | (numbers % 1 != 0)
    if impossible.any():
        raise DataError(
            f"{path}: {known['numbers']} should hold atomic numbers from 1 to 118, got "
            f"{numbers[impossible][0]}"
        )
    forces = of_atoms("forces", 3) if known["forces"] else None
    energies = arrays[known["energy"]].reshape(-1) if known["energy"] else None
    if energies is not None and len(energies) != count:
        raise DataError(
            f"{path}: {known['energy']} should hold one number for each of {count} structures, got "
            f"{len(energies)}"
        )
    cells = arrays[known["cell"]] if known["cell"] else None
    if cells is not None and (cells.size not in (9, 9 * count) or cells.shape[-2:] != (3, 3)):
        raise DataError(
            f"{path}: {known['cell']} should have shape (3, 3) or ({count}, 3, 3), got "
            f"{cells.shape}"
        )
    cells = None if cells is None else cells.reshape(-1, 3, 3)
    pbc = arrays[known["pbc"]] if known["pbc"] else np.full(3, cells is not None)
    if pbc.shape not in ((), (1,), (3,), (count, 3)):
        raise DataError(
            f"{path}: {known['pbc']} should have shape (3,) or ({count}, 3), got {pbc.shape}"
        )
    others = {name: array for name, array in arrays.items() if name not in known.values()}
    for index in range(count):
        mine = slice(last[index] - sizes[index], last[index])
        atoms = ase.Atoms(
            numbers=numbers[mine].astype(int),
            positions=positions[mine].astype(float),
            cell=None if cells is None else cells[index if len(cells) > 1 else 0],
            pbc=pbc[index] if pbc.ndim > 1 else pbc,
        )
        results: dict[str, Any] = {}
        if energies is not None:
            results["energy"] = float(energies[index])
        if forces is not None:
            results["forces"] = forces[mine].astype(float)
        for name, array in others.items():
            _attach(atoms, name, array, index, mine, sizes)
        yield index, atoms, results


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive, without unpickling anything.

    Raises:
        DataError: the archive is damaged, holds pickled objects, or unpacks to too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"{path}: unpacks to {size / 2**30:.1f} GiB, which is refused")
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in stored.files}
    except DataError:
        raise
    except Exception as error:  # zip, zlib and numpy each have their own errors for a damaged file
        raise unreadable(path, 0, None, error, "npz") from error


def _sizes(arrays: dict[str, np.ndarray], known: dict[str, str]) -> np.ndarray:
    """The number of atoms of every structure."""
    positions = arrays[known["positions"]]
    sizes = arrays[known["sizes"]].reshape(-1) if known["sizes"] else np.zeros(0)
    if positions.ndim == 3:
        return np.full(positions.shape[0], positions.shape[1])
    if sizes.size and sizes.sum() == len(positions) and (sizes >= 0).all():
        return sizes.astype(int)
    return np.array([len(positions)])


def _by_atom(array: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """The array with one row for each atom of all structures, or None if it is not one of atoms."""
    count, total = len(sizes), int(sizes.sum())
    if count and (sizes == sizes[0]).all():
        if array.shape[:2] == (count, sizes[0]):
            return array.reshape(total, *array.shape[2:])
        if array.shape == (sizes[0],):
            return np.tile(array, count)  # the same molecule throughout
    return array if array.shape[:1] == (total,) else None


def _attach(
    atoms: ase.Atoms, name: str, array: np.ndarray, index: int, mine: slice, sizes: np.ndarray
) -> None:
    """Give a structure its share of an array of some other name."""
    if array.dtype.kind not in "biufU" or array.ndim == 0:
        return
    if array.shape[0] == len(sizes) and array.ndim < 3:
        value = array[index]
        atoms.info[name] = value.item() if value.ndim == 0 else np.array(value)
    elif (rows := _by_atom(array, sizes)) is not None and name not in atoms.arrays:
        atoms.arrays[name] = np.array(rows[mine])
