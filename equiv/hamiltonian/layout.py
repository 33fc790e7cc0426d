"""Where the blocks of a batch of molecules are: integers only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Int
from torch import Tensor

from equiv.errors import EquivError
from equiv.hamiltonian.basis import OrbitalBasis


@dataclass(frozen=True)
class BlockLayout:
    r"""Atoms by element, pairs of atoms by pair of elements, and their places in the matrices.

    Every two atoms of a molecule are one pair, once: the first has the lower atomic number, and of
    two atoms of one element the first comes first in the molecule. Pairs are sorted by their kind,
    then by molecule.

    Attributes:
        basis: the orbitals.
        numbers: atomic numbers. Shape ``[atoms]``.
        batch: the molecule of every atom, ascending. Shape ``[atoms]``.
        first: first atom of every pair. Shape ``[pairs]``.
        second: second atom of every pair. Shape ``[pairs]``.
        atoms: atoms of each element that occurs.
        pair_slices: pairs of each two elements that occur.
        orbitals: orbitals of each molecule.
        offsets: first orbital of each atom in its molecule. Shape ``[atoms]``.
        sizes: orbitals of each atom's molecule. Shape ``[atoms]``.
        starts: where the molecule of each atom starts among all entries of all matrices. Shape
            ``[atoms]``.
    """

    basis: OrbitalBasis
    numbers: Int[Tensor, " atoms"]
    batch: Int[Tensor, " atoms"]
    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    atoms: Mapping[int, Int[Tensor, " members"]]
    pair_slices: Mapping[tuple[int, int], slice]
    orbitals: tuple[int, ...]
    offsets: Int[Tensor, " atoms"]
    sizes: Int[Tensor, " atoms"]
    starts: Int[Tensor, " atoms"]

    @classmethod
    def build(
        cls,
        basis: OrbitalBasis,
        numbers: Int[Tensor, " atoms"],
        batch: Int[Tensor, " atoms"] | None = None,
    ) -> Self:
        """Of molecules with these atoms; one molecule if there is no ``batch``.

        Raises:
            UnknownElementError: the basis lacks an element.
            EquivError: the molecules are not one after the other, or one is empty.
        """
        device = numbers.device
        numbers, batch = numbers.cpu(), None if batch is None else batch.cpu()
        if batch is None:
            batch = torch.zeros_like(numbers)
        if len(numbers) == 0 or batch[0] != 0 or ((step := batch.diff()) * (step - 1)).any():
            raise EquivError(
                "batch must number the molecules of the atoms 0, 0, ..., 1, 1, ... without gaps, "
                f"got {batch.tolist()}"
            )
        elements, species = torch.unique(numbers, return_inverse=True)
        sizes_by_species = torch.tensor([basis.orbitals(z) for z in elements.tolist()])
        mine = sizes_by_species[species]
        counts = torch.bincount(batch)
        nao = torch.zeros_like(counts).index_add(0, batch, mine)
        before = mine.cumsum(0) - mine  # orbitals of all atoms before
        offsets = before - (nao.cumsum(0) - nao)[batch]
        starts = (nao.square().cumsum(0) - nao.square())[batch]

        first, second = _all_pairs(counts)
        swap = numbers[first] > numbers[second]
        first, second = torch.where(swap, second, first), torch.where(swap, first, second)
        kind = species[first] * len(elements) + species[second]
        kind, order = torch.sort(kind, stable=True)
        kinds, per_kind = torch.unique_consecutive(kind, return_counts=True)
        slices, start = {}, 0
        known = elements.tolist()
        for key, count in zip(kinds.tolist(), per_kind.tolist(), strict=True):
            slices[known[key // len(known)], known[key % len(known)]] = slice(start, start + count)
            start += count
        return cls(
            basis,
            numbers.to(device),
            batch.to(device),
            first[order].to(device),
            second[order].to(device),
            {z: torch.nonzero(numbers == z).squeeze(-1).to(device) for z in known},
            slices,
            tuple(nao.tolist()),
            offsets.to(device),
            nao[batch].to(device),
            starts.to(device),
        )

    def to(self, device: torch.device | str) -> "BlockLayout":
        """The same on another device."""
        return BlockLayout(
            self.basis,
            self.numbers.to(device),
            self.batch.to(device),
            self.first.to(device),
            self.second.to(device),
            {z: index.to(device) for z, index in self.atoms.items()},
            self.pair_slices,
            self.orbitals,
            self.offsets.to(device),
            self.sizes.to(device),
            self.starts.to(device),
        )

    @property
    def num_graphs(self) -> int:
        """Molecules."""
        return len(self.orbitals)

    @property
    def pair_batch(self) -> Int[Tensor, " pairs"]:
        """The molecule of every pair."""
        return self.batch[self.first]

    @property
    def num_entries(self) -> int:
        """Entries of all matrices together."""
        return sum(n * n for n in self.orbitals)

    def entries(
        self,
        first: Int[Tensor, " blocks"],
        second: Int[Tensor, " blocks"],
        rows: Int[Tensor, " entries"],
        columns: Int[Tensor, " entries"],
    ) -> Int[Tensor, "blocks entries"]:
        """Where entries of the blocks of two atoms each are among all entries of all matrices."""
        corner = self.starts[first] + self.offsets[first] * self.sizes[first] + self.offsets[second]
        return corner[:, None] + self.sizes[first][:, None] * rows + columns


def _all_pairs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Both atoms of all pairs within molecules of so many atoms, the first before the second."""
    starts = counts.cumsum(0) - counts
    firsts, seconds = [], []
    for count, start in zip(counts.tolist(), starts.tolist(), strict=True):
        i, j = torch.triu_indices(count, count, 1)
        firsts.append(i + start)
        seconds.append(j + start)
    return torch.cat(firsts), torch.cat(seconds)
