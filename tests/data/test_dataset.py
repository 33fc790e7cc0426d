import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from equiv.data import Dataset, Frame


def frame(atoms=None, **changes):
    atoms = Atoms("OHH", np.arange(9.0).reshape(3, 3)) if atoms is None else atoms
    values = {"energy": -1.0, "forces": np.ones((len(atoms), 3)), "stress": None}
    return Frame(atoms, **{**values, "source": "x/a.xyz", "index": 3, **changes})


@pytest.mark.parametrize(
    ("atoms", "isolated"),
    [
        (Atoms("H"), True),
        (Atoms("H2", np.eye(3)[:2]), False),
        (bulk("Cu"), False),
        (Atoms("H", cell=[9, 9, 9], pbc=True, info={"config_type": "IsolatedAtom"}), True),
        (Atoms("H", cell=[9, 9, 9], pbc=True, info={"config_type": "isolated_atom"}), True),
        (Atoms("H2", np.eye(3)[:2], info={"config_type": "IsolatedAtom"}), False),
    ],
)
def test_free_atoms_are_known(atoms, isolated):
    assert frame(atoms, forces=None).isolated is isolated


def test_a_set_behaves_like_a_sequence():
    data = Dataset([frame(index=k, group=str(k % 2)) for k in range(6)])
    assert len(data) == 6
    assert data[2].index == 2
    assert [f.index for f in data[1:3]] == [1, 2]
    assert [f.index for f in data.subset(np.array([4, 0]))] == [4, 0]
    assert data.groups == ["0", "1"]
    assert data.elements == [1, 8]
    assert data.num_atoms == 18
    assert data.composition().tolist() == [[2, 1]] * 6
    assert data[2].where == "a.xyz:2"
    assert len(Dataset([frame(Atoms("H"), forces=None), frame()]).without_isolated()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(f, "energy", -1.0 + 1e-12),
        lambda f: setattr(f, "energy", None),
        lambda f: f.forces.__setitem__((0, 0), 1.0 + 1e-15),
        lambda f: setattr(f, "stress", np.zeros((3, 3))),
        lambda f: f.atoms.positions.__setitem__((0, 0), 1e-12),
        lambda f: f.atoms.numbers.__setitem__(0, 9),
        lambda f: f.atoms.set_pbc([True, False, False]),
        lambda f: f.atoms.set_cell([1, 1, 1]),
        lambda f: setattr(f, "weight", 2.0),
    ],
)
def test_the_fingerprint_sees_every_bit_that_matters(change):
    one, other = frame(), frame()
    assert Dataset([one]).fingerprint == Dataset([other]).fingerprint
    change(other)
    assert Dataset([one]).fingerprint != Dataset([other]).fingerprint


def test_the_fingerprint_does_not_see_where_files_lie():
    assert Dataset([frame()]).fingerprint == Dataset([frame(source="y/b.xyz")]).fingerprint


def test_the_fingerprint_depends_on_the_order():
    one, other = frame(), frame(energy=-2.0)
    assert Dataset([one, other]).fingerprint != Dataset([other, one]).fingerprint


def test_the_digest_of_a_structure_ignores_labels_and_signs_of_zero():
    one, other = frame(), frame(energy=None, forces=None)
    other.atoms.positions[0, 0] = -0.0
    assert one.structure_digest() == other.structure_digest()
