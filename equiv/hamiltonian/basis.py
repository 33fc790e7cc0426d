"""Which orbitals the atoms of each element carry."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from ase.data import atomic_numbers as numbers_by_symbol
from ase.data import chemical_symbols
from jaxtyping import Int
from torch import Tensor

from equiv.errors import DataError, EquivError, UnknownElementError
from equiv.hamiltonian.kinds import BlockKind
from equiv.hamiltonian.orbitals import LETTERS, internal_order, pyscf_order
from equiv.so3 import Irreps


@dataclass(frozen=True)
class OrbitalBasis:
    r"""The contracted shells of every element, in the order of PySCF's orbitals.

    A shell of degree l is :math:`2l+1` orbitals. Made from PySCF or from a file that lists shells;
    afterwards PySCF is not needed, and ``to_dict`` is JSON-able.

    Attributes:
        name: what PySCF calls it; for mixed basis sets a JSON object from symbol to name.
        shells: degrees of the shells for each atomic number.
        core: electrons that an effective core potential replaces, for each atomic number that has
            one.
        fingerprints: a digest of exponents, coefficients and core potential of each element, so
            that a basis of the same shape but other functions is noticed. Empty if unknown.

    >>> water = OrbitalBasis("sto-3g", {1: (0,), 8: (0, 0, 1)})
    >>> water.nao([8, 1, 1]), water.pair(1, 8).irreps
    (7, 2x0e+1x1o)
    """

    name: str
    shells: Mapping[int, tuple[int, ...]]
    core: Mapping[int, int] = field(default_factory=dict)
    fingerprints: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.shells:
            raise EquivError("an orbital basis needs at least one element, got none")
        for z, degrees in self.shells.items():
            if not 1 <= z < len(chemical_symbols):
                raise EquivError(f"orbital basis: {z} is no atomic number")
            if not degrees or any(not 0 <= l < len(LETTERS) for l in degrees):
                raise EquivError(
                    f"orbital basis: {chemical_symbols[z]} needs shells of degree 0 to "
                    f"{len(LETTERS) - 1}, got {list(degrees)}"
                )
        object.__setattr__(self, "shells", {z: tuple(self.shells[z]) for z in sorted(self.shells)})

    @classmethod
    def from_pyscf(
        cls,
        basis: str | Mapping[str, Any],
        elements: Iterable[int | str],
        *,
        ecp: str | Mapping[str, Any] | None = None,
    ) -> "OrbitalBasis":
        """The basis that PySCF would give to atoms of these elements.

        Args:
            basis: as in ``pyscf.gto.M(basis=...)``: a name, or a name for each symbol.
            elements: atomic numbers or symbols.
            ecp: effective core potentials, as in ``pyscf.gto.M(ecp=...)``.

        Raises:
            EquivError: PySCF is not installed, or does not know the basis for an element.
        """
        try:
            from pyscf import gto
        except ImportError as error:
            raise EquivError(
                "reading a basis set by its name needs PySCF; install it with "
                "pip install 'equiv[hamiltonian]'"
            ) from error
        found = []
        for element in elements:
            symbol = element if isinstance(element, str) else chemical_symbols[element]
            try:
                mole = gto.Mole(
                    atom=[(symbol, (0.0, 0.0, 0.0))], basis=basis, ecp=ecp or {}, spin=None
                )
                mole.verbose = 0
                mole.build(parse_arg=False)
            except Exception as error:  # PySCF raises KeyError, BasisNotFoundError, RuntimeError
                raise EquivError(
                    f"PySCF has no basis {basis!r} for {symbol} ({error}); choose another basis, "
                    "or give one for this element in a dictionary"
                ) from error
            if not mole.nbas:
                raise EquivError(f"PySCF has no functions of basis {basis!r} for {symbol}")
            found.append(cls.of_molecule(mole))
        if not found:
            raise EquivError("an orbital basis needs at least one element, got none")
        named = basis if isinstance(basis, str) else json.dumps({k: str(basis[k]) for k in basis})
        return cls(
            named,
            {z: shells for part in found for z, shells in part.shells.items()},
            {z: core for part in found for z, core in part.core.items()},
            {z: print_ for part in found for z, print_ in part.fingerprints.items()},
        )

    @classmethod
    def of_molecule(cls, mole: Any) -> "OrbitalBasis":
        """The basis of a ``pyscf.gto.Mole``, by walking its shells.

        Raises:
            EquivError: the orbitals are Cartesian, atoms of one element have different functions,
                or there are ghost atoms.
        """
        if mole.cart:
            raise EquivError(
                "the molecule has Cartesian orbitals (cart=True), whose shells are no irreps; "
                "build it with cart=False"
            )
        shells: dict[int, tuple[int, ...]] = {}
        core: dict[int, int] = {}
        prints: dict[int, str] = {}
        of_atom: list[list[int]] = [[] for _ in range(mole.natm)]
        for shell in range(mole.nbas):
            of_atom[mole.bas_atom(shell)].append(shell)
        for atom, mine in enumerate(of_atom):
            symbol = mole.atom_pure_symbol(atom)
            z = numbers_by_symbol.get(symbol, 0)
            if z == 0 or not mine:
                raise EquivError(
                    f"atom {atom} of the molecule ({mole.atom_symbol(atom)}) is no atom with "
                    "orbitals of its own; remove ghost atoms"
                )
            degrees, digest = [], hashlib.sha256()
            for shell in mine:
                degrees += [int(mole.bas_angular(shell))] * int(mole.bas_nctr(shell))
                numbers = [mole.bas_exp(shell), mole.bas_ctr_coeff(shell).ravel()]
                digest.update(f"{degrees[-1]}".encode())
                digest.update(",".join(f"{x:.8e}" for x in np.concatenate(numbers)).encode())
            potential = mole._ecp.get(mole.atom_symbol(atom)) or mole._ecp.get(symbol)
            removed = int(mole.atom_nelec_core(atom))
            if removed:
                core[z] = removed
                digest.update(json.dumps(potential).encode())
            mark = digest.hexdigest()[:16]
            if prints.setdefault(z, mark) != mark:
                raise EquivError(
                    f"atoms of {symbol} have different basis functions in this molecule (atom "
                    f"{atom}); Hamiltonian models need one basis for each element"
                )
            shells[z] = tuple(degrees)
        name = mole.basis if isinstance(mole.basis, str) else "custom"
        return cls(name, shells, core, prints)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "OrbitalBasis":
        """What :meth:`to_dict` wrote."""
        try:
            return cls(
                str(stored["name"]),
                {int(z): tuple(int(l) for l in ls) for z, ls in stored["shells"].items()},
                {int(z): int(n) for z, n in stored.get("core", {}).items()},
                {int(z): str(text) for z, text in stored.get("fingerprints", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, EquivError):
                raise
            raise EquivError(
                "an orbital basis is stored as {name, shells: {Z: [l, ...]}}, got "
                f"{dict(stored) if isinstance(stored, Mapping) else stored!r}"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "shells": {str(z): list(ls) for z, ls in self.shells.items()},
            "core": {str(z): n for z, n in self.core.items()},
            "fingerprints": {str(z): text for z, text in self.fingerprints.items()},
        }

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers, ascending."""
        return tuple(self.shells)

    @property
    def l_max(self) -> int:
        """The highest degree in any block: twice that of the highest shell."""
        return 2 * max(max(degrees) for degrees in self.shells.values())

    def orbitals(self, z: int) -> int:
        """Orbitals of an atom.

        Raises:
            UnknownElementError: the basis does not have the element.
        """
        return sum(2 * l + 1 for l in self._of(z))

    def nao(self, numbers: Iterable[int]) -> int:
        """Orbitals of a molecule with these atomic numbers."""
        return sum(self.orbitals(int(z)) for z in numbers)

    def molecule_shells(self, numbers: Iterable[int]) -> list[int]:
        """Degrees of all shells of a molecule, in the order of its orbitals."""
        return [l for z in numbers for l in self._of(int(z))]

    def to_internal(self, z: int) -> Int[Tensor, " orbitals"]:
        """PySCF's number of every orbital of an atom in the order m = -l .. l of each shell."""
        return self._order(z, internal_order)

    def to_pyscf(self, z: int) -> Int[Tensor, " orbitals"]:
        """The inverse permutation of :meth:`to_internal`."""
        return self._order(z, pyscf_order)

    def diagonal(self, z: int) -> BlockKind:
        """What blocks of an atom with itself consist of."""
        return self._diagonals[self._known(z)]

    def pair(self, z1: int, z2: int) -> BlockKind:
        """What blocks of two atoms consist of; the one with the lower atomic number is first."""
        first, second = sorted((self._known(z1), self._known(z2)))
        return self._pairs[first, second]

    @property
    def diagonal_kinds(self) -> tuple[BlockKind, ...]:
        """All kinds of blocks on the diagonal, by ascending atomic number."""
        return tuple(self._diagonals.values())

    @property
    def pair_kinds(self) -> tuple[BlockKind, ...]:
        """All kinds of blocks off the diagonal, by ascending atomic numbers."""
        return tuple(self._pairs.values())

    @cached_property
    def irreps(self) -> Irreps:
        """Every irrep that occurs in some block, once, natural ones first."""
        kinds = (*self.diagonal_kinds, *self.pair_kinds)
        found = sorted({(-part.sign, part.l) for kind in kinds for part in kind.parts})
        return cast(Irreps, Irreps([(1, (l, -negative * (-1) ** l)) for negative, l in found]))

    def check_molecule(self, mole: Any) -> None:
        """Make sure that a ``pyscf.gto.Mole`` has this basis.

        Raises:
            UnknownElementError: it holds other elements.
            EquivError: its orbitals are others.
        """
        other = OrbitalBasis.of_molecule(mole)
        for z in other.elements:
            mine, symbol = self._of(z), chemical_symbols[z]
            if mine != other.shells[z]:
                raise EquivError(
                    f"{symbol}: the model knows {self.name} with shells {_shells(mine)}, this "
                    f"molecule has {_shells(other.shells[z])} (basis {mole.basis!r}); build it "
                    f"with basis={self.name!r}"
                )
            marks = self.fingerprints.get(z), other.fingerprints[z]
            if marks[0] and marks[0] != marks[1]:
                raise EquivError(
                    f"{symbol}: the model knows {self.name}, this molecule has as many shells but "
                    f"other functions (basis {mole.basis!r}); build it with basis={self.name!r}"
                )

    def describe(self) -> str:
        """One line: `def2-svp: H 2s1p, O 3s2p1d`."""
        return f"{self.name}: " + ", ".join(
            f"{chemical_symbols[z]} {_shells(degrees)}" for z, degrees in self.shells.items()
        )

    def _of(self, z: int) -> tuple[int, ...]:
        return self.shells[self._known(z)]

    def _known(self, z: int) -> int:
        if z not in self.shells:
            known = ", ".join(chemical_symbols[k] for k in self.shells)
            symbol = chemical_symbols[z] if 0 < z < len(chemical_symbols) else str(z)
            raise UnknownElementError(
                f"{symbol}: the orbital basis {self.name} of this model or data set has {known} "
                f"only; train on data with {symbol}"
            )
        return z

    def _order(self, z: int, of_shell: Any) -> Tensor:
        out, start = [], 0
        for l in self._of(z):
            out += [start + i for i in of_shell(l)]
            start += 2 * l + 1
        return torch.tensor(out)

    @cached_property
    def _diagonals(self) -> dict[int, BlockKind]:
        return {z: BlockKind((z, z), s, s, True) for z, s in self.shells.items()}

    @cached_property
    def _pairs(self) -> dict[tuple[int, int], BlockKind]:
        return {
            (z1, z2): BlockKind((z1, z2), s1, s2, False)
            for z1, s1 in self.shells.items()
            for z2, s2 in self.shells.items()
            if z1 <= z2
        }


def basis_from_shells(
    name: str, numbers: Sequence[int], shell_l: Sequence[int], shell_atom: Sequence[int]
) -> OrbitalBasis:
    """The basis that a data file lists shell by shell.

    Args:
        name: of the basis.
        numbers: atomic numbers of a molecule.
        shell_l: degree of every shell.
        shell_atom: the atom that every shell belongs to, ascending.

    Raises:
        DataError: atoms of one element have different shells, or an atom has none.
    """
    shells: dict[int, tuple[int, ...]] = {}
    for atom, z in enumerate(numbers):
        degrees = tuple(
            int(l) for l, owner in zip(shell_l, shell_atom, strict=True) if owner == atom
        )
        if not degrees or shells.setdefault(int(z), degrees) != degrees:
            raise DataError(
                f"atom {atom} ({chemical_symbols[int(z)]}) has shells {list(degrees)}, other atoms "
                f"of its element {list(shells.get(int(z), ()))}; every element needs one basis"
            )
    return OrbitalBasis(name, shells)


def _shells(degrees: Sequence[int]) -> str:
    return "".join(f"{degrees.count(l)}{LETTERS[l]}" for l in sorted(set(degrees)))
