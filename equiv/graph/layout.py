"""How a batch lies in memory while a model works on it: decided once, in integers."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks, neighbor_blocks
from equiv.graph.groups import Groups
from equiv.graph.sorting import sorting_order

LEAST_ROWS = 2
"""Rows that every element has at least in a padded layout; compilers treat sizes 0 and 1 apart."""


@dataclass(frozen=True)
class Layout:
    r"""Rows of atoms sorted by element, and their neighbours as blocks.

    A model is a function of positions, cell and layout, and that function contains nothing that
    depends on data: everything that does (sorting, counting, padding, pairing edges with their
    reverses) is decided here, outside of it, and every size can be read from the shape of a tensor.
    So one compiled graph serves all structures.

    A padded layout has ghosts: atoms without neighbours, as many as it takes that no size is 0 or
    1. They form a structure of their own, the last one.

    Attributes:
        members: for each element of the model, the atoms of the batch that have it; ghosts have the
            number of atoms. One after the other they are the rows.
        species: position of each row's element among the model's. Shape ``[rows]``.
        rows: the row of each atom of the batch. Shape ``[atoms]``.
        structures: the structure that each row belongs to.
        neighbors: who sees whom, between rows.
        edges: the edge of the batch from the second to the first atom of each pair; the number of
            edges for a pair that pads.
        shifts: lattice vectors to add to the second atom of each pair, in units of the cell rows,
            float64. Shape ``[pairs, 3]``.
    """

    members: tuple[Int[Tensor, " members"], ...]
    species: Int[Tensor, " rows"]
    rows: Int[Tensor, " atoms"]
    structures: Groups
    neighbors: NeighborBlocks
    edges: Int[Tensor, " pairs"]
    shifts: Float[Tensor, "pairs 3"]

    @property
    def counts(self) -> list[int]:
        """Rows of each element."""
        return [atoms.shape[0] for atoms in self.members]

    def geometry(
        self, batch: Any
    ) -> tuple[Float[Tensor, "rows 3"], Float[Tensor, "structures 3 3"]]:
        """Positions of the rows and cells of the structures; those of ghosts are zero."""
        positions = torch.cat([batch.positions, batch.positions.new_zeros(1, 3)])
        missing = self.structures.table.shape[0] - batch.cell.shape[0]
        cell = torch.cat([batch.cell, batch.cell.new_zeros(missing, 3, 3)])
        return positions[torch.cat(self.members)], cell

    def pair_vectors(
        self,
        positions: Float[Tensor, "rows 3"],
        cell: Float[Tensor, "structures 3 3"],
        *,
        padding: float,
    ) -> Float[Tensor, "pairs 3"]:
        r"""Vectors from the first atom of every pair to the second.

        .. math::
            \vec r_p = r_{\mathrm{second}(p)} + S_p C - r_{\mathrm{first}(p)}

        Pairs that pad have the vector ``(0, 0, padding)``.
        """
        n = self.neighbors
        cells = cell[self.structures.of[n.first]]
        vectors = n.differences(positions) + (self.shifts.unsqueeze(1) @ cells).squeeze(1)
        return torch.where(n.exists.unsqueeze(1), vectors, beyond(vectors, padding))


def beyond(like: Float[Tensor, "*pairs 3"], distance: float) -> Float[Tensor, " 3"]:
    """A vector of a length that no neighbour has."""
    return torch.nn.functional.pad(like.new_full((1,), distance), (2, 0))


def lay_out(
    batch: Any, species: Int[Tensor, " atoms"], num_elements: int, *, padded: bool = False
) -> Layout:
    """The layout of a batch.

    Args:
        batch: structures (:class:`equiv.graph.AtomGraph`, batched).
        species: position of every atom's element among the model's.
        num_elements: how many elements the model has.
        padded: whether all sizes must be at least 2, as compiled code wants it. Costs a few ghosts.
    """
    num_atoms, device = species.shape[0], species.device
    order = sorting_order(species)
    counts = torch.bincount(species, minlength=num_elements).tolist()
    least = LEAST_ROWS if padded else 0
    members = tuple(
        torch.nn.functional.pad(atoms, (0, max(0, least - atoms.shape[0])), value=num_atoms)
        for atoms in order.split(counts)
    )
    atoms = torch.cat(members)
    real = atoms < num_atoms
    rows = torch.empty_like(order)
    rows[atoms[real]] = torch.arange(atoms.shape[0], device=device)[real]
    sizes = torch.tensor([m.shape[0] for m in members], device=device)

    num_structures = batch.cell.shape[0]
    structures = torch.cat([batch.batch, batch.batch.new_full((1,), num_structures)])[atoms]
    groups = Groups.from_index(structures, num_structures + padded)
    if padded:
        table = torch.nn.functional.pad(
            groups.table, (0, max(0, 2 - groups.table.shape[1])), value=atoms.shape[0]
        )
        groups = Groups(groups.of, table)
    neighbors, edges = neighbor_blocks(
        rows[batch.senders],
        rows[batch.receivers],
        batch.shifts,
        atoms.shape[0],
        padded=padded,
    )
    shifts = torch.cat([batch.shifts, batch.shifts.new_zeros(1, 3)])[edges]
    return Layout(
        members=members,
        species=torch.repeat_interleave(torch.arange(num_elements, device=device), sizes),
        rows=rows,
        structures=groups,
        neighbors=neighbors,
        edges=edges,
        shifts=shifts,
    )
