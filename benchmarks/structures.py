"""Structures that the benchmarks share, made from nothing but a seed."""

from collections.abc import Callable

import ase
import numpy as np
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

# Acetylacetone, enol form, in the minimum of the potential in models/acac.
ACETYLACETONE = ase.Atoms(
    "C3OCOCH8",
    positions=[
        [0.984, 0.842, 0.060],
        [-0.109, 0.013, -0.371],
        [-0.747, -0.798, 0.566],
        [-0.362, -0.809, 1.824],
        [-1.894, -1.704, 0.237],
        [1.365, 0.842, 1.268],
        [1.699, 1.724, -0.937],
        [-0.439, 0.015, -1.419],
        [-2.169, -1.652, -0.831],
        [-2.774, -1.432, 0.856],
        [-1.634, -2.750, 0.501],
        [0.445, -0.113, 1.841],
        [2.457, 2.336, -0.417],
        [0.981, 2.384, -1.466],
        [2.197, 1.103, -1.711],
    ],
)


def molecules(count: int) -> list[ase.Atoms]:
    """Acetylacetone, 15 atoms, ``count`` times with displacements of 0.05 Angstrom."""
    frames = [ACETYLACETONE.copy() for _ in range(count)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    return frames


def water_box(per_edge: int) -> list[ase.Atoms]:
    """``per_edge**3`` molecules of water, turned at random, at the density of the liquid."""
    rng, spacing = np.random.default_rng(0), 3.1
    water = molecule("H2O")
    water.positions -= water.positions.mean(0)
    box = ase.Atoms(cell=[per_edge * spacing] * 3, pbc=True)
    for index in np.ndindex(per_edge, per_edge, per_edge):
        one = water.copy()
        turn = Rotation.random(random_state=int(rng.integers(1 << 30)))
        one.positions = turn.apply(one.positions) + spacing * np.array(index)
        box += one
    return [box]


def silicon(per_edge: int) -> list[ase.Atoms]:
    """Diamond silicon, ``8 * per_edge**3`` atoms, displaced by 0.05 Angstrom."""
    crystal = bulk("Si", cubic=True) * (per_edge, per_edge, per_edge)
    crystal.rattle(0.05, seed=0)
    return [crystal]


SYSTEMS: dict[str, Callable[[], list[ase.Atoms]]] = {
    "molecule, 15 atoms": lambda: molecules(1),
    "32 molecules, 480 atoms": lambda: molecules(32),
    "water, 192 atoms": lambda: water_box(4),
    "silicon, 1000 atoms": lambda: silicon(5),
}
