import numpy as np
from ase import Atoms
from ase.build import bulk

from equiv.data import Dataset, Frame, check_leakage
from equiv.data.duplicates import find_duplicates


def frame(index, *, distance=1.0, energy=-1.0, force=0.0, source="a.xyz"):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, distance]])
    forces = np.array([[0, 0, force], [0, 0, -force]])
    return Frame(atoms, energy, forces, None, source, index)


def test_different_structures_are_no_duplicates():
    assert find_duplicates(Dataset([frame(k, distance=1 + 0.01 * k) for k in range(5)])) == []


def test_a_repeated_structure_is_noted_with_its_number():
    frames = [frame(0), frame(1, distance=1.1), frame(2), frame(3, distance=1.0 + 1e-9)]
    (finding,) = find_duplicates(Dataset(frames))
    assert finding.severity == "note"
    assert finding.places == (("a.xyz", 2), ("a.xyz", 3))


def test_duplicates_with_other_labels_are_a_warning():
    for other in (frame(1, energy=-1.1), frame(1, force=0.5)):
        contradiction, _ = find_duplicates(Dataset([frame(0), other]))
        assert contradiction.severity == "warning"
        assert contradiction.places == (("a.xyz", 0), ("a.xyz", 1))


def test_the_unused_cell_of_a_molecule_does_not_make_it_another():
    boxed = frame(1)
    boxed.atoms.set_cell([9, 9, 9])
    assert len(find_duplicates(Dataset([frame(0), boxed]))) == 1
    periodic = frame(2)
    periodic.atoms.set_cell([9, 9, 9])
    periodic.atoms.pbc = True
    assert find_duplicates(Dataset([frame(0), periodic])) == []


def test_leakage_names_the_set_and_the_structures():
    train = Dataset([frame(k, distance=1 + 0.1 * k) for k in range(4)])
    test = Dataset([frame(0, distance=1.2, source="t.xyz"), frame(1, distance=5, source="t.xyz")])
    report = check_leakage(train, {"test": test, "other": Dataset([frame(0, distance=7)])})
    (finding,) = report.findings
    assert finding.severity == "warning"
    assert finding.places == (("t.xyz", 0),)
    assert "1 of 2 structures of test" in finding.message


def test_free_atoms_in_both_sets_are_no_leakage():
    atom = Frame(Atoms("H", [[0, 0, 0]]), -13.6, None, None, "e.xyz", 0)
    crystal = Frame(bulk("Cu"), -3.0, None, None, "c.xyz", 0)
    assert check_leakage(Dataset([atom]), {"test": Dataset([atom])}).ok
    assert not check_leakage(Dataset([atom]), {"test": Dataset([atom])}).findings
    assert check_leakage(Dataset([crystal]), {"test": Dataset([crystal])}).findings
