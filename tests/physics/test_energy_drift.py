"""Energy is conserved without a thermostat, to the order of the integrator."""

import ase.units
import numpy as np
import pytest
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from equiv.integrations.ase import EquivCalculator

PICOSECOND = 1000 * ase.units.fs


def total_energies(start, velocities, step, duration):
    atoms = start.copy()
    atoms.calc = start.calc
    atoms.set_velocities(velocities)
    dynamics = VelocityVerlet(atoms, timestep=step * ase.units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(round(duration / step))
    return np.array(energies)


@pytest.fixture(scope="module")
def at_rest(build):
    """Atoms in a minimum of the model's own energy, with neighbours crossing the cutoff."""
    atoms = ase.Atoms(
        "OCHOCHOC",
        cell=[4.6, 4.9, 5.2],
        pbc=True,
        scaled_positions=[
            [0, 0, 0],
            [0.5, 0.5, 0.1],
            [0.5, 0, 0.5],
            [0, 0.5, 0.5],
            [0.25, 0.3, 0.75],
            [0.7, 0.75, 0.3],
            [0.8, 0.25, 0.75],
            [0.25, 0.8, 0.2],
        ],
    )
    atoms.calc = EquivCalculator(build(zbl=True))
    BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=0.05, steps=60)
    return atoms


@pytest.fixture(scope="module")
def velocities(at_rest):
    kick = np.random.default_rng(4).standard_normal((len(at_rest), 3))
    velocities = kick * np.sqrt(ase.units.kB * 300 / at_rest.get_masses())[:, None]
    return velocities - velocities.mean(0)


def test_the_error_falls_with_the_square_of_the_step(at_rest, velocities):
    # Only forces that are the exact gradient of the energy have this order.
    coarse, fine = (np.std(total_energies(at_rest, velocities, dt, 60)) for dt in (1.0, 0.5))
    assert coarse < 0.05 * len(at_rest) * ase.units.kB * 300
    assert coarse / fine == pytest.approx(4, rel=0.35)


def test_energy_does_not_drift(at_rest, velocities):
    energies = total_energies(at_rest, velocities, 0.5, 200)
    time = np.arange(len(energies)) * 0.5 * ase.units.fs
    slope = np.polyfit(time, energies, 1)[0] * PICOSECOND / len(at_rest)
    assert abs(slope) < 1e-3  # eV per atom and picosecond; kT is 26e-3


def test_atoms_do_move_in_these_runs(at_rest, velocities):
    atoms = at_rest.copy()
    atoms.calc = at_rest.calc
    atoms.set_velocities(velocities)
    before = atoms.positions.copy()
    VelocityVerlet(atoms, timestep=0.5 * ase.units.fs).run(100)
    assert np.abs(atoms.positions - before).max() > 0.1
