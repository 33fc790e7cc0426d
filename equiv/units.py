r"""Units: what the package computes in, and how others' numbers become that.

.. math::
    E[\mathrm{eV}] = E[u] \cdot \mathrm{energy\_in\_ev}(u)

Inside, everything is in eV and Angstrom (forces eV/Angstrom, stress eV/Angstrom^3); names of other
units appear only where files are read and where tables are printed. Values: CODATA 2022; the
Avogadro constant, the elementary charge and the thermochemical calorie are exact.
"""

from collections.abc import Mapping
from difflib import get_close_matches

from equiv.errors import EquivError

HARTREE = 27.211386245981
"""One Hartree in eV."""
BOHR = 0.529177210544
"""One Bohr radius in Angstrom."""
COULOMB = HARTREE * BOHR
"""e^2/(4 pi epsilon_0) in eV Angstrom: the energy of two unit charges one Angstrom apart."""
_CHARGE = 1.602176634e-19
_AVOGADRO = 6.02214076e23
KCAL_PER_MOL = 4184.0 / (_AVOGADRO * _CHARGE)
"""One kcal/mol in eV."""
KJ_PER_MOL = 1000.0 / (_AVOGADRO * _CHARGE)
"""One kJ/mol in eV."""
GPA = 1e9 * 1e-30 / _CHARGE
"""One GPa in eV/Angstrom^3."""

ENERGY: Mapping[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": HARTREE,
    "mHa": 1e-3 * HARTREE,
    "Ry": HARTREE / 2,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
    "K": 8.617333262e-5,
    "1/cm": 1.239841984e-4,
    "J": 1 / _CHARGE,
}
"""Units of energy in eV."""

LENGTH: Mapping[str, float] = {"Ang": 1.0, "Bohr": BOHR, "nm": 10.0, "pm": 0.01, "m": 1e10}
"""Units of length in Angstrom."""

PRESSURE: Mapping[str, float] = {
    "GPa": GPA,
    "MPa": 1e-3 * GPA,
    "Pa": 1e-9 * GPA,
    "kbar": 0.1 * GPA,
    "Mbar": 100 * GPA,
    "bar": 1e-4 * GPA,
    "atm": 1.01325e-4 * GPA,
}
"""Units of pressure in eV/Angstrom^3; energy per length cubed is understood as well."""

_ALIASES = {
    "electronvolt": "eV",
    "hartree": "Ha",
    "eh": "Ha",
    "a.u.": "Ha",
    "au": "Ha",
    "rydberg": "Ry",
    "kcal": "kcal/mol",
    "kcalmol": "kcal/mol",
    "kj": "kJ/mol",
    "cm-1": "1/cm",
    "cm^-1": "1/cm",
    "angstrom": "Ang",
    "å": "Ang",
    "a": "Ang",
    "a0": "Bohr",
    "nanometer": "nm",
    "nanometre": "nm",
    "kb": "kbar",
}


def energy_in_ev(name: str) -> float:
    """One `name` of energy in eV.

    Raises:
        EquivError: the unit is not known; the message names the nearest ones.
    """
    return ENERGY[_find(name, ENERGY, "energy")]


def length_in_angstrom(name: str) -> float:
    """One `name` of length in Angstrom.

    Raises:
        EquivError: the unit is not known; the message names the nearest ones.
    """
    return LENGTH[_find(name, LENGTH, "length")]


def stress_in_ev_per_angstrom3(name: str) -> float:
    """One `name` of stress in eV/Angstrom^3: a pressure (`GPa`) or `energy/length^3` (`Ha/Bohr^3`).

    Raises:
        EquivError: the unit is not known; the message names the nearest ones.
    """
    head, slash, tail = name.rpartition("/")
    for power in ("^3", "**3", "3"):
        if slash and tail.endswith(power):
            length = length_in_angstrom(tail.removesuffix(power))
            return energy_in_ev(head) / length**3
    return PRESSURE[_find(name, PRESSURE, "stress (or an energy/length^3 such as eV/Ang^3)")]


def _find(name: str, table: Mapping[str, float], what: str) -> str:
    """The key of `table` that `name` means; capitals matter only where they tell MPa from mPa."""
    wanted = name.strip()
    if wanted in table:
        return wanted
    lowered = wanted.lower()
    if (alias := _ALIASES.get(lowered)) in table:
        return str(alias)
    matches = [key for key in table if key.lower() == lowered]
    if len(matches) == 1 and lowered not in ("mpa", "mev"):
        return matches[0]
    known = {alias: key for alias, key in _ALIASES.items() if key in table and len(alias) > 2}
    known |= {key.lower(): key for key in table}
    near = get_close_matches(lowered, known, n=1)
    hint = f" - did you mean {known[near[0]]!r}?" if near else ""
    raise EquivError(f"unit of {what}: expected one of {', '.join(table)}, got {name!r}{hint}")
