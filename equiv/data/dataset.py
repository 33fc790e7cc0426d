"""Labelled structures, in eV and Angstrom, and sets of them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import numpy as np

if TYPE_CHECKING:
    from equiv.data.labels import LabelReport

DEFAULT_GROUP = "default"


@dataclass
class Frame:
    r"""One structure and what is known about it. Everything is converted already.

    Attributes:
        atoms: the structure (Angstrom), without calculator.
        energy: potential energy (eV), or None.
        forces: forces (eV/Angstrom) as they were computed, constraints or not. Shape ``[atoms,
            3]``.
        stress: :math:`(1/V)\,dE/d\varepsilon` (eV/Angstrom^3, tension positive). Shape ``[3,
            3]``.
        source: the file it came from.
        index: its number in that file, from 0.
        group: what it is reported under.
        weight: its weight in the loss.
        line: line of a text file where it begins, from 1.
    """

    atoms: ase.Atoms
    energy: float | None
    forces: np.ndarray | None
    stress: np.ndarray | None
    source: str
    index: int
    group: str = DEFAULT_GROUP
    weight: float = 1.0
    line: int | None = None

    @property
    def isolated(self) -> bool:
        """Whether this is a free atom, there to give the reference energy of its element."""
        if len(self.atoms) != 1:
            return False
        kind = str(self.atoms.info.get("config_type", "")).lower().replace("_", "").replace("-", "")
        return not self.atoms.pbc.any() or kind == "isolatedatom"

    @property
    def where(self) -> str:
        """File and number."""
        return f"{Path(self.source).name}:{self.index}"

    def structure_digest(self) -> str:
        """Hash of elements, positions (to 1e-6 Angstrom), cell and periodicity; no labels."""
        pbc = np.asarray(self.atoms.pbc, dtype=bool)
        cell = np.where(pbc[:, None], self.atoms.cell.array, 0.0)
        digest = hashlib.sha256()
        digest.update(np.asarray(self.atoms.numbers, dtype="<i8").tobytes())
        digest.update(pbc.tobytes())
        for array in (self.atoms.positions, cell):
            # Adding zero turns -0.0 into 0.0, which has other bytes.
            digest.update((np.round(array, 6) + 0.0).astype("<f8").tobytes())
        return digest.hexdigest()

    def digest(self) -> str:
        """Hash of the structure, its labels and its weight, to the last bit."""
        digest = hashlib.sha256()
        arrays: Iterable[Any] = (
            self.atoms.numbers,
            self.atoms.pbc,
            self.atoms.positions,
            self.atoms.cell.array,
            self.energy,
            self.forces,
            self.stress,
            self.weight,
        )
        for array in arrays:
            missing = array is None
            digest.update(b"-" if missing else np.asarray(array, dtype="<f8").tobytes() + b"+")
        return digest.hexdigest()


@dataclass
class Dataset(Sequence[Frame]):
    """A sequence of labelled structures.

    Attributes:
        frames: the structures.
        labels: what was found when they were read; ``str`` of it is one line.
    """

    frames: list[Frame]
    labels: "LabelReport | None" = None
    _fingerprint: str | None = field(default=None, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def __getitem__(self, index: Any) -> Any:
        """A frame, or for a slice a dataset."""
        if isinstance(index, slice):
            return Dataset(self.frames[index], self.labels)
        return self.frames[index]

    def subset(self, indices: Iterable[int]) -> "Dataset":
        """The structures with these numbers, in this order."""
        return Dataset([self.frames[int(i)] for i in indices], self.labels)

    def without_isolated(self) -> "Dataset":
        """Everything but free atoms."""
        return Dataset([frame for frame in self.frames if not frame.isolated], self.labels)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return sorted({int(z) for frame in self.frames for z in np.unique(frame.atoms.numbers)})

    @property
    def groups(self) -> list[str]:
        """Names of the groups that occur, sorted."""
        return sorted({frame.group for frame in self.frames})

    @property
    def num_atoms(self) -> int:
        """Atoms of all structures together."""
        return sum(len(frame.atoms) for frame in self.frames)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over structures, labels and their order."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for frame in self.frames:
                digest.update(bytes.fromhex(frame.digest()))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def composition(self) -> np.ndarray:
        """Atoms of each of `elements` in every structure. Shape ``[frames, elements]``."""
        column = {z: k for k, z in enumerate(self.elements)}
        counts = np.zeros((len(self.frames), len(column)))
        for row, frame in enumerate(self.frames):
            for z, count in zip(*np.unique(frame.atoms.numbers, return_counts=True), strict=True):
                counts[row, column[int(z)]] = count
        return counts
