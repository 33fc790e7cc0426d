"""Which atoms see which: every pair closer than a cutoff, through any periodic boundary."""

import itertools
from dataclasses import dataclass

import numpy as np
import vesin
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from equiv.errors import DataError, EquivError

# A cell thinner than cutoff / 200 along a periodic direction is a unit error, not a crystal, and
# its images would fill the memory before anyone could say so.
MAX_IMAGES = 200
# A sphere with more atoms than that, or a structure with more pairs, does not exist either; its
# list would not fit into the memory.
MAX_NEIGHBORS = 1e5
MAX_PAIRS = 3e8
# vesin limits its search grid to this many boxes by shrinking all three directions together; a long
# and thin structure then gets zero boxes in its thin direction, and the process dies.
MAX_SEARCH_BOXES = 1e5
# With this many boxes for every atom, looking into them all costs more than a tree.
SPARSE = 50


@dataclass(frozen=True)
class NeighborList:
    """Directed pairs ``senders[e] -> receivers[e]``, sorted by receiver, then sender, then shift.

    Attributes:
        senders: index of the atom that sends.
        receivers: index of the atom that receives.
        shifts: lattice vectors to add to the sender, in units of the cell rows.
    """

    senders: Int[np.ndarray, " edges"]
    receivers: Int[np.ndarray, " edges"]
    shifts: Int[np.ndarray, "edges 3"]

    def __len__(self) -> int:
        return len(self.senders)


def neighbor_list(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, "3"],
    cutoff: float,
) -> NeighborList:
    r"""All pairs, and all their periodic images, with a distance below the cutoff.

    .. math::
        \{(j \to i, S) : \; |r_j + S\,C - r_i| < r_c, \; (j, S) \neq (i, 0)\}

    :math:`C` is the cell with lattice vectors in rows, :math:`S \in \mathbb Z^3` the shift, zero
    along directions that are not periodic. Both directions of a pair are listed, and an atom is a
    neighbour of its own images. The order is a function of the input alone. Linear in the number of
    atoms.

    Args:
        positions: in Angstrom; atoms may lie outside the cell.
        cell: lattice vectors in rows, in Angstrom, of either handedness; rows of directions that
            are not periodic are ignored and may be zero.
        pbc: which of the three directions repeat.
        cutoff: in Angstrom.

    Raises:
        DataError: positions or cell are not finite or have the wrong shape, periodic lattice
            vectors are zero or linearly dependent, or the cell is absurdly thin compared with the
            cutoff.
        EquivError: the cutoff is not a positive finite number.
    """
    positions = np.asarray(positions, dtype=np.float64)
    cell = np.asarray(cell, dtype=np.float64)
    pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), 3)
    _check(positions, cell, pbc, cutoff)
    if len(positions) == 0:
        return NeighborList(*(np.zeros(shape, dtype=np.int64) for shape in (0, 0, (0, 3))))

    box, origin, heights = _search_box(positions, cell, pbc, cutoff)
    _check_density(len(positions), box, cutoff)
    # Bring every atom into the box: a far image would overflow the integers of a search grid.
    fractional = (positions - origin) @ np.linalg.inv(box)
    wraps = np.where(pbc, np.floor(fractional), 0.0)
    inside = positions - origin - wraps @ box

    boxes = np.prod(np.maximum(1.0, heights // cutoff))
    if boxes > MAX_SEARCH_BOXES or boxes > SPARSE * len(positions):
        receivers, senders, shifts = _tree_pairs(inside, box, pbc, heights, cutoff)
    else:
        search = vesin.NeighborList(cutoff=cutoff, full_list=True)
        receivers, senders, shifts = search.compute(inside, box, pbc, "ijS")
    receivers, senders = receivers.astype(np.int64), senders.astype(np.int64)
    shifts = shifts.astype(np.int64)
    wraps = wraps.astype(np.int64)
    shifts = shifts + wraps[receivers] - wraps[senders]

    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], senders, receivers))
    return NeighborList(senders[order], receivers[order], shifts[order])


def _check(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> None:
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise EquivError(f"cutoff must be a positive number of Angstrom, got {cutoff}")
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise DataError(f"positions must have shape (atoms, 3), got {positions.shape}")
    if cell.shape != (3, 3):
        raise DataError(f"cell must have shape (3, 3), lattice vectors in rows, got {cell.shape}")
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise DataError(
            f"positions of {len(bad)} of {len(positions)} atoms are not finite, first atom "
            f"{bad[0]}: {positions[bad[0]].tolist()}"
        )
    periodic = cell[pbc]
    if not np.isfinite(periodic).all():
        raise DataError(f"cell has entries that are not finite: {cell.tolist()}")
    names = [name for name, on in zip("abc", pbc, strict=True) if on]
    for name, row in zip(names, periodic, strict=True):
        if not np.linalg.norm(row) > 0:
            raise DataError(
                f"direction {name} is periodic but its lattice vector is zero; give the cell, "
                f"or set pbc to False along {name}"
            )
    if len(periodic) > 1:
        unit = periodic / np.linalg.norm(periodic, axis=1, keepdims=True)
        if np.linalg.svd(unit, compute_uv=False)[-1] < 1e-8:
            raise DataError(
                f"the periodic lattice vectors {', '.join(names)} are linearly dependent (the "
                f"cell has no volume): {periodic.tolist()}"
            )


def _check_density(atoms: int, box: np.ndarray, cutoff: float) -> None:
    """Refuse what a mistaken unit of length makes of a structure, before it fills the memory."""
    neighbors = atoms / abs(np.linalg.det(box)) * 4 / 3 * np.pi * cutoff**3
    if neighbors > MAX_NEIGHBORS or atoms * neighbors > MAX_PAIRS:
        raise DataError(
            f"{atoms} atoms would have about {neighbors:.2g} neighbours each within the cutoff of "
            f"{cutoff:g} Angstrom; check the unit of length, or lower the cutoff"
        )


def _search_box(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A regular box around the structure, its origin, and the distances between its opposite faces.

    Along periodic directions the box is the cell. The others get vectors normal to them and to each
    other, long enough to hold every atom, so the result never depends on what a file wrote there.
    """
    box, origin, heights = cell.copy(), np.zeros(3), np.zeros(3)
    normals = (
        np.linalg.svd(cell[pbc], full_matrices=True)[2][pbc.sum() :] if pbc.any() else np.eye(3)
    )
    for direction, normal in zip(np.flatnonzero(~pbc), normals, strict=True):
        along = positions @ normal
        length = float(np.ptp(along)) + cutoff
        origin += (along.min() - 0.5 * cutoff) * normal
        box[direction], heights[direction] = length * normal, length
    heights[pbc] = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)[pbc]
    thin = heights[pbc] * MAX_IMAGES < cutoff
    if thin.any():
        raise DataError(
            f"the cell is only {heights[pbc].min():.3g} Angstrom thick along a periodic direction, "
            f"against a cutoff of {cutoff:g}; is it in Angstrom? cell: {cell.tolist()}"
        )
    return box, origin, heights


def _tree_pairs(
    inside: np.ndarray, box: np.ndarray, pbc: np.ndarray, heights: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same pairs from a k-d tree, whose cost does not grow with empty space."""
    tree = KDTree(inside)
    fractional = inside @ np.linalg.inv(box)
    reach = cutoff / heights
    counts = np.where(pbc, np.ceil(reach), 0).astype(int)
    receivers, senders, shifts = [], [], []
    for shift in itertools.product(*(range(-n, n + 1) for n in counts)):
        moved = fractional + shift
        near = np.flatnonzero(((moved >= -reach) & (moved <= 1 + reach)).all(axis=1))
        if not len(near):
            continue
        images = inside[near] + shift @ box
        found = tree.query_ball_point(images, cutoff)
        i = np.concatenate([np.asarray(hits, dtype=np.int64) for hits in found])
        image = np.repeat(np.arange(len(near)), [len(hits) for hits in found])
        close = np.linalg.norm(images[image] - inside[i], axis=1) < cutoff
        if not any(shift):
            close &= near[image] != i
        receivers.append(i[close])
        senders.append(near[image[close]])
        shifts.append(np.broadcast_to(shift, (int(close.sum()), 3)))
    return np.concatenate(receivers), np.concatenate(senders), np.concatenate(shifts)
