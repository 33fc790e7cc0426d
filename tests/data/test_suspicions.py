import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from equiv import units
from equiv.data import Dataset, Frame
from equiv.data.suspicions import find_suspicions, nearest_contact

REST = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def water(index=0, *, energy=-76.4 * units.HARTREE, force=1.0, length=1.0):
    rng = np.random.default_rng(index)
    atoms = Atoms("OHH", length * (REST + rng.normal(scale=0.03, size=(3, 3))))
    forces = rng.normal(scale=force, size=(3, 3))
    return Frame(atoms, energy, forces - forces.mean(axis=0), None, "a.xyz", index)


def kinds(frames):
    return {finding.kind: finding for finding in find_suspicions(Dataset(list(frames)))}


def test_ordinary_structures_are_not_suspicious():
    assert kinds(water(k) for k in range(20)) == {}


@pytest.mark.parametrize("unit", ["Ha", "Ry", "kcal/mol", "kJ/mol", "meV"])
def test_total_energies_in_another_unit_are_recognised(unit):
    energy = -76.4 * units.HARTREE / units.energy_in_ev(unit)
    finding = kinds(water(k, energy=energy) for k in range(20))["unit of energy"]
    assert finding.severity == "warning"
    assert f"declare units.energy: {unit}" in finding.message


def test_energies_of_pseudopotentials_are_left_alone():
    # 64 water molecules in a plane-wave code: -17.2 Hartree each.
    assert kinds(water(k, energy=-17.2 * units.HARTREE) for k in range(20)) == {}


def test_forces_in_kcal_per_mol_are_suspicious_and_then_not_called_outliers():
    found = kinds(water(k, force=23.0) for k in range(20))
    assert list(found) == ["unit of forces"]


def test_small_forces_are_only_noted():
    found = kinds(water(k, force=0.01) for k in range(20))
    assert found["small forces"].severity == "note"


@pytest.mark.parametrize(("factor", "unit"), [(1 / units.BOHR, "Bohr"), (0.1, "nm")])
def test_lengths_in_another_unit_are_recognised(factor, unit):
    found = kinds(water(k, length=factor) for k in range(20))
    assert f"units.length: {unit}" in found["unit of length"].message


def test_noble_gases_are_not_taken_for_molecules_in_bohr():
    argon = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]])
    forces = np.array([[0, 0, 0.1], [0, 0, -0.1]])
    assert kinds([Frame(argon, -0.01, forces, None, "a.xyz", 0)]) == {}


def test_close_contacts_are_named_with_the_pair():
    frames = [water(k) for k in range(5)]
    frames[3].atoms.positions[1] = frames[3].atoms.positions[0] + [0.3, 0, 0]
    finding = kinds(frames)["close contacts"]
    assert finding.places == (("a.xyz", 3),)
    assert "H1-O0 0.300 Ang in a.xyz:3" in finding.message or "O0-H1" in finding.message


def test_contacts_are_seen_through_the_boundary():
    atoms = Atoms("H2", [[0.1, 0, 0], [9.8, 0, 0]], cell=[10, 10, 10], pbc=True)
    ratio, _ = nearest_contact(Frame(atoms, None, None, None, "a", 0))
    assert ratio == pytest.approx(0.3 / 0.62)


def test_large_forces_are_named_worst_first():
    frames = [water(k) for k in range(5)]
    frames[2].forces[0, 0] = 60.0
    frames[4].forces[0, 0] = 80.0
    finding = kinds(frames)["force outliers"]
    assert "2 structures" in finding.message
    assert "up to 80 (a.xyz:4)" in finding.message
    assert [index for _, index in finding.places] == [4, 2]


def test_forces_zeroed_on_constrained_atoms_are_an_error():
    frames = [water(k) for k in range(5)]
    for frame in frames:
        frame.atoms.set_constraint(FixAtoms([0]))
    assert "zeroed forces" not in kinds(frames)
    frames[3].forces[0] = 0.0
    finding = kinds(frames)["zeroed forces"]
    assert finding.severity == "error"
    assert finding.places == (("a.xyz", 3),)


def test_molecules_without_forces_are_a_warning_and_crystals_a_note():
    crystal = bulk("Cu", cubic=True)
    perfect = Frame(crystal, -1.0, np.zeros((4, 3)), None, "a.xyz", 0)
    assert kinds([perfect])["zero forces"].severity == "note"
    molecule = water(1)
    molecule.forces[:] = 0
    assert kinds([perfect, molecule])["zero forces"].severity == "warning"


def test_a_net_force_is_noted():
    frames = [water(k) for k in range(5)]
    frames[1].forces += 0.5
    finding = kinds(frames)["net force"]
    assert (finding.severity, finding.places) == ("note", (("a.xyz", 1),))


def test_stress_in_gpa_is_suspicious():
    frame = Frame(bulk("Cu"), -1.0, np.zeros((1, 3)), 5.0 * np.eye(3), "a.xyz", 0)
    other = Frame(bulk("Cu", cubic=True), -4.0, np.ones((4, 3)), 5.0 * np.eye(3), "a.xyz", 1)
    assert "5 eV/Ang^3 = 801 GPa" in kinds([frame, other])["unit of stress"].message


def test_a_cell_that_cannot_be_is_an_error_with_its_number():
    tiny = bulk("Cu", cubic=True, a=0.01)
    frames = [water(0), Frame(tiny, -1.0, np.ones((4, 3)), None, "a.xyz", 7)]
    finding = kinds(frames)["impossible structure"]
    assert finding.severity == "error"
    assert finding.places == (("a.xyz", 7),)
