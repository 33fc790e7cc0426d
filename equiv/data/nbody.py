r"""Charged particles that fly through each other: the N-body forecasting set of the field.

Kipf et al. (2018) invented it, Fuchs et al. (2020) and Satorras et al. (EGNN, 2021) took it to
three dimensions; SEGNN, PONITA and CGENN report the mean square error of positions 1000 steps ahead
on the version that is regenerated here bit for bit (``nbody_small``, seed 43, five particles).
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from equiv.atomic import write_bytes
from equiv.data.npz import load_arrays
from equiv.errors import DataError

PARTICLES = 5
SEED = 43
SIZES = {"train": 10_000, "valid": 2_000, "test": 2_000}
TRAINED_ON = (
    3_000  # training simulations that the literature uses; the others only cost random numbers
)
START_STEP, TARGET_STEP = 3_100, 4_100  # frames 30 and 40 of one in every 100 steps
STORED_FRAMES = 49
TIME_STEP = 1e-3
LARGEST_FORCE = 0.1 / TIME_STEP
SPEED = 0.5
BOX = 5.0
CHUNK = 500  # simulations side by side: their arrays stay in the cache

Array = np.ndarray


@dataclass(frozen=True)
class Trajectories:
    """Particles at one time, and where they are 1000 steps (one unit of time) later.

    Attributes:
        positions: shape ``[simulations, 5, 3]``.
        velocities: shape ``[simulations, 5, 3]``.
        charges: 1 or -1. Shape ``[simulations, 5]``.
        targets: positions one unit of time later. Shape ``[simulations, 5, 3]``.
    """

    positions: Float[Array, "simulations particles 3"]
    velocities: Float[Array, "simulations particles 3"]
    charges: Float[Array, "simulations particles"]
    targets: Float[Array, "simulations particles 3"]


def draw(random: np.random.RandomState, count: int) -> tuple[Array, Array, Array]:
    """Charges and the first positions and velocities of ``count`` simulations.

    The random numbers are those that the original program draws, in its order: it makes one
    simulation after the other and draws noise of size zero at the end of each.

    Returns:
        charges ``[count, 5]``, positions and velocities ``[count, 3, 5]``.
    """
    charges = np.empty((count, PARTICLES))
    positions, velocities = (np.empty((count, 3, PARTICLES)) for _ in range(2))
    for s in range(count):
        charges[s] = random.choice([-1.0, 0.0, 1.0], size=PARTICLES, p=[0.5, 0.0, 0.5])
        x, v = random.randn(3, PARTICLES), random.randn(3, PARTICLES)
        v = v * SPEED / np.sqrt((v**2).sum(axis=0))
        # The walls of the box act on the first positions only.
        above, below = x > BOX, x < -BOX
        x[above], v[above] = 2 * BOX - x[above], -np.abs(v[above])
        x[below], v[below] = -2 * BOX - x[below], np.abs(v[below])
        positions[s], velocities[s] = x, v
        random.randn(2 * STORED_FRAMES * 3 * PARTICLES)
    return charges, positions, velocities


class Forces:
    r"""Coulomb forces without softening, each component clipped.

    .. math::
        F_{ia} = \mathrm{clip}\Big( \sum_j \frac{q_i q_j (x_{ia} - x_{ja})}{d_{ij}^3},
        \pm 100 \Big), \qquad d_{ij}^2 = |x_i|^2 + |x_j|^2 - 2\, x_i \cdot x_j

    Simulations lie side by side along the last axis. Every pair is computed once; the order of all
    roundings is that of the original program, which sums over all :math:`j` and takes the scalar
    products from a matrix product.

    Args:
        charges: shape ``[simulations, 5]``.
    """

    def __init__(self, charges: Float[Array, "simulations particles"]) -> None:
        self.first, self.second = np.triu_indices(PARTICLES, 1)
        self.products = np.ascontiguousarray((charges[:, self.first] * charges[:, self.second]).T)
        self.entries = self.first * PARTICLES + self.second
        self.rows = np.empty((len(charges), 3, PARTICLES))

    def __call__(self, x: Float[Array, "3 particles simulations"]) -> Float[Array, "3 particles s"]:
        """The forces at these positions."""
        self.rows[...] = x.transpose(2, 0, 1)
        scalar = self.rows.transpose(0, 2, 1) @ self.rows
        scalar = np.ascontiguousarray(scalar.reshape(-1, PARTICLES**2).T[self.entries])
        square = x * x
        norm = square[0] + square[1] + square[2]
        distance = norm[self.first] + norm[self.second]
        scalar *= 2
        distance -= scalar
        strength = np.power(distance, 1.5, out=distance)
        np.divide(self.products, strength, out=strength)
        pairs = x[:, self.first] - x[:, self.second]
        pairs *= strength
        forces = np.zeros_like(x)
        for i in range(PARTICLES):
            for j in range(PARTICLES):
                if i != j:
                    p = self._pair(min(i, j), max(i, j))
                    (np.add if i < j else np.subtract)(forces[:, i], pairs[:, p], out=forces[:, i])
        return np.clip(forces, -LARGEST_FORCE, LARGEST_FORCE, out=forces)

    @staticmethod
    def _pair(i: int, j: int) -> int:
        """Where the pair i < j stands among all pairs."""
        return i * (2 * PARTICLES - i - 1) // 2 + j - i - 1


def simulate(
    charges: Array,
    positions: Array,
    velocities: Array,
    progress: Callable[[int], None] | None = None,
) -> Trajectories:
    r"""Let them fly: half-step start, then positions and velocities in turn.

    .. math::
        x \leftarrow x + \Delta t\, v, \qquad v \leftarrow v + \Delta t\, F(x), \qquad
        \Delta t = 10^{-3}

    Args:
        charges: shape ``[simulations, 5]``.
        positions: at the beginning. Shape ``[simulations, 3, 5]``.
        velocities: at the beginning.
        progress: called with the number of simulations just done.
    """
    parts = []
    for first in range(0, len(charges), CHUNK):
        chunk = slice(first, first + CHUNK)
        parts.append(_fly(charges[chunk], positions[chunk], velocities[chunk]))
        if progress is not None:
            progress(len(charges[chunk]))
    start, velocity, target = (
        np.concatenate([part[k] for part in parts]) if parts else np.empty((0, PARTICLES, 3))
        for k in range(3)
    )
    return Trajectories(start, velocity, charges, target)


def _fly(charges: Array, positions: Array, velocities: Array) -> tuple[Array, Array, Array]:
    forces = Forces(charges)
    x, v = (np.ascontiguousarray(a.transpose(1, 2, 0)) for a in (positions, velocities))
    v += TIME_STEP * forces(x)
    start = x, v
    for step in range(1, TARGET_STEP + 1):
        x += TIME_STEP * v
        if step == START_STEP:
            start = x.copy(), v.copy()
        if step < TARGET_STEP:
            v += TIME_STEP * forces(x)
    return tuple(np.ascontiguousarray(a.transpose(2, 1, 0)) for a in (*start, x))  # pyright: ignore


PUBLISHED = {
    "train": "d9b5247e510cf3c6",
    "valid": "34533ddb67e4a3ab",
    "test": "31ee460cd6150677",
}
"""Beginnings of the sha256 of positions at both times, as `fingerprint` computes them."""


def fingerprint(trajectories: Trajectories) -> str:
    """The first 16 digits of the sha256 of float64 positions, shape [simulations, 2, 5, 3]."""
    both = np.stack([trajectories.positions, trajectories.targets], axis=1)
    return hashlib.sha256(np.ascontiguousarray(both).tobytes()).hexdigest()[:16]


def make_nbody(
    folder: Path, progress: Callable[[int], None] | None = None
) -> dict[str, Trajectories]:
    """Write `train.npz`, `valid.npz` and `test.npz`; files that hold the set already are kept.

    About 15 seconds on one core. The first positions need the random numbers of all simulations,
    those before them included, and nothing but the trajectories takes time: an interrupted call
    loses one file at most.

    Args:
        folder: where the files go; made if it does not exist.
        progress: called with the number of simulations just done.

    Returns:
        The sets by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(SEED)  # the published set was drawn from it
    made = {}
    for name, count in SIZES.items():
        kept = min(count, TRAINED_ON)
        charges, positions, velocities = (a[:kept] for a in draw(random, count))
        path = folder / f"{name}.npz"
        stored = _stored(path)
        if stored is not None and fingerprint(stored) == PUBLISHED[name]:
            made[name] = stored
            if progress is not None:
                progress(kept)
            continue
        made[name] = simulate(charges, positions, velocities, progress)
        content = io.BytesIO()
        np.savez(content, **vars(made[name]))
        write_bytes(path, content.getvalue())
    return made


def _stored(path: Path) -> Trajectories | None:
    """What an earlier call wrote, if it can be read."""
    try:
        arrays = load_arrays(path) if path.exists() else {}
        return Trajectories(**arrays) if arrays else None
    except (DataError, TypeError):
        return None
