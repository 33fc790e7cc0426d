"""Geometries from molecular dynamics with GFN2-xTB, for reference calculations."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ase
import numpy as np
import torch

from equiv.errors import EquivError
from equiv.so3 import random_rotations


@dataclass(frozen=True)
class Sampling:
    """How geometries are drawn.

    Several independent Langevin trajectories start from the relaxed structures given, in turn;
    after a time of equilibration one geometry is kept every `stride`. Geometries are centred,
    rotated at random, and their order is shuffled, so that any part of the list is a random one.

    Attributes:
        count: geometries.
        temperature: in K.
        replicas: trajectories.
        stride: fs between geometries.
        equilibration: fs before the first.
        timestep: in fs.
        friction: of the Langevin thermostat, 1/fs.
        method: `GFN2-xTB` or `GFN1-xTB`.
        charge: of the molecule, e.
        seed: of velocities, thermostat, rotations and order.
    """

    count: int = 1000
    temperature: float = 500.0
    replicas: int = 10
    stride: float = 20.0
    equilibration: float = 1000.0
    timestep: float = 0.5
    friction: float = 0.02
    method: str = "GFN2-xTB"
    charge: int = 0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def sample_geometries(
    starts: Sequence[ase.Atoms],
    sampling: Sampling,
    *,
    report: Callable[[], None] = lambda: None,
) -> tuple[list[ase.Atoms], np.ndarray]:
    """Run the trajectories.

    Args:
        starts: structures of one molecule, such as its conformers.
        sampling: how.
        report: called for every geometry.

    Returns:
        Geometries, and the trajectory that each is from.

    Raises:
        EquivError: tblite is not installed, there is no structure, or a trajectory falls apart.
    """
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise EquivError(
            "drawing geometries needs tblite; install it with pip install 'equiv[hamiltonian]', or "
            "give geometries of your own (--as-is)"
        ) from error
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import Stationary, ZeroRotation
    from ase.optimize import BFGS
    from ase.units import fs, kB

    if not starts:
        raise EquivError("drawing geometries needs a structure to start from, got none")
    shares = np.bincount(np.arange(sampling.count) % sampling.replicas)
    found, replicas = [], []
    for replica, share in enumerate(shares.tolist()):
        atoms = starts[replica % len(starts)].copy()
        atoms.calc = TBLite(method=sampling.method, charge=float(sampling.charge), verbosity=0)
        BFGS(atoms, logfile=None).run(fmax=0.02, steps=300)  # type: ignore[arg-type]
        bonds = _bonds(atoms)
        rng = np.random.RandomState((1000 * sampling.seed + replica) % 2**32)
        width = np.sqrt(atoms.get_masses() * kB * sampling.temperature)
        atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * width[:, None])
        Stationary(atoms)
        ZeroRotation(atoms)
        dynamics = Langevin(
            atoms,
            sampling.timestep * fs,
            temperature_K=sampling.temperature,
            friction=sampling.friction / fs,
            fixcm=False,
            rng=rng,
        )
        dynamics.run(round(sampling.equilibration / sampling.timestep))
        for _ in range(share):
            dynamics.run(max(1, round(sampling.stride / sampling.timestep)))
            if (_bonds(atoms) > 2 * bonds + 1).any():
                raise EquivError(
                    f"the molecule fell apart at {sampling.temperature:g} K (trajectory {replica}, "
                    f"geometry {len(found)}); lower the temperature"
                )
            positions = atoms.positions - atoms.get_center_of_mass()
            found.append(ase.Atoms(atoms.numbers, positions))
            replicas.append(replica)
            report()
    generator = torch.Generator().manual_seed(sampling.seed)
    for atoms, turn in zip(
        found, random_rotations(len(found), generator=generator).numpy(), strict=True
    ):
        atoms.positions = atoms.positions @ turn.T
    order = torch.randperm(len(found), generator=generator).tolist()
    return [found[i] for i in order], np.array([replicas[i] for i in order])


def _bonds(atoms: ase.Atoms) -> np.ndarray:
    """Distance of every atom from its nearest neighbour, Angstrom."""
    if len(atoms) == 1:
        return np.zeros(1)
    distances = atoms.get_all_distances()
    return np.where(np.eye(len(atoms)) > 0, np.inf, distances).min(1)
