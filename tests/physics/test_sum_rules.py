"""What follows from nothing but the symmetry of space."""

import numpy as np
import torch

from equiv.graph import AtomGraph, collate


def test_the_net_force_is_zero(model, predict, molecule, crystal):
    for atoms in (molecule, crystal):
        forces = predict(model, atoms).forces
        assert forces.abs().max() > 0.1
        assert forces.sum(0).abs().max() < 1e-12 * len(atoms) * forces.abs().max()


def test_the_net_torque_is_zero(model, predict, molecule):
    forces = predict(model, molecule).forces
    torques = torch.linalg.cross(torch.tensor(molecule.positions), forces)
    assert torques.abs().max() > 0.05
    assert torques.sum(0).abs().max() < 1e-11


def test_action_equals_reaction_between_two_atoms(model, predict, dimer):
    forces = predict(model, dimer(1.3)).forces
    bond = torch.tensor(dimer(1.3).positions[1])
    assert forces.abs().max() > 0.05
    assert (forces[0] + forces[1]).abs().max() < 1e-13
    assert torch.linalg.cross(forces[1], bond).abs().max() < 1e-12  # and points along the bond


def test_a_translation_costs_no_energy_to_second_order(model, molecule, crystal):
    """Acoustic sum rule: rows of the Hessian add up to zero for each direction."""
    for atoms in (molecule, crystal):
        hessian = model.hessian(collate([AtomGraph.from_atoms(atoms, model.cutoff)]))
        sums = hessian.view(-1, len(atoms), 3).sum(1)
        assert hessian.abs().max() > 0.1
        assert sums.abs().max() < 1e-11 * hessian.abs().max()


def test_turning_the_molecule_turns_its_forces_to_second_order(model, predict, molecule):
    """For an infinitesimal rotation by t about n, H (n x r) = -(n x F)."""
    hessian = model.hessian(collate([AtomGraph.from_atoms(molecule, model.cutoff)])).numpy()
    forces = predict(model, molecule).forces.numpy()
    for axis in np.eye(3):
        moved = np.cross(axis, molecule.positions).ravel()
        np.testing.assert_allclose(hessian @ moved, -np.cross(axis, forces).ravel(), atol=1e-10)


def test_virials_of_a_molecule_are_positions_times_forces(model, predict, molecule):
    prediction = predict(model, molecule)
    expected = torch.einsum("na,nb->ab", torch.tensor(molecule.positions), prediction.forces)
    torch.testing.assert_close(prediction.virials[0], expected, rtol=0, atol=1e-11)


def test_stress_is_minus_virials_by_volume_and_symmetric(model, predict, crystal):
    prediction = predict(model, crystal)
    stress = prediction.stress[0]
    torch.testing.assert_close(stress, -prediction.virials[0] / crystal.get_volume())
    assert stress.abs().max() > 1e-3
    assert (stress - stress.T).abs().max() < 1e-14


def test_the_atoms_share_the_virials(model, predict, crystal, molecule):
    for atoms in (crystal, molecule):
        prediction = predict(model, atoms, atomic_virials=True)
        torch.testing.assert_close(
            prediction.atomic_virials.sum(0), prediction.virials[0], rtol=0, atol=1e-11
        )
