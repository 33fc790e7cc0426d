import numpy as np
import pytest
from ase.build import bulk, molecule

from equiv.data import Frame, statistics
from equiv.graph import neighbor_list


def frames():
    rng = np.random.default_rng(0)
    found = []
    for k in range(7):
        atoms = bulk("NaCl", "rocksalt", 5.6, cubic=True) if k % 2 else molecule("H2O")
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
        found.append(
            Frame(
                atoms,
                -1e4 * len(atoms) + rng.normal(),
                rng.normal(loc=0.3, size=(len(atoms), 3)),
                rng.normal(size=(3, 3)) if k % 2 else None,
                "a.xyz",
                k,
            )
        )
    return found


def test_moments_are_those_of_all_values_together():
    data, reference = frames(), {1: -9e3, 8: -1.1e4, 11: -1e4, 17: -1e4}
    found = statistics(iter(data), 4.0, reference)
    energy = [
        (f.energy - sum(reference[int(z)] for z in f.atoms.numbers)) / len(f.atoms) for f in data
    ]
    forces = np.concatenate([f.forces for f in data])
    stress = np.array([f.stress for f in data if f.stress is not None])
    edges = sum(
        len(neighbor_list(f.atoms.positions, f.atoms.cell.array, f.atoms.pbc, 4.0)) for f in data
    )
    assert found.energy_shift == pytest.approx(np.mean(energy), rel=1e-12)
    assert found.energy_scale == pytest.approx(np.std(energy), rel=1e-9)
    assert found.forces_rms == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-12)
    assert found.stress_rms == pytest.approx(np.sqrt(np.mean(stress**2)), rel=1e-12)
    assert found.mean_neighbors == edges / sum(len(f.atoms) for f in data)


def test_neighbours_of_a_known_crystal():
    copper = Frame(bulk("Cu", cubic=True, a=3.6), None, None, None, "a.xyz", 0)
    found = statistics([copper], 2.7, {29: 0.0})
    assert found.mean_neighbors == 12
    assert np.isnan([found.energy_shift, found.forces_rms, found.stress_rms]).all()


def test_nothing_has_no_moments():
    found = statistics([], 5.0, {})
    assert found.mean_neighbors == 0
    assert np.isnan(found.forces_rms)
