"""Point charges of one or several structures, checked once at the door."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equiv.errors import DataError


@dataclass(frozen=True)
class PointCharges:
    """Charges at positions, in as many structures as ``cell`` has matrices.

    Attributes:
        positions: Angstrom; atoms of a periodic structure may lie outside of the cell.
        charges: elementary charges (or the square root of a dispersion coefficient, ...). Their
            dtype is the dtype of the arithmetic; distances are taken in the dtype of the positions.
        cell: lattice vectors in rows, Angstrom; rows of directions that do not repeat are ignored.
        pbc: which of the three directions repeat.
        batch: the structure of each atom, ascending.
    """

    positions: Float[Tensor, "atoms 3"]
    charges: Float[Tensor, " atoms"]
    cell: Float[Tensor, "graphs 3 3"]
    pbc: Bool[Tensor, "graphs 3"]
    batch: Int[Tensor, " atoms"]

    @classmethod
    def checked(
        cls,
        positions: Tensor,
        charges: Tensor,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> "PointCharges":
        """With the defaults filled in: one structure, nothing periodic.

        Raises:
            DataError: shapes that do not fit, numbers that are not finite, a batch that is not
                sorted.
        """
        atoms = len(positions)
        device = positions.device
        if positions.ndim != 2 or positions.shape[1] != 3:
            raise DataError(f"positions must have shape (atoms, 3), got {tuple(positions.shape)}")
        if charges.shape != (atoms,):
            raise DataError(
                f"charges must have shape ({atoms},), one per position, got {tuple(charges.shape)}"
            )
        cell = positions.new_zeros(1, 3, 3) if cell is None else cell.reshape(-1, 3, 3)
        graphs = len(cell)
        if pbc is None:
            pbc = torch.zeros(graphs, 3, dtype=torch.bool, device=device)
        pbc = pbc.reshape(-1, 3)
        if pbc.dtype != torch.bool or len(pbc) != graphs:
            raise DataError(
                f"pbc must hold three booleans for each of {graphs} cells, got {pbc.dtype} of "
                f"shape {tuple(pbc.shape)}"
            )
        if batch is None:
            if graphs != 1:
                raise DataError(f"{graphs} cells need batch, the structure of each atom")
            batch = torch.zeros(atoms, dtype=torch.long, device=device)
        elif batch.shape != (atoms,) or batch.dtype != torch.long:
            raise DataError(
                f"batch must be torch.long of shape ({atoms},), got {batch.dtype} of shape "
                f"{tuple(batch.shape)}"
            )
        elif atoms and (int(batch[0]) < 0 or int(batch[-1]) >= graphs or (batch.diff() < 0).any()):
            raise DataError(
                f"batch must ascend from 0 to at most {graphs - 1}, the last of {graphs} cells"
            )
        if not (torch.isfinite(positions).all() and torch.isfinite(charges).all()):
            raise DataError("positions or charges hold numbers that are not finite (NaN, inf)")
        return cls(positions, charges, cell, pbc, batch)

    @property
    def num_graphs(self) -> int:
        return len(self.cell)

    @property
    def requires_grad(self) -> bool:
        """Whether a result would be differentiable."""
        return any(t.requires_grad for t in (self.positions, self.charges, self.cell))

    @cached_property
    def counts(self) -> list[int]:
        """Atoms of each structure."""
        if self.num_graphs == 1:
            return [len(self.positions)]
        return torch.bincount(self.batch, minlength=self.num_graphs).tolist()

    @cached_property
    def periodic(self) -> list[tuple[bool, bool, bool]]:
        """Which directions of each structure repeat, as plain booleans."""
        return [tuple(row) for row in self.pbc.tolist()]

    def structures(self) -> Iterator["PointCharges"]:
        """Each structure for itself."""
        if self.num_graphs == 1:
            yield self
            return
        start = 0
        for graph, atoms in enumerate(self.counts):
            rows, one = slice(start, start + atoms), slice(graph, graph + 1)
            batch = self.batch.new_zeros(atoms)
            yield PointCharges(
                self.positions[rows], self.charges[rows], self.cell[one], self.pbc[one], batch
            )
            start += atoms

    def subset(self, graphs: list[int]) -> tuple["PointCharges", Tensor]:
        """Some of the structures (ascending), and the indices of their atoms."""
        if len(graphs) == self.num_graphs:
            return self, torch.arange(len(self.positions), device=self.batch.device)
        chosen = torch.zeros(self.num_graphs, dtype=torch.bool, device=self.batch.device)
        index = torch.tensor(graphs, device=self.batch.device)
        chosen[index] = True
        atoms = chosen[self.batch].nonzero()[:, 0]
        rank = torch.cumsum(chosen.long(), 0) - 1
        return PointCharges(
            self.positions[atoms],
            self.charges[atoms],
            self.cell[index],
            self.pbc[index],
            rank[self.batch[atoms]],
        ), atoms

    def per_graph(self, values: Tensor) -> Tensor:
        """Sums over the atoms of each structure, in float64: [atoms, ...] to [graphs, ...]."""
        values = values.double()
        if self.num_graphs == 1:
            return values.sum(0, keepdim=True)
        zeros = values.new_zeros(self.num_graphs, *values.shape[1:])
        return zeros.index_add(0, self.batch, values)

    def detached(self) -> "PointCharges":
        """The same numbers without a graph."""
        return replace(
            self,
            positions=self.positions.detach(),
            charges=self.charges.detach(),
            cell=self.cell.detach(),
        )
