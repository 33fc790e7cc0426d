"""Small structures that between them reach every branch of a neighbour list and of a model."""

import itertools
from collections.abc import Sequence

import ase
import numpy as np

_MOLECULE = np.array(
    [
        [-0.05, 0.66, 0.03],
        [-0.05, -0.76, -0.02],
        [-1.08, 0.98, 0.05],
        [0.44, 1.07, 0.89],
        [0.47, 1.02, -0.91],
        [0.86, -1.06, 0.11],
    ]
)
_CLUSTER = np.array([[0.0, 0.1, 0.2], [1.3, 0.2, 0.1], [0.4, 1.6, 1.2]])
_TRICLINIC = np.array([[2.9, 0.3, -0.2], [0.9, 3.1, 0.4], [-0.5, 0.7, 3.4]])


def small_structures(
    elements: Sequence[int] = (1, 6, 8), *, cutoff: float = 4.0
) -> dict[str, ase.Atoms]:
    r"""A zoo of at most six atoms each, labelled by what is awkward about it.

    - ``molecule``: six atoms without symmetry, no cell.
    - ``crystal``: a triclinic cell, periodic in three directions and shorter than most cutoffs, so
      that atoms see images of their neighbours and of themselves.
    - ``left_handed``: the same with a negative cell determinant and atoms outside of the cell.
    - ``slab``, ``wire``: periodic in two directions and in one; the open directions have zero cell
      vectors.
    - ``one_atom_crystal``: all neighbours are images of the atom itself.
    - ``apart``: two atoms farther from each other than ``cutoff``.
    - ``atom``: one atom, no neighbours.
    - ``empty``: no atoms at all.

    Args:
        elements: atomic numbers, given out in turn.
        cutoff: of the model in Angstrom; decides only how far ``apart`` is.

    Returns:
        New ``ase.Atoms`` objects, positions in Angstrom, yours to change.
    """

    def atoms(
        positions: np.ndarray, cell: np.ndarray | None = None, pbc: Sequence[bool] | bool = False
    ) -> ase.Atoms:
        numbers = list(itertools.islice(itertools.cycle(elements), len(positions)))
        return ase.Atoms(numbers=numbers, positions=positions, cell=cell, pbc=pbc)

    slab, wire = _TRICLINIC.copy(), _TRICLINIC.copy()
    slab[2], wire[0], wire[2] = 0, 0, 0
    flipped = _TRICLINIC[[1, 0, 2]]
    outside = _CLUSTER + np.array([[0, 0, 0], [2, -1, 0], [0, 1, -3]]) @ flipped
    far = np.array([[0.1, -0.2, 0.3], [0.1, -0.2 + 1.5 * cutoff, 0.3]])
    return {
        "molecule": atoms(_MOLECULE),
        "crystal": atoms(_CLUSTER, _TRICLINIC, True),
        "left_handed": atoms(outside, flipped, True),
        "slab": atoms(_CLUSTER, slab, (True, True, False)),
        "wire": atoms(_CLUSTER, wire, (False, True, False)),
        "one_atom_crystal": atoms(_CLUSTER[:1], 0.8 * _TRICLINIC, True),
        "apart": atoms(far),
        "atom": atoms(_CLUSTER[:1]),
        "empty": atoms(np.zeros((0, 3))),
    }
