import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from equiv import units
from equiv.data import Dataset, Frame
from equiv.data.consistency import find_contradictions

REST = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [0.4, 0.3, 0.9]])


def molecule(seed):
    """A rattled and turned molecule with harmonic distances."""
    rng = np.random.default_rng(seed)
    positions = REST + rng.normal(scale=0.05, size=REST.shape)
    positions = positions @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    energy, forces = -100.0, np.zeros_like(positions)
    for i in range(4):
        for j in range(i):
            bond = positions[i] - positions[j]
            length = np.linalg.norm(bond)
            stretch = length - np.linalg.norm(REST[i] - REST[j])
            energy += 10 * stretch**2
            forces[i] -= 20 * stretch * bond / length
            forces[j] += 20 * stretch * bond / length
    return Frame(Atoms("OHHH", positions), float(energy), forces, None, "a.xyz", seed)


def crystals(count=30):
    """Argon in strained and rattled cells."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(count):
        atoms = bulk("Ar", cubic=True, a=5.3)
        strain = rng.normal(scale=0.004, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain + strain.T), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.01, size=(4, 3))
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=9.0, smooth=True)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        stress = atoms.get_stress(voigt=False)
        atoms.calc = None
        frames.append(Frame(atoms, energy, forces, stress, "a.xyz", index))
    return frames


def findings(frames):
    return find_contradictions(Dataset(list(frames)))


def test_labels_that_belong_together_are_not_complained_about():
    assert findings(molecule(k) for k in range(60)) == []
    assert findings(crystals()) == []


@pytest.mark.parametrize(
    ("energy", "force", "words"),
    [
        (1.0, -1.0, "wrong sign"),
        (1 / units.HARTREE, 1.0, "energies are in Ha and forces in eV/Ang"),
        (1.0, units.BOHR / units.HARTREE, "energies are in eV and forces in Ha/Bohr"),
        (
            1 / units.HARTREE,
            units.BOHR / units.HARTREE,
            "energies are in Ha and forces in Ha/Bohr while positions are in Ang",
        ),
        (1.0, 1 / units.KCAL_PER_MOL, "energies are in eV and forces in kcal/mol/Ang"),
        (1.0, 7.0, "check their units and signs"),
    ],
)
def test_forces_in_other_units_than_the_energy_are_recognised(energy, force, words):
    frames = [molecule(k) for k in range(60)]
    for frame in frames:
        frame.energy *= energy
        frame.forces *= force
    (finding,) = findings(frames)
    assert finding.kind == "contradicting forces"
    assert words in finding.message


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (-1.0, "compression_positive"),
        (1 / units.GPA, "units.stress: GPa"),
        (-10 / units.GPA, "kbar with compression positive"),
    ],
)
def test_stress_of_the_wrong_sign_or_unit_is_recognised(factor, words):
    frames = crystals()
    for frame in frames:
        frame.stress = frame.stress * factor
    (finding,) = findings(frames)
    assert finding.kind == "contradicting stress"
    assert words in finding.message


def test_structures_that_have_nothing_in_common_are_not_judged():
    rng = np.random.default_rng(0)
    frames = [molecule(k) for k in range(60)]
    for frame in frames:
        frame.energy = float(rng.normal())
    assert findings(frames) == []


def test_too_few_structures_are_not_judged():
    frames = [molecule(k) for k in range(6)]
    for frame in frames:
        frame.forces *= -1
    assert findings(frames) == []
