"""Sets of Hamiltonians in .npz archives."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from equiv.data.npz import load_arrays
from equiv.errors import DataError
from equiv.hamiltonian.basis import OrbitalBasis, basis_from_shells
from equiv.hamiltonian.frames import HamiltonianFrame, HamiltonianSet, Theory, checked_matrix

NAMES = {
    "numbers": ("atomic_numbers", "numbers", "z", "Z"),
    "positions": ("positions", "coordinates", "R"),
    "hamiltonian": ("hamiltonian", "H", "fock", "Fock"),
    "overlap": ("overlap", "S"),
    "minao": ("baseline_minao", "H_init", "initial_hamiltonian"),
    "sap": ("baseline_sap",),
    "atoms": ("n_atoms",),
    "orbitals": ("n_basis",),
    "energy": ("energy",),
}
MATRICES = ("hamiltonian", "overlap", "minao", "sap")
FORMAT = "equiv-hamiltonians-1"


def read_hamiltonians(
    path: str | PathLike[str],
    *,
    basis: OrbitalBasis | str | None = None,
    theory: Theory | None = None,
) -> HamiltonianSet:
    """Read molecules with Hamiltonians from an archive.

    Two layouts are understood. One molecule throughout: ``atomic_numbers [atoms]``, ``positions
    [frames, atoms, 3]``, matrices ``[frames, nao, nao]``. Different molecules: ``n_atoms`` and
    ``n_basis`` ``[frames]``, and everything flattened one frame after the other. Matrices are in
    Eh and PySCF's order of orbitals, positions in Angstrom. Names: ``hamiltonian`` (or ``H``,
    ``fock``), ``overlap`` (``S``), ``baseline_minao`` (``H_init``), ``baseline_sap``.

    Args:
        path: the archive.
        basis: the orbitals, or what PySCF calls them, for archives that do not tell.
        theory: how they were computed, for archives that do not tell.

    Raises:
        DataError: the archive is damaged, incomplete or contradicts itself.
    """
    path = Path(path)
    arrays = load_arrays(path)
    found = {name: next((k for k in keys if k in arrays), "") for name, keys in NAMES.items()}
    for name in ("numbers", "positions", "hamiltonian"):
        if not found[name]:
            raise DataError(
                f"{path}: needs {name} ({' or '.join(NAMES[name])}); it holds "
                f"{', '.join(sorted(arrays)) or 'nothing'}"
            )
    mine = {name: arrays[key] for name, key in found.items() if key}
    for name in ("numbers", "positions", *MATRICES):
        if name in mine and mine[name].dtype.kind not in "iuf":
            raise DataError(
                f"{path}: {found[name]} should hold real numbers, got an array of type "
                f"{mine[name].dtype}"
            )
    known = _json(arrays, "provenance", path)
    numbers, positions = _geometries(path, mine)
    basis = _basis(path, arrays, known, numbers, basis)
    if theory is None:
        stored = _json(arrays, "theory", path)
        theory = Theory(
            str(stored.get("xc", known.get("xc", Theory.xc))),
            int(stored.get("grid_level", known.get("grid_level", Theory.grid_level))),
        )
    _converged(path, arrays, len(numbers))
    where = [f"{path} frame {index}" for index in range(len(numbers))]
    nao = [basis.nao(z.tolist()) for z in numbers]
    matrices = {
        name: _matrices(path, found[name], mine[name], nao, where, basis)
        for name in MATRICES
        if name in mine
    }
    energies = mine["energy"].reshape(-1).tolist() if "energy" in mine else None
    charges = arrays["charge"].reshape(-1) if "charge" in arrays else [0]
    charges = np.broadcast_to(charges, len(numbers))
    if energies is not None and len(energies) != len(numbers):
        raise DataError(f"{path}: {len(energies)} energies for {len(numbers)} frames")
    frames = [
        HamiltonianFrame(
            numbers=z,
            positions=r,
            hamiltonian=matrices["hamiltonian"][index],
            overlap=matrices["overlap"][index] if "overlap" in matrices else None,
            baselines={
                name: matrices[name][index] for name in ("minao", "sap") if name in matrices
            },
            charge=int(charges[index]),
            energy=None if energies is None else float(energies[index]),
            where=where[index],
        )
        for index, (z, r) in enumerate(zip(numbers, positions, strict=True))
    ]
    return HamiltonianSet(basis, theory, tuple(frames))


def write_hamiltonians(
    path: str | PathLike[str],
    data: HamiltonianSet,
    *,
    provenance: Mapping[str, Any],
    others: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a set in the layout that :func:`read_hamiltonians` reads.

    Args:
        path: the archive; it is replaced when it is complete.
        data: at least one molecule.
        provenance: JSON-able facts about the origin.
        others: further arrays, one row for each frame.
    """
    path = Path(path)
    frames = data.frames
    if not frames:
        raise DataError(f"{path}: there are no molecules to write")
    uniform = all(torch.equal(frame.numbers, frames[0].numbers) for frame in frames)

    def gather(tensors: Sequence[Tensor]) -> np.ndarray:
        if uniform:
            return torch.stack(list(tensors)).numpy()
        return torch.cat([tensor.flatten() for tensor in tensors]).numpy()

    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "hamiltonian": gather([frame.hamiltonian for frame in frames]),
        "charge": np.array([frame.charge for frame in frames]),
        "basis": np.array(json.dumps(data.basis.to_dict())),
        "theory": np.array(json.dumps(data.theory.to_dict())),
        "provenance": np.array(json.dumps(dict(provenance), indent=1)),
    }
    if uniform:
        arrays["atomic_numbers"] = frames[0].numbers.numpy()
        arrays["positions"] = gather([frame.positions for frame in frames])
    else:
        arrays["n_atoms"] = np.array([len(frame.numbers) for frame in frames])
        arrays["n_basis"] = np.array([len(frame.hamiltonian) for frame in frames])
        arrays["atomic_numbers"] = torch.cat([frame.numbers for frame in frames]).numpy()
        arrays["positions"] = torch.cat([frame.positions for frame in frames]).numpy()
    overlaps = [frame.overlap for frame in frames if frame.overlap is not None]
    if len(overlaps) == len(frames):
        arrays["overlap"] = gather(overlaps)
    for name in frames[0].baselines:
        arrays[f"baseline_{name}"] = gather([frame.baselines[name] for frame in frames])
    energies = [frame.energy for frame in frames]
    if all(energy is not None for energy in energies):
        arrays["energy"] = np.array(energies, dtype=np.float64)
    arrays |= dict(others or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)
    unfinished.replace(path)


def _geometries(path: Path, mine: Mapping[str, np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
    numbers, positions = mine["numbers"], mine["positions"].astype(np.float64)
    if (numbers < 1).any() or (numbers >= len(chemical_symbols)).any() or (numbers % 1).any():
        raise DataError(f"{path}: atomic numbers should be 1 to 118, got {np.unique(numbers)}")
    numbers = numbers.astype(np.int64)
    if "atoms" in mine:
        sizes = mine["atoms"].astype(int).tolist()
        if len(numbers) != sum(sizes) or positions.shape != (sum(sizes), 3):
            raise DataError(
                f"{path}: n_atoms sums to {sum(sizes)}, but there are {len(numbers)} atomic "
                f"numbers and positions of shape {positions.shape}"
            )
        splits = np.cumsum(sizes)[:-1]
        return _tensors(np.split(numbers, splits)), _tensors(np.split(positions, splits))
    if positions.ndim != 3 or positions.shape[2] != 3 or numbers.shape[-1] != positions.shape[1]:
        raise DataError(
            f"{path}: positions should have shape (frames, atoms, 3) for atomic numbers of shape "
            f"{numbers.shape}, got {positions.shape}; molecules of different size need n_atoms and "
            "n_basis"
        )
    return _tensors(np.broadcast_to(numbers, positions.shape[:2])), _tensors(positions)


def _tensors(arrays: Any) -> list[Tensor]:
    return [torch.from_numpy(np.array(array)) for array in arrays]


def _basis(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    known: Mapping[str, Any],
    numbers: Sequence[Tensor],
    given: OrbitalBasis | str | None,
) -> OrbitalBasis:
    elements = sorted({z for molecule in numbers for z in molecule.tolist()})
    if isinstance(given, OrbitalBasis):
        return given
    if isinstance(given, str):
        return OrbitalBasis.from_pyscf(given, elements)
    if "basis" in arrays:
        return OrbitalBasis.from_dict(_json(arrays, "basis", path))
    name = str(known.get("basis", "unknown"))
    if "shell_l" in arrays and "shell_atom" in arrays:
        shells, atoms = arrays["shell_l"].tolist(), arrays["shell_atom"].tolist()
        return basis_from_shells(name, numbers[0].tolist(), shells, atoms)
    raise DataError(
        f"{path}: does not say which orbitals its matrices have; name the basis set (basis="
        "'def2-svp' in Python, data.basis in a recipe)"
    )


def _matrices(
    path: Path,
    name: str,
    array: np.ndarray,
    nao: Sequence[int],
    where: Sequence[str],
    basis: OrbitalBasis,
) -> list[Tensor]:
    array = array.astype(np.float64)
    if array.ndim == 3 and len(array) == len(nao):
        pieces = list(array)
    elif array.ndim == 1 and array.size == sum(n * n for n in nao):
        cuts = np.cumsum([n * n for n in nao])[:-1]
        pieces = [x.reshape(n, n) for x, n in zip(np.split(array, cuts), nao, strict=True)]
    else:
        raise DataError(
            f"{path}: {name} should hold one matrix for each of {len(nao)} frames, with "
            f"{sum(n * n for n in nao)} entries together in the basis {basis.describe()}, got "
            f"shape {array.shape}"
        )
    return [
        checked_matrix(torch.from_numpy(np.array(x)), n, name, place, basis)
        for x, n, place in zip(pieces, nao, where, strict=True)
    ]


def _converged(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> None:
    flags = arrays.get("converged")
    if flags is not None and flags.shape == (count,) and not flags.all():
        bad = np.flatnonzero(~flags.astype(bool))
        raise DataError(
            f"{path}: {len(bad)} of {count} calculations did not converge (frames "
            f"{', '.join(map(str, bad[:5]))}{', ...' * (len(bad) > 5)}); remove them"
        )


def _json(arrays: Mapping[str, np.ndarray], name: str, path: Path) -> dict[str, Any]:
    if name not in arrays:
        return {}
    try:
        stored = json.loads(str(arrays[name]))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: {name} is no JSON text ({error})") from error
    return stored if isinstance(stored, dict) else {}
