import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from equiv.data import Dataset, Frame
from equiv.data.faults import find_faults


def frame(atoms=None, index=0, source="a.xyz", energy=-1.0, forces="ones", stress=None):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]) if atoms is None else atoms
    forces = np.ones((len(atoms), 3)) if isinstance(forces, str) else forces
    return Frame(atoms, energy, forces, stress, source, index)


def kinds(*frames):
    return {finding.kind: finding for finding in find_faults(Dataset(list(frames)))}


def test_sound_structures_have_no_faults():
    assert kinds(frame(), frame(bulk("Cu"), 1, stress=np.eye(3))) == {}


@pytest.mark.parametrize(
    ("atoms", "kind"),
    [
        (Atoms(), "empty structure"),
        (Atoms("HX", np.eye(3)[:2]), "unknown element"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.inf]]), "non-finite positions"),
        (Atoms("H", [[0, 0, 0]], cell=[1, np.nan, 1], pbc=[1, 0, 0]), "non-finite cell"),
        (Atoms("H", [[0, 0, 0]], cell=[1, 0, 1], pbc=True), "no volume"),
        (Atoms("H", [[0, 0, 0]], cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True), "no volume"),
        (Atoms("H2", np.zeros((2, 3))), "atoms on top of each other"),
        (
            Atoms("H2", [[0, 0, 0], [4, -4, 0]], cell=[4, 4, 4], pbc=True),
            "atoms on top of each other",
        ),
        (
            Atoms(
                "H2",
                [[-1e-20, 0, 9], [4, 1, 9]],
                cell=[[4, 1, 0], [0, 3, 0], [0, 0, 0]],
                pbc=[1, 1, 0],
            ),
            "atoms on top of each other",
        ),
    ],
)
def test_what_is_no_structure_is_named_with_its_number(atoms, kind):
    found = kinds(frame(index=3), frame(atoms, 7), frame(index=8))
    assert list(found) == [kind]
    assert found[kind].severity == "error"
    assert found[kind].places == (("a.xyz", 7),)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ({"energy": np.nan}, "non-finite energy"),
        ({"forces": np.full((2, 3), np.inf)}, "non-finite forces"),
        ({"stress": np.full((3, 3), np.nan)}, "non-finite stress"),
    ],
)
def test_labels_that_are_no_numbers_are_named(broken, kind):
    assert list(kinds(frame(), frame(index=1, **broken))) == [kind]


def test_atoms_a_lattice_vector_apart_are_fine_where_nothing_is_periodic():
    slab = Atoms("H2", [[0, 0, 0], [0, 0, 4]], cell=[4, 4, 4], pbc=[1, 1, 0])
    assert kinds(frame(slab)) == {}


@pytest.mark.filterwarnings("error")
def test_an_infinite_cell_or_stress_is_told_without_noise_from_numpy(tmp_path):
    from ase.io import write

    from equiv.data import survey

    broken = bulk("Cu")
    broken.info.update(energy=-1.0, stress=np.diag([np.inf, 1.0, 1.0]))
    crystal = bulk("Cu")
    crystal.cell[0, 0] = np.nan
    crystal.info["energy"] = -1.0
    write(tmp_path / "a.xyz", [broken, crystal], format="extxyz")
    found = {finding.kind for finding in find_faults(survey(tmp_path / "a.xyz"))}
    assert found == {"non-finite stress", "non-finite cell"}


def test_a_zero_cell_is_fine_where_nothing_is_periodic():
    wire = Atoms("H", [[0, 0, 0]], cell=[0, 0, 3], pbc=[0, 0, 1])
    assert kinds(frame(wire)) == {}


def test_labels_that_are_zero_in_all_of_one_file_are_a_fault():
    zero = [frame(index=k, source="b.xyz", energy=0.0) for k in range(3)]
    found = kinds(*[frame(index=k) for k in range(3)], *zero)
    assert list(found) == ["all-zero energy"]
    assert "all 3 structures of b.xyz" in str(found["all-zero energy"])


def test_free_atoms_and_one_perfect_crystal_may_have_no_forces():
    atom = frame(Atoms("H", [[0, 0, 0]]), forces=np.zeros((1, 3)))
    crystal = frame(bulk("Cu", cubic=True), 1, forces=np.zeros((4, 3)))
    assert kinds(atom, crystal) == {}
    assert list(kinds(crystal, crystal)) == ["all-zero forces"]
