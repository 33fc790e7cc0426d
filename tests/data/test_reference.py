import numpy as np
import pytest
from ase import Atoms

from equiv.data import Dataset, Frame, reference_energies
from equiv.errors import DataError

E0 = {1: -13.6, 6: -1029.0, 8: -2041.0}


def frame(formula, *, energy=None, index=0, noise=0.0, pbc=False, config_type=None):
    atoms = Atoms(formula)
    atoms.positions[:] = np.arange(3 * len(atoms)).reshape(-1, 3)
    atoms.pbc = pbc
    if config_type:
        atoms.info["config_type"] = config_type
    if energy is None:
        energy = sum(E0[int(z)] for z in atoms.numbers) + noise * len(atoms)
    return Frame(atoms, energy, None, None, "a.xyz", index)


ATOMS = [frame("H"), frame("C"), frame("O")]


def test_isolated_atoms_give_their_energies():
    found = reference_energies(Dataset([*ATOMS, frame("CH4", noise=-0.5)]))
    assert found.values == E0
    assert found.how == "isolated"
    assert found.residual == pytest.approx(0.5)


def test_isolated_atoms_in_a_box_are_known_by_their_name():
    boxed = [frame(s, pbc=True, config_type="IsolatedAtom") for s in "HCO"]
    assert reference_energies(Dataset([*boxed, frame("CH4")])).values == E0
    nameless = [frame(s, pbc=True) for s in "HCO"]
    assert reference_energies(Dataset([*nameless, frame("CH4")])).how == "least_squares"


def test_different_energies_of_the_same_atom_are_an_error():
    with pytest.raises(DataError, match=r"isolated atoms of H have different energies"):
        reference_energies(Dataset([*ATOMS, frame("H", energy=-12.0)]))


def test_a_missing_isolated_atom_is_an_error_or_leads_to_a_fit():
    data = Dataset([*ATOMS[:2], frame("CH4O"), frame("CO2"), frame("H2O"), frame("CH4")])
    with pytest.raises(DataError, match=r"no isolated atom of O is in the data"):
        reference_energies(data, "isolated")
    found = reference_energies(data)
    assert found.how == "least_squares"
    assert found.values == pytest.approx(E0, abs=1e-6)


def test_least_squares_recovers_energies_and_reports_rank_and_residual():
    formulas = ["CH4", "CO2", "H2O", "C2H6O", "CH2O", "O2"]
    data = Dataset([frame(f, noise=(-1) ** k * 0.01) for k, f in enumerate(formulas)])
    found = reference_energies(data, "least_squares")
    assert found.rank == 3
    assert found.undetermined == []
    assert found.values == pytest.approx(E0, abs=0.2)
    assert 0.002 < found.residual <= 0.01 + 1e-9
    assert 1 < found.condition < 100


def test_a_single_composition_is_fitted_by_the_smallest_values_and_said_to_be_undetermined():
    data = Dataset([frame("C5H8O2", index=k) for k in range(3)])
    found = reference_energies(data)
    assert found.rank == 1
    assert found.residual == pytest.approx(0.0, abs=1e-9)
    assert found.undetermined == ["how the energy is shared among H, C, O"]
    counts = np.array([8, 5, 2])
    values = np.array([found.values[z] for z in (1, 6, 8)])
    np.testing.assert_allclose(values, values @ counts / (counts @ counts) * counts)
    assert "do not determine how the energy is shared among H, C, O" in str(found)


def test_only_the_elements_that_trade_energy_are_said_to_be_undetermined():
    data = Dataset([frame("CO"), frame("C2O2"), frame("H2"), frame("H2CO")])
    found = reference_energies(data)
    assert found.rank == 2
    assert found.undetermined == ["how the energy is shared among C, O"]
    assert found.values[1] == pytest.approx(E0[1])


def test_a_table_is_taken_as_it_is():
    table = {"H": -1.0, "C": -2.0, "O": -3.0, "N": -4.0}
    found = reference_energies(Dataset([frame("CH4O")]), table)
    assert found.values == {1: -1.0, 6: -2.0, 7: -4.0, 8: -3.0}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"H": -1.0}, "the table has no C, O, which the data contain; it has H"),
        ({"H": 1.0, "C": 1.0, "O": 1.0, "Q": 0.0}, "no such element: 'Q'"),
        ({"H": 1.0, "C": float("nan"), "O": 1.0}, "not a finite number for C"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(table, message):
    with pytest.raises(DataError, match=message):
        reference_energies(Dataset([frame("CH4O")]), table)


def test_without_energies_there_is_nothing_to_fit():
    silent = frame("CH4")
    silent.energy = None
    with pytest.raises(DataError, match="cannot be fitted without energies"):
        reference_energies(Dataset([silent]))
    with pytest.raises(DataError, match="no structure"):
        reference_energies(Dataset([]))


def test_an_element_without_energies_is_named():
    silent = frame("CO2")
    silent.energy = None
    with pytest.raises(DataError, match="reference energies of O cannot be fitted"):
        reference_energies(Dataset([frame("CH4"), silent]))


def test_an_unknown_choice_is_an_error():
    with pytest.raises(DataError, match="should be 'auto', 'isolated'"):
        reference_energies(Dataset([frame("CH4")]), "guess")
