"""Systems of particles that move: what a forecaster is shown, and what it is to say."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.data.npz import load_arrays
from equiv.data.slices import sliced
from equiv.errors import DataError
from equiv.graph.blocks import NeighborBlocks, neighbor_blocks


@dataclass(frozen=True)
class Particles:
    """One system now, and its particles' positions later.

    Attributes:
        positions: shape ``[particles, 3]``.
        velocities: shape ``[particles, 3]``.
        charges: shape ``[particles]``.
        targets: positions after the time that is to be forecast, if they are known. Shape
            ``[particles, 3]``.
    """

    positions: Float[Tensor, "particles 3"]
    velocities: Float[Tensor, "particles 3"]
    charges: Float[Tensor, " particles"]
    targets: Float[Tensor, "particles 3"] | None = None


@dataclass(frozen=True)
class ParticleBatch:
    """Several systems as one; every particle sees all others of its system.

    Attributes:
        positions: shape ``[particles, 3]``.
        velocities: shape ``[particles, 3]``.
        charges: shape ``[particles]``.
        targets: NaN where they are not known. Shape ``[particles, 3]``.
        batch: the system of every particle.
        sizes: particles of every system. Shape ``[systems]``.
        neighbors: who sees whom.
    """

    positions: Float[Tensor, "particles 3"]
    velocities: Float[Tensor, "particles 3"]
    charges: Float[Tensor, " particles"]
    targets: Float[Tensor, "particles 3"]
    batch: Int[Tensor, " particles"]
    sizes: Int[Tensor, " systems"]
    neighbors: NeighborBlocks

    def to(self, device: torch.device | str) -> "ParticleBatch":
        """The same on a device."""
        if torch.device(device) == self.positions.device:
            return self
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)[:-1]}
        neighbors = self.neighbors
        slots = {f.name: getattr(neighbors, f.name) for f in fields(neighbors)}
        there: dict[str, Any] = {
            k: v.to(device) if isinstance(v, Tensor) else v for k, v in slots.items()
        }
        return ParticleBatch(**moved, neighbors=NeighborBlocks(**there))

    def mean(self, x: Float[Tensor, "particles *rest"]) -> Float[Tensor, "systems *rest"]:
        """The mean over the particles of every system."""
        total = x.new_zeros(len(self.sizes), *x.shape[1:]).index_add(0, self.batch, x)
        return total / self.sizes.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def collate_particles(samples: Sequence[Particles]) -> ParticleBatch:
    """Several systems as one."""
    sizes = tuple(len(sample.charges) for sample in samples)
    batch, neighbors = _everyone(sizes)
    return ParticleBatch(
        positions=torch.cat([sample.positions for sample in samples]),
        velocities=torch.cat([sample.velocities for sample in samples]),
        charges=torch.cat([sample.charges for sample in samples]),
        targets=torch.cat(
            [
                torch.full_like(s.positions, torch.nan) if s.targets is None else s.targets
                for s in samples
            ]
        ),
        batch=batch,
        sizes=torch.tensor(sizes),
        neighbors=neighbors,
    )


@lru_cache(maxsize=16)
def _everyone(sizes: tuple[int, ...]) -> tuple[Int[Tensor, " particles"], NeighborBlocks]:
    """The system of every particle, and everyone who sees everyone else in it."""
    counts = torch.tensor(sizes)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    degree = counts[batch]
    receivers = torch.repeat_interleave(torch.arange(len(batch)), degree)
    start = torch.repeat_interleave(degree.cumsum(0) - degree, degree)
    senders = first[receivers] + torch.arange(len(receivers)) - start
    others = senders != receivers
    senders, receivers = senders[others], receivers[others]
    shifts = torch.zeros(len(senders), 3)
    return batch, neighbor_blocks(senders, receivers, shifts, len(batch))[0]


def read_particles(paths: Sequence[Path]) -> tuple[list[Particles], list[str], str]:
    """The systems in some files, where each came from, and a hash of the content.

    A file is an archive such as `equiv data make nbody` writes: `positions`, `velocities` and
    `targets` of shape [systems, particles, 3], and `charges` of shape [systems, particles].

    Raises:
        DataError: a file is missing, lacks an array, or holds shapes that do not fit together.
    """
    samples, names, digest = [], [], hashlib.sha256()
    for name in paths:
        path, part = sliced(name)
        if not path.exists():
            raise DataError(f"{path}: no such file; `equiv data make nbody` makes the N-body set")
        arrays = _arrays(path)
        count = len(arrays["charges"])
        for key, values in arrays.items():
            digest.update(f"{key}{values[part].shape}".encode())
            digest.update(np.ascontiguousarray(values[part], dtype=np.float64).tobytes())
        tensors = {k: torch.from_numpy(np.array(v, dtype=np.float64)) for k, v in arrays.items()}
        for index in range(count)[part]:
            samples.append(Particles(**{k: v[index] for k, v in tensors.items()}))
            names.append(f"{path.name}:{index}")
    if not samples:
        raise DataError(f"{', '.join(map(str, paths))}: no systems in there")
    return samples, names, digest.hexdigest()


def _arrays(path: Path) -> dict[str, np.ndarray]:
    found = load_arrays(path)
    missing = [f.name for f in fields(Particles) if f.name not in found]
    if missing:
        raise DataError(
            f"{path}: needs arrays {', '.join(f.name for f in fields(Particles))}; it lacks "
            f"{', '.join(missing)} and holds {', '.join(sorted(found)) or 'nothing'}"
        )
    arrays = {f.name: found[f.name] for f in fields(Particles)}
    shape = arrays["charges"].shape
    for name, values in arrays.items():
        expected = shape if name == "charges" else (*shape, 3)
        if len(shape) != 2 or values.shape != expected:
            raise DataError(
                f"{path}: charges should be of shape [systems, particles], and the others with 3 "
                f"more; got charges of shape {shape} and {name} of {values.shape}"
            )
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))[0])
            raise DataError(f"{path}: {name} of system {bad} holds values that are not finite")
    return arrays
