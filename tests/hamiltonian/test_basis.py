import json

import pytest

from equiv.errors import DataError, EquivError, UnknownElementError
from equiv.hamiltonian import OrbitalBasis
from equiv.hamiltonian.basis import basis_from_shells

SMALL = OrbitalBasis("def2-svp", {8: (0, 0, 0, 1, 1, 2), 1: (0, 0, 1)})


def test_blocks_of_a_pair_have_the_irreps_that_the_shells_couple_to():
    # two atoms with 3s2p1d shells: 14 ways to a scalar, and so on (Luo et al. 2025 pad to this)
    assert str(SMALL.pair(8, 8).irreps) == "14x0e+16x1o+11x2e+4x3o+1x4e+5x1e+4x2o+1x3e"
    assert str(SMALL.pair(1, 1).irreps) == "5x0e+4x1o+1x2e+1x1e"


def test_a_diagonal_block_has_only_what_a_symmetric_matrix_has():
    kind = SMALL.diagonal(8)
    assert str(kind.irreps) == "10x0e+8x1o+7x2e+2x3o+1x4e+1x1e+2x2o"
    assert kind.dim == kind.irreps.dim == 14 * 15 // 2


def test_the_lighter_element_is_first_in_a_pair():
    assert SMALL.pair(8, 1) is SMALL.pair(1, 8)
    assert SMALL.pair(8, 1).shape == (5, 14)
    assert SMALL.pair(8, 1).name == "H-O"


def test_orbitals_are_counted():
    assert SMALL.nao([8, 1, 1]) == 24
    assert SMALL.l_max == 4
    assert str(SMALL.irreps) == "1x0e+1x1o+1x2e+1x3o+1x4e+1x1e+1x2o+1x3e"
    assert SMALL.describe() == "def2-svp: H 2s1p, O 3s2p1d"


def test_orders_are_inverse_and_move_p_orbitals_only():
    there, back = SMALL.to_internal(8), SMALL.to_pyscf(8)
    assert there[back].tolist() == list(range(14))
    assert there.tolist() == [0, 1, 2, 4, 5, 3, 7, 8, 6, 9, 10, 11, 12, 13]


def test_json_gives_the_same_basis_back():
    stored = json.loads(json.dumps(SMALL.to_dict()))
    assert OrbitalBasis.from_dict(stored) == SMALL


def test_damaged_descriptions_are_refused():
    with pytest.raises(EquivError, match="stored as"):
        OrbitalBasis.from_dict({"name": "x"})
    with pytest.raises(EquivError, match="H needs shells of degree 0 to"):
        OrbitalBasis("x", {1: (0, 99)})


def test_an_unknown_element_is_named():
    with pytest.raises(
        UnknownElementError, match=r"C: the orbital basis def2-svp .* has H, O only"
    ):
        SMALL.nao([6, 1])


def test_shells_of_a_file_make_a_basis():
    shells, atoms = [0, 0, 0, 1, 1, 2, 0, 0, 1, 0, 0, 1], [0] * 6 + [1] * 3 + [2] * 3
    assert basis_from_shells("def2-svp", [8, 1, 1], shells, atoms) == SMALL
    with pytest.raises(DataError, match=r"atom 2 \(H\) has shells"):
        basis_from_shells("def2-svp", [8, 1, 1], shells[:-1], atoms[:-1])


@pytest.fixture
def gto():
    return pytest.importorskip("pyscf.gto")


@pytest.mark.parametrize(
    ("basis", "elements", "expected"),
    [
        ("sto-3g", "OH", "H 1s, O 2s1p"),
        ("6-31g*", "OH", "H 2s, O 3s2p1d"),
        ("def2-svp", ["Cl", "H"], "H 2s1p, Cl 4s3p1d"),
        ("def2-tzvp", ["S", "H"], "H 3s1p, S 5s5p2d1f"),
        ("cc-pvqz", "OH", "H 4s3p2d1f, O 5s4p3d2f1g"),
        ("ano", "OH", "H 6s4p3d1f, O 8s7p4d3f2g"),
        ({"O": "cc-pvtz", "H": "sto-3g"}, "OH", "H 1s, O 4s3p2d1f"),
    ],
    ids=str,
)
def test_shells_are_read_from_pyscf(gto, basis, elements, expected):
    found = OrbitalBasis.from_pyscf(basis, elements)
    assert found.describe().endswith(expected)
    atoms = [(symbol, (0, 0, 2.0 * n)) for n, symbol in enumerate(elements)]
    mole = gto.M(atom=atoms, basis=basis, spin=None, verbose=0)
    assert found.nao(mole.atom_charges().tolist()) == mole.nao
    found.check_molecule(mole)


def test_core_potentials_are_seen(gto):
    basis = OrbitalBasis.from_pyscf("def2-svp", ["I"], ecp="def2-svp")
    assert basis.core == {53: 28}
    all_electrons = OrbitalBasis.from_pyscf("def2-svp", ["I"])
    assert all_electrons.shells == basis.shells
    assert all_electrons.fingerprints != basis.fingerprints


def test_cartesian_orbitals_and_ghosts_are_refused(gto):
    with pytest.raises(EquivError, match="Cartesian"):
        OrbitalBasis.of_molecule(gto.M(atom="He 0 0 0", basis="cc-pvdz", cart=True, verbose=0))
    with pytest.raises(EquivError, match="ghost"):
        OrbitalBasis.of_molecule(gto.M(atom="He 0 0 0; ghost-He 0 0 2", basis="cc-pvdz", verbose=0))


def test_other_functions_of_the_same_shape_are_noticed(gto):
    basis = OrbitalBasis.from_pyscf("def2-svp", ["H"])
    other = gto.M(atom="H 0 0 0; H 0 0 1", basis="6-31g**", verbose=0)
    assert OrbitalBasis.of_molecule(other).shells == basis.shells
    with pytest.raises(EquivError, match=r"as many shells but other functions .* build it with"):
        basis.check_molecule(other)
    with pytest.raises(EquivError, match=r"with shells 2s1p, this molecule has 1s"):
        basis.check_molecule(gto.M(atom="H 0 0 0; H 0 0 1", basis="sto-3g", verbose=0))
    with pytest.raises(UnknownElementError, match="He"):
        basis.check_molecule(gto.M(atom="He 0 0 0", basis="def2-svp", verbose=0))


def test_an_unknown_basis_is_named(gto):
    with pytest.raises(EquivError, match="PySCF has no basis 'no-such-basis' for O"):
        OrbitalBasis.from_pyscf("no-such-basis", ["O"])


def test_atoms_of_one_element_need_one_basis(gto):
    mole = gto.M(atom="H1 0 0 0; H2 0 0 1", basis={"H1": "sto-3g", "H2": "def2-svp"}, verbose=0)
    with pytest.raises(EquivError, match=r"different basis functions .*\(atom 1\)"):
        OrbitalBasis.of_molecule(mole)
