"""Make sets of Hamiltonians: geometries, PySCF labels, restartable."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch

from equiv.errors import DataError, EquivError
from equiv.hamiltonian import (
    HamiltonianSet,
    OrbitalBasis,
    Theory,
    read_hamiltonians,
    write_hamiltonians,
)
from equiv.integrations.label_workers import Calculation, Outcome, outcomes
from equiv.integrations.pyscf_labels import CONVERGENCE, GRADIENT, need_pyscf
from equiv.integrations.xtb_sampling import Sampling, sample_geometries

SAVE_EVERY = 20.0  # seconds of calculations that an interruption may cost


@dataclass(frozen=True)
class Plan:
    """What a set is to be.

    Attributes:
        basis: as PySCF calls it.
        theory: functional and grid.
        sampling: how geometries are drawn; None to take the structures given as they are.
        baselines: which to store.
        forces: whether to compute forces (as long again as the energy).
        charge: of the molecules, e.
    """

    basis: str
    theory: Theory
    sampling: Sampling | None = None
    baselines: tuple[str, ...] = ("minao",)
    forces: bool = False
    charge: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "basis": self.basis,
            **self.theory.to_dict(),
            "sampling": self.sampling.to_dict() if self.sampling else "given",
            "baselines": list(self.baselines),
            "forces": self.forces,
            "charge": self.charge,
        }


def make_hamiltonians(
    output: Path,
    plan: Plan,
    structures: Sequence[ase.Atoms],
    *,
    workers: int = 1,
    stop: Callable[[], bool] = lambda: False,
    sampled: Callable[[], None] = lambda: None,
    labelled: Callable[[int, str], None] = lambda count, note: None,
) -> HamiltonianSet | None:
    """Draw geometries, compute their Hamiltonians, write the set.

    Work done is kept in a folder beside the output, and the same call after an interruption goes on
    from there; the folder vanishes when the set is written. Geometries whose calculation does not
    converge are left out, and the provenance counts them. Neither interruptions nor the number of
    workers change a bit of the labels: every calculation runs in one thread.

    Args:
        output: the archive to write.
        plan: what it is to be.
        structures: what trajectories start from, or the geometries themselves.
        workers: processes that compute at the same time; 1 for this one. A script that asks for
            more needs the guard ``if __name__ == "__main__":``.
        stop: asked after every calculation; the work is saved if it says so.
        sampled: called for every geometry drawn.
        labelled: called with the number of calculations done (those of an earlier call at once),
            and a note.

    Returns:
        The set, or None if it was stopped.

    Raises:
        EquivError: PySCF or tblite is missing, the folder belongs to another plan, or a worker
            died.
    """
    need_pyscf()
    work = output.with_name(f"{output.name}.unfinished")
    work.mkdir(parents=True, exist_ok=True)
    _same_plan(work, plan, structures)
    geometries, replicas = _geometries(work, plan, structures, sampled)
    elements = sorted({int(z) for atoms in geometries for z in atoms.numbers})
    basis = OrbitalBasis.from_pyscf(plan.basis, elements)

    store = _Store(work)
    labelled(len(store.done), "resumed" if store.done else "")
    calculations = [
        Calculation(
            index,
            atoms.numbers,
            atoms.positions,
            basis,
            plan.theory,
            plan.charge,
            plan.baselines,
            plan.forces,
        )
        for index, atoms in enumerate(geometries)
        if index not in store.done
    ]
    try:
        for found in outcomes(calculations, workers, stop):
            store.add(found)
            note = f"{found.arrays['n_cycles']} cycles" if found.arrays else "not converged"
            labelled(1, note)
    finally:
        store.save()
    if len(store.done) < len(geometries):
        return None
    return _finish(output, work, plan, basis, store, replicas)


def read_structures(path: Path) -> list[ase.Atoms]:
    """All structures of a file: of a set of Hamiltonians, or of whatever ASE reads.

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix == ".npz":
        try:
            frames = read_hamiltonians(path).frames
            return [ase.Atoms(f.numbers.numpy(), f.positions.numpy()) for f in frames]
        except DataError:
            from equiv.data.npz import read_npz

            return [atoms for _, atoms, _ in read_npz(path)]
    try:
        found = ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise all kinds
        raise DataError(f"{path}: cannot be read as structures ({error})") from error
    return found if isinstance(found, list) else [found]


def _same_plan(work: Path, plan: Plan, structures: Sequence[ase.Atoms]) -> None:
    digest = sha256()
    for atoms in structures:
        digest.update(atoms.numbers.tobytes() + atoms.positions.tobytes())
    text = json.dumps({**plan.to_dict(), "structures": digest.hexdigest()[:16]}, indent=1)
    file = work / "plan.json"
    if file.exists() and file.read_text() != text:
        raise EquivError(
            f"{work} holds the unfinished work of other settings; finish it with those, delete it, "
            "or choose another output"
        )
    file.write_text(text)


def _geometries(
    work: Path, plan: Plan, structures: Sequence[ase.Atoms], sampled: Callable[[], None]
) -> tuple[list[ase.Atoms], np.ndarray]:
    if plan.sampling is None:
        return list(structures), np.zeros(len(structures), dtype=int)
    file = work / "geometries.npz"
    if not file.exists():
        found, replicas = sample_geometries(structures, plan.sampling, report=sampled)
        positions = np.array([atoms.positions for atoms in found])
        _replace(file, numbers=found[0].numbers, positions=positions, replicas=replicas)
    with np.load(file) as stored:
        numbers, replicas = stored["numbers"], stored["replicas"]
        return [ase.Atoms(numbers, r) for r in stored["positions"]], replicas


class _Store:
    """Labels on disk, a file for every few of them."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.done: dict[int, Path | None] = {}
        self.seconds = 0.0
        self._new: dict[str, Any] = {}
        self._indices: list[int] = []
        self._saved, self._unsaved = time.monotonic(), 0.0
        for file in sorted(work.glob("labels-*.npz")):
            with np.load(file) as stored:
                self.done |= {int(index): file for index in stored["indices"]}
                self.seconds += float(stored["seconds"])

    def add(self, found: Outcome) -> None:
        """Take a result in; now and then all new ones are written."""
        self.done[found.index] = None
        self._indices.append(found.index)
        self._unsaved += found.seconds
        for name, value in (found.arrays or {}).items():
            self._new[f"{found.index}.{name}"] = value
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what is new."""
        if self._indices:
            file = self.work / f"labels-{self._indices[0]:06d}.npz"
            _replace(file, indices=np.array(self._indices), seconds=self._unsaved, **self._new)
            self.done |= dict.fromkeys(self._indices, file)
            self.seconds += self._unsaved
        self._new, self._indices, self._unsaved = {}, [], 0.0
        self._saved = time.monotonic()

    def labels(self) -> dict[int, dict[str, np.ndarray]]:
        """All labels by the number of their geometry; those that did not converge are missing."""
        found: dict[int, dict[str, np.ndarray]] = {}
        for file in sorted({file for file in self.done.values() if file is not None}):
            with np.load(file) as stored:
                for key in stored.files:
                    index, _, name = key.partition(".")
                    if name:
                        found.setdefault(int(index), {})[name] = stored[key]
        return dict(sorted(found.items()))


def _finish(
    output: Path, work: Path, plan: Plan, basis: OrbitalBasis, store: _Store, replicas: np.ndarray
) -> HamiltonianSet:
    from importlib.metadata import version

    from equiv.hamiltonian import HamiltonianFrame

    labels = store.labels()
    if not labels:
        raise DataError("not one of the calculations converged; look at the structures")
    tensors = {
        index: {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
        for index, arrays in labels.items()
    }
    frames = tuple(
        HamiltonianFrame(
            numbers=found["numbers"],
            positions=found["positions"],
            hamiltonian=found["hamiltonian"],
            overlap=found["overlap"],
            baselines={n: found[f"baseline_{n}"] for n in plan.baselines if n != "none"},
            charge=plan.charge,
            energy=float(found["energy"]),
            where=f"{output} frame {row}",
        )
        for row, found in enumerate(tensors.values())
    )
    names = ["dipole", "n_cycles"]
    one_size = len({len(frame.numbers) for frame in frames}) == 1
    if plan.forces:
        names.append("forces")
    others = {
        name: np.array([found[name] for found in labels.values()])
        if one_size or name != "forces"
        else np.concatenate([found[name] for found in labels.values()])
        for name in names
    }
    others["replica"] = replicas[list(labels)]
    data = HamiltonianSet(basis, plan.theory, frames)
    provenance = {
        "what": "Fock matrices of converged restricted calculations",
        **plan.to_dict(),
        "frames": len(frames),
        "not_converged": len(store.done) - len(frames),
        "scf": f"energy to {CONVERGENCE:g} Eh, orbital gradient to {GRADIENT:g}, no density "
        "fitting; the matrix is the Fock matrix of the final density",
        "units": "positions Angstrom; matrices and energy Eh; dipole e Bohr; forces Eh/Bohr",
        "orbitals": "PySCF's order, spherical",
        "cpu_seconds": round(store.seconds, 1),
        "versions": {name: version(name) for name in ("pyscf", "numpy")},
    }
    write_hamiltonians(output, data, provenance=provenance, others=others)
    shutil.rmtree(work)
    return data


def _replace(file: Path, **arrays: Any) -> None:
    unfinished = file.with_name(f".{file.name}")
    with unfinished.open("wb") as stream:
        np.savez(stream, **arrays)
    unfinished.replace(file)
