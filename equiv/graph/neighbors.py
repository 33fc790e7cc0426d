"""Neighbour lists: every pair of atoms closer than the cutoff, images included."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from vesin import NeighborList as VesinNeighborList

from equiv.errors import DataError


@dataclass(frozen=True)
class NeighborList:
    """Directed edges, both directions of every pair, sorted by receiver, then sender, then shift.

    Attributes:
        senders: atom in which the edge begins. Shape ``[edges]``.
        receivers: atom in which the edge ends. Shape ``[edges]``.
        shifts: lattice translations of the sender, in units of the cell vectors. Shape ``[edges, 3]``.
    """

    senders: Int64[np.ndarray, " edges"]
    receivers: Int64[np.ndarray, " edges"]
    shifts: Int64[np.ndarray, "edges 3"]


def neighbor_list(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, " 3"],
    cutoff: float,
) -> NeighborList:
    """All edges shorter than ``cutoff``."""
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    cell = np.asarray(cell, dtype=np.float64)
    pbc = np.asarray(pbc, dtype=bool)
    if not cutoff > 0:
        raise DataError(f"cutoff must be a positive distance in Angstrom, got {cutoff}")
    if not np.isfinite(positions).all() or not np.isfinite(cell).all():
        raise DataError("positions and cell must be finite numbers")
    if not len(positions):
        empty = np.zeros(0, dtype=np.int64)
        return NeighborList(empty, empty, np.zeros((0, 3), dtype=np.int64))
    i, j, shifts = VesinNeighborList(cutoff=cutoff, full_list=True).compute(
        points=positions, box=cell, periodic=pbc, quantities="ijS"
    )
    i, j, shifts = i.astype(np.int64), j.astype(np.int64), shifts.astype(np.int64)
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], j, i))
    return NeighborList(senders=j[order], receivers=i[order], shifts=shifts[order])
