"""Forces, stress and Hessian through ASE, against ASE's own numerical derivatives."""

import ase
import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from equiv.graph import AtomGraph, collate
from equiv.integrations.ase import EquivCalculator


@pytest.mark.parametrize("which", ["molecule", "crystal", "slab"])
def test_forces_are_numerical_slopes_of_the_energy(model, request, which):
    atoms = request.getfixturevalue(which)
    atoms.calc = EquivCalculator(model)
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    assert np.abs(numerical).max() > 0.1
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)


@pytest.mark.parametrize("which", ["crystal", "slab"])
def test_stress_is_the_numerical_slope_by_strain(model, request, which):
    atoms = request.getfixturevalue(which)
    atoms.calc = EquivCalculator(model)
    numerical = calculate_numerical_stress(atoms, eps=1e-4)
    assert np.abs(numerical).max() > 1e-3
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


def test_the_hessian_is_the_numerical_slope_of_the_forces(model, molecule):
    hessian = model.hessian(collate([AtomGraph.from_atoms(molecule, model.cutoff)])).numpy()
    calculator, rows = EquivCalculator(model), []
    for i in range(len(molecule)):
        for axis in range(3):
            forces = []
            for sign in (1, -1):
                moved = molecule.copy()
                moved.positions[i, axis] += sign * 1e-4
                moved.calc = calculator
                forces.append(moved.get_forces())
            rows.append(-(forces[0] - forces[1]).ravel() / 2e-4)
    np.testing.assert_allclose(hessian, rows, atol=1e-5 * np.abs(hessian).max())


def test_pressure_is_minus_the_slope_of_the_energy_by_volume(model, crystal):
    calculator = EquivCalculator(model)

    def energy_and_volume(strain):
        atoms = crystal.copy()
        atoms.set_cell(crystal.cell * (1 + strain), scale_atoms=True)
        atoms.calc = calculator
        return atoms.get_potential_energy(), atoms.get_volume()

    (e1, v1), (e2, v2) = energy_and_volume(1e-5), energy_and_volume(-1e-5)
    crystal.calc = calculator
    pressure = -np.trace(crystal.get_stress(voigt=False)) / 3
    assert pressure == pytest.approx(-(e1 - e2) / (v1 - v2), rel=1e-5)


def test_a_compressed_crystal_pushes_outwards(build):
    # A sign that no consistency check can find: repulsion is positive pressure, negative stress.
    atoms = ase.Atoms("CC", [[0, 0, 0], [0.6, 0.6, 0.6]], cell=[1.2, 1.2, 1.2], pbc=True)
    atoms.calc = EquivCalculator(build(zbl=True))
    assert (atoms.get_stress()[:3] < -1).all()
