import ase.units
import pytest

from equiv import units
from equiv.errors import EquivError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eV", 1.0),
        ("meV", 1e-3),
        ("Ha", ase.units.Hartree),
        ("hartree", ase.units.Hartree),
        ("Ry", ase.units.Rydberg),
        ("kcal/mol", ase.units.kcal / ase.units.mol),
        ("kJ/mol", ase.units.kJ / ase.units.mol),
        ("K", ase.units.kB),
        ("1/cm", ase.units.invcm),
    ],
)
def test_energies_agree_with_those_of_ase(name, expected):
    assert units.energy_in_ev(name) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Ang", 1.0), ("angstrom", 1.0), ("Bohr", ase.units.Bohr), ("nm", 10.0), ("pm", 0.01)],
)
def test_lengths_agree_with_those_of_ase(name, expected):
    assert units.length_in_angstrom(name) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPa", ase.units.GPa),
        ("kbar", 0.1 * ase.units.GPa),
        ("bar", ase.units.bar),
        ("eV/Ang^3", 1.0),
        ("eV/Angstrom**3", 1.0),
        ("Ha/Bohr^3", ase.units.Hartree / ase.units.Bohr**3),
        ("kcal/mol/Ang^3", ase.units.kcal / ase.units.mol),
        ("MPa", 1e-3 * ase.units.GPa),
    ],
)
def test_stresses_agree_with_those_of_ase(name, expected):
    assert units.stress_in_ev_per_angstrom3(name) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("convert", "name", "message"),
    [
        (units.energy_in_ev, "hartre", r"unit of energy: .* got 'hartre' - did you mean 'Ha'"),
        (units.energy_in_ev, "kcal/mole", "did you mean 'kcal/mol'"),
        (units.length_in_angstrom, "bohrs", "did you mean 'Bohr'"),
        (units.length_in_angstrom, "eV", "unit of length"),
        (units.stress_in_ev_per_angstrom3, "gpas", "did you mean 'GPa'"),
        (units.stress_in_ev_per_angstrom3, "mPa", "unit of stress"),
        (units.energy_in_ev, "MeV", "unit of energy"),
    ],
)
def test_an_unknown_unit_is_an_error_that_names_the_nearest(convert, name, message):
    with pytest.raises(EquivError, match=message):
        convert(name)
