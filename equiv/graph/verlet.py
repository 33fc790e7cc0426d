"""Neighbour lists that are reused while atoms move little."""

import numpy as np

from equiv.errors import EquivError
from equiv.graph.neighbors import NeighborList, neighbor_list


class VerletList:
    r"""All pairs within `cutoff`, searched anew only when an atom has moved too far.

    Pairs within :math:`r_c + s` are searched once; as long as no atom has moved by more than
    :math:`s/2` since, no pair outside that list can have come within :math:`r_c` (Verlet 1967).
    What `update` returns is exactly what a fresh search would, in the same order.

    Args:
        cutoff: :math:`r_c`, Angstrom.
        skin: :math:`s`, Angstrom; zero searches every time the atoms move.

    Attributes:
        searches: how many searches have been made so far.
    """

    def __init__(self, cutoff: float, *, skin: float) -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise EquivError(f"skin should be a length of zero or more in Angstrom, got {skin}")
        self.cutoff = cutoff
        self.skin = float(skin)
        self.searches = 0
        self._wide: NeighborList | None = None
        self._searched_at: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def update(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> NeighborList:
        """Pairs within the cutoff at these positions (Angstrom) and in this cell."""
        if self._wide is None or not self._still_valid(positions, cell, pbc):
            self._wide = neighbor_list(positions, cell, pbc, self.cutoff + self.skin)
            self._searched_at = (positions.copy(), cell.copy(), pbc.copy())
            self.searches += 1
        if self.skin == 0:
            return self._wide
        wide = self._wide
        vectors = positions[wide.senders] + wide.shifts @ cell - positions[wide.receivers]
        near = np.einsum("ei,ei->e", vectors, vectors) < self.cutoff**2
        return NeighborList(wide.senders[near], wide.receivers[near], wide.shifts[near])

    def _still_valid(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        assert self._searched_at is not None
        old_positions, old_cell, old_pbc = self._searched_at
        if positions.shape != old_positions.shape:
            return False
        if not np.array_equal(cell, old_cell) or not np.array_equal(pbc, old_pbc):
            return False
        moved = positions - old_positions
        return bool((np.einsum("ai,ai->a", moved, moved) <= (self.skin / 2) ** 2).all())
