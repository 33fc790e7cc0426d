"""Molecules with their Hamiltonians, as they come from a quantum-chemistry program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, overload

import torch
from ase.data import chemical_symbols
from ase.symbols import Symbols
from jaxtyping import Float, Int
from torch import Tensor

from equiv.errors import DataError
from equiv.hamiltonian.basis import OrbitalBasis

ASYMMETRY = 1e-6
"""Eh: matrices that differ by more from their transpose are no Fock matrices."""


@dataclass(frozen=True)
class Theory:
    """How the Hamiltonians of a set were computed, as far as baselines and bridges need it.

    Attributes:
        xc: functional, as PySCF spells it; `hf` for Hartree-Fock.
        grid_level: level of PySCF's integration grid.
    """

    xc: str = "b3lyp5"
    grid_level: int = 3

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"xc": self.xc, "grid_level": self.grid_level}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Theory":
        """What :meth:`to_dict` wrote."""
        return cls(str(stored["xc"]), int(stored["grid_level"]))

    def __str__(self) -> str:
        return f"{self.xc}, grid level {self.grid_level}"


@dataclass(frozen=True)
class HamiltonianFrame:
    """One molecule: geometry and matrices.

    Matrices have PySCF's order of orbitals, are exactly symmetric, float64, in Eh.

    Attributes:
        numbers: atomic numbers. Shape ``[atoms]``.
        positions: in Angstrom, float64. Shape ``[atoms, 3]``.
        hamiltonian: the Fock matrix of the converged density. Shape ``[nao, nao]``.
        overlap: of the orbitals, or None if unknown. Shape ``[nao, nao]``.
        baselines: cheap Hamiltonians by name (:mod:`equiv.hamiltonian.baseline`).
        charge: of the molecule, e.
        energy: total energy, Eh, or None.
        where: file and number, for messages.
    """

    numbers: Int[Tensor, " atoms"]
    positions: Float[Tensor, "atoms 3"]
    hamiltonian: Float[Tensor, "nao nao"]
    overlap: Float[Tensor, "nao nao"] | None = None
    baselines: Mapping[str, Float[Tensor, "nao nao"]] = field(default_factory=dict)
    charge: int = 0
    energy: float | None = None
    where: str = ""

    @property
    def formula(self) -> str:
        """Elements and counts, such as `H2O`."""
        return Symbols(self.numbers.numpy()).get_chemical_formula()

    def difference(self, baseline: str) -> Float[Tensor, "nao nao"]:
        """What a model with this baseline has to learn, Eh.

        Raises:
            DataError: the frame does not have the baseline.
        """
        if baseline == "none":
            return self.hamiltonian
        if baseline not in self.baselines:
            known = ", ".join(["none", *self.baselines])
            raise DataError(
                f"{self.where}: no baseline {baseline!r} (there is {known}); compute it with "
                "equiv.integrations.pyscf_labels.add_baseline, which needs PySCF"
            )
        return self.hamiltonian - self.baselines[baseline]

    def occupied(self, basis: OrbitalBasis) -> int:
        """Doubly occupied orbitals.

        Raises:
            DataError: the number of electrons is odd.
        """
        electrons = int(self.numbers.sum()) - self.charge
        electrons -= sum(basis.core.get(z, 0) for z in self.numbers.tolist())
        if electrons % 2 or electrons < 0:
            raise DataError(
                f"{self.where}: {electrons} electrons are no closed shell; only restricted "
                "calculations are supported"
            )
        return electrons // 2


@dataclass(frozen=True)
class HamiltonianSet(Sequence[HamiltonianFrame]):
    """Molecules computed in one basis and one theory.

    Attributes:
        basis: the orbitals.
        theory: how they were computed.
        frames: the molecules.
    """

    basis: OrbitalBasis
    theory: Theory
    frames: tuple[HamiltonianFrame, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> HamiltonianFrame: ...
    @overload
    def __getitem__(self, index: slice) -> "HamiltonianSet": ...
    def __getitem__(self, index: int | slice) -> "HamiltonianFrame | HamiltonianSet":
        if isinstance(index, slice):
            return HamiltonianSet(self.basis, self.theory, self.frames[index])
        return self.frames[index]

    def __add__(self, other: "HamiltonianSet") -> "HamiltonianSet":
        """Both together.

        Raises:
            DataError: they differ in theory or in the basis of an element that both have.
        """
        if self.theory != other.theory:
            raise DataError(f"cannot mix Hamiltonians of {self.theory} and of {other.theory}")
        return HamiltonianSet(
            merged(self.basis, other.basis), self.theory, self.frames + other.frames
        )

    @property
    def fingerprint(self) -> str:
        """Hash of geometries and Hamiltonians."""
        digest = sha256()
        for frame in self.frames:
            for tensor in (frame.numbers, frame.positions, frame.hamiltonian):
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """Number, molecules, basis and theory in one line."""
        formulas = list(dict.fromkeys(frame.formula for frame in self.frames))
        named = ", ".join(formulas[:4]) + (f" and {len(formulas) - 4} more" * (len(formulas) > 4))
        return f"{len(self)} molecules ({named}), {self.basis.describe()}, {self.theory}"


def merged(one: OrbitalBasis, two: OrbitalBasis) -> OrbitalBasis:
    """A basis with the elements of both.

    Raises:
        DataError: they differ for an element that both have.
    """
    for z in set(one.elements) & set(two.elements):
        prints = one.fingerprints.get(z), two.fingerprints.get(z)
        if one.shells[z] != two.shells[z] or (all(prints) and prints[0] != prints[1]):
            raise DataError(
                f"cannot mix data sets: {chemical_symbols[z]} has one basis in {one.describe()} "
                f"and another in {two.describe()}"
            )
    return OrbitalBasis(
        one.name,
        {**one.shells, **two.shells},
        {**one.core, **two.core},
        {**two.fingerprints, **one.fingerprints},
    )


def checked_matrix(
    matrix: Tensor, nao: int, what: str, where: str, basis: OrbitalBasis
) -> Float[Tensor, "nao nao"]:
    """A matrix of a file, made exactly symmetric.

    Raises:
        DataError: it has another shape, is not finite, or not symmetric.
    """
    if matrix.shape != (nao, nao):
        raise DataError(
            f"{where}: {what} should be {nao} x {nao} in the basis {basis.describe()}, got "
            f"{tuple(matrix.shape)}; was it computed in another basis, or with Cartesian orbitals?"
        )
    if not torch.isfinite(matrix).all():
        raise DataError(f"{where}: {what} holds NaN or infinity")
    asymmetry = float((matrix - matrix.mT).abs().max())
    if asymmetry > ASYMMETRY:
        raise DataError(
            f"{where}: {what} differs from its transpose by {asymmetry:.1e}; it is no matrix of a "
            "restricted calculation, or its rows are mixed up"
        )
    return 0.5 * (matrix + matrix.mT)
