"""Twice the matter has twice the energy and the same forces."""

import numpy as np
import pytest

from equiv.integrations.ase import EquivCalculator


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 3, 2)])
@pytest.mark.parametrize("which", ["crystal", "slab"])
def test_a_supercell_repeats_its_unit_cell(model, request, which, repeats):
    unit = request.getfixturevalue(which)
    if which == "slab":
        repeats = (*repeats[:2], 1)
    n = int(np.prod(repeats))
    large = unit.repeat(repeats)
    unit.calc, large.calc = EquivCalculator(model), EquivCalculator(model)
    assert large.get_potential_energy() == pytest.approx(n * unit.get_potential_energy(), rel=1e-13)
    np.testing.assert_allclose(large.get_forces(), np.tile(unit.get_forces(), (n, 1)), atol=1e-11)
    np.testing.assert_allclose(large.get_stress(), unit.get_stress(), atol=1e-12)


def test_molecules_far_apart_do_not_know_each_other(model, molecule):
    other = molecule.copy()
    other.rotate(40, "x")
    other.positions += [30.0, 0.0, 0.0]
    energies = []
    for atoms in (molecule, other, molecule + other):
        atoms.calc = EquivCalculator(model)
        energies.append(atoms.get_potential_energy())
    assert energies[2] == pytest.approx(energies[0] + energies[1], rel=1e-14)


@pytest.mark.parametrize("shift", [0.0, -0.7])
def test_an_isolated_atom_has_its_reference_energy(build, predict, shift):
    import ase

    model = build(shift=shift)
    for symbol, energy in model.recipe["reference_energies"].items():
        prediction = predict(model, ase.Atoms(symbol, [[1.0, 2.0, 3.0]]))
        assert prediction.energy.item() == pytest.approx(energy + shift, abs=1e-12)
        assert not prediction.forces.any()
