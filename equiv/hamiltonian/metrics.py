"""Errors of predicted Hamiltonians, in the terms of the field."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equiv.hamiltonian.basis import OrbitalBasis
from equiv.hamiltonian.eigen import orbitals
from equiv.hamiltonian.orbitals import LETTERS


@dataclass(frozen=True)
class OrbitalErrors:
    r"""What an error of the Hamiltonian does to the orbitals of one molecule.

    Attributes:
        occupied: predicted minus reference energies of the occupied orbitals, Eh.
        gap: error of the gap between the highest occupied and the lowest unoccupied orbital, Eh.
        similarity: for each occupied orbital, the cosine
            :math:`|c \cdot c'| / (|c| |c'|)` of predicted and reference coefficients, as QHNet and
            SPHNet report it. It is not invariant under rotations within a degenerate level.
        overlap: :math:`\operatorname{tr}(P S P' S) / 4 n` of the density matrices, 1 if the
            occupied spaces agree; unlike ``similarity`` it does not depend on the choice of
            orbitals.
    """

    occupied: Float[Tensor, "*batch occupied"]
    gap: Float[Tensor, "*batch"]
    similarity: Float[Tensor, "*batch occupied"]
    overlap: Float[Tensor, "*batch"]


def orbital_errors(
    predicted: Float[Tensor, "*batch nao nao"],
    reference: Float[Tensor, "*batch nao nao"],
    overlap: Float[Tensor, "*batch nao nao"],
    occupied: int,
) -> OrbitalErrors:
    """Compare the orbitals of two Hamiltonians.

    Args:
        predicted: Eh.
        reference: Eh.
        overlap: of the atomic orbitals.
        occupied: number of doubly occupied orbitals, below that of all.
    """
    (e1, c1), (e2, c2) = orbitals(predicted, overlap), orbitals(reference, overlap)
    gap1, gap2 = (e[..., occupied] - e[..., occupied - 1] for e in (e1, e2))
    mine, theirs = c1[..., :occupied], c2[..., :occupied]
    cosine = torch.nn.functional.cosine_similarity(mine, theirs, dim=-2).abs()
    shared = (mine.mT @ overlap.double() @ theirs).square().sum((-2, -1)) / occupied
    return OrbitalErrors(e1[..., :occupied] - e2[..., :occupied], gap1 - gap2, cosine, shared)


def atom_of_orbital(basis: OrbitalBasis, numbers: Int[Tensor, " atoms"]) -> Int[Tensor, " nao"]:
    """The atom that each orbital of a molecule belongs to."""
    sizes = torch.tensor([basis.orbitals(z) for z in numbers.tolist()])
    return torch.repeat_interleave(torch.arange(len(sizes)), sizes)


def lower_blocks(basis: OrbitalBasis, numbers: Int[Tensor, " atoms"]) -> Bool[Tensor, "nao nao"]:
    """The entries that SPHNet counts: whole diagonal blocks, and each pair of atoms once.

    Its mean absolute error over these weights diagonal blocks about twice as much as the mean over
    the whole matrix does, which QHNet reports.
    """
    atom = atom_of_orbital(basis, numbers)
    return atom[:, None] >= atom[None]


def errors_by_kind(
    error: Float[Tensor, "nao nao"], basis: OrbitalBasis, numbers: Int[Tensor, " atoms"]
) -> Mapping[str, Float[Tensor, " entries"]]:
    """Entries of a matrix by kind of block: `O` for atoms, `H-O` for pairs of atoms."""
    atom = atom_of_orbital(basis, numbers)
    z = numbers[atom]
    found: dict[str, Tensor] = {}
    same = atom[:, None] == atom[None]
    elements = sorted(set(numbers.tolist()))
    for first in elements:
        found[chemical_symbols[first]] = error[same & (z[:, None] == first)]
    for first in elements:
        for second in elements:
            one, two = z[:, None], z[None]
            where = (one == first) & (two == second) | (one == second) & (two == first)
            where &= ~same
            if first <= second and where.any():
                found[f"{chemical_symbols[first]}-{chemical_symbols[second]}"] = error[where]
    return found


def errors_by_shells(
    error: Float[Tensor, "nao nao"], basis: OrbitalBasis, numbers: Int[Tensor, " atoms"]
) -> Mapping[str, Float[Tensor, " entries"]]:
    """Entries of a matrix by the degrees of both shells: `sp` of one atom, `sp off` of two."""
    atom = atom_of_orbital(basis, numbers)
    degree = torch.tensor(
        [l for l in basis.molecule_shells(numbers.tolist()) for _ in range(2 * l + 1)]
    )
    same = atom[:, None] == atom[None]
    lowest = torch.minimum(degree[:, None], degree[None])
    highest = torch.maximum(degree[:, None], degree[None])
    found = {}
    for name, mask in (("", same), (" off", ~same)):
        for la in range(int(degree.max()) + 1):
            for lb in range(la, int(degree.max()) + 1):
                where = mask & (lowest == la) & (highest == lb)
                if where.any():
                    found[f"{LETTERS[la]}{LETTERS[lb]}{name}"] = error[where]
    return found
