import gzip
import os

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiv.data import LabelChoice, read_frames
from equiv.data.files import find_files, read_file
from equiv.errors import DataError


def calculated(seed=0, size=3):
    rng = np.random.default_rng(seed)
    atoms = Atoms("H" * size, rng.uniform(0, 5, (size, 3)))
    forces = rng.normal(size=(size, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=float(-seed - 1), forces=forces)
    return atoms


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.json", "a.db", "a.xyz.gz"])
def test_formats_of_ase_give_the_same_frames(name, save):
    frames = [calculated(seed) for seed in range(3)]
    dataset = read_frames(save(name, frames))
    assert [frame.energy for frame in dataset] == pytest.approx([-1.0, -2.0, -3.0])
    for frame, atoms in zip(dataset, frames, strict=True):
        np.testing.assert_allclose(frame.forces, atoms.calc.results["forces"], atol=1e-7)
        np.testing.assert_allclose(frame.atoms.positions, atoms.positions, atol=1e-7)
    assert [frame.index for frame in dataset] == [0, 1, 2]
    assert dataset[0].source.endswith(name)
    assert dataset[0].atoms.calc is None


def test_a_vasprun_is_read_like_any_other_file(tmp_path):
    (tmp_path / "vasprun.xml").write_text(VASPRUN)
    dataset = read_frames(tmp_path / "vasprun.xml")
    (frame,) = dataset
    assert dataset.labels.findings == []
    assert frame.energy == pytest.approx(-10.5)
    np.testing.assert_allclose(frame.forces, [[0.1, 0, 0], [-0.1, 0, 0]])
    # VASP counts pressure positive and in kbar; ASE turns it round.
    np.testing.assert_allclose(
        np.diag(frame.stress), -np.array([10, 20, 30]) * 6.241509e-4, rtol=1e-6
    )


def test_a_vasprun_of_a_run_that_was_stopped_is_reported(tmp_path):
    step = VASPRUN.index(" <calculation>")
    unfinished = VASPRUN.replace("</modeling>", VASPRUN[step : step + 200])
    (tmp_path / "vasprun.xml").write_text(unfinished)
    dataset = read_frames(tmp_path / "vasprun.xml")
    assert len(dataset) == 1
    assert "the file is not complete" in str(dataset.labels.findings[0])


@pytest.mark.parametrize("name", ["a.xyz", "a.traj"])
def test_forces_on_constrained_atoms_are_read_as_they_were_computed(name, save):
    atoms = calculated()
    raw = atoms.calc.results["forces"].copy()
    atoms.set_constraint(FixAtoms([0, 1]))
    assert not atoms.get_forces()[0].any()
    (frame,) = read_frames(save(name, atoms))
    np.testing.assert_allclose(frame.forces, raw, atol=1e-7)


def test_an_npz_of_a_molecule_is_read(tmp_path):
    rng = np.random.default_rng(0)
    positions, forces = rng.normal(size=(2, 5, 3, 3))
    energies = rng.normal(size=5)
    path = tmp_path / "a.npz"
    np.savez(path, nuclear_charges=[8, 1, 1], coords=positions, energies=energies, forces=forces)
    dataset = read_frames(path)
    assert len(dataset) == 5
    assert dataset.elements == [1, 8]
    assert [frame.energy for frame in dataset] == energies.tolist()
    np.testing.assert_array_equal(dataset[3].forces, forces[3])


def test_an_npz_without_positions_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", charges=[1, 2], x=[3])
    with pytest.raises(DataError, match=r"needs atomic numbers.*positions.*it holds charges, x"):
        read_frames(tmp_path / "a.npz")


def test_an_npz_of_molecules_of_different_size_is_read(tmp_path):
    rng = np.random.default_rng(0)
    sizes, z = np.array([2, 3, 1]), np.array([1, 1, 8, 1, 1, 6])
    positions, forces = rng.normal(size=(2, 6, 3))
    names = np.array(["hydrogen", "water", "carbon"])
    path = tmp_path / "a.npz"
    np.savez(path, n_atoms=sizes, Z=z, R=positions, F=forces, U0_energy=[-1, -2.5, -3], name=names)
    dataset = read_frames(path, labels=LabelChoice(allow_missing=["forces"]))
    assert [frame.atoms.get_chemical_formula() for frame in dataset] == ["H2", "H2O", "C"]
    assert [frame.energy for frame in dataset] == [-1.0, -2.5, -3.0]
    np.testing.assert_array_equal(dataset[1].forces, forces[2:5])
    assert dataset[1].atoms.info["name"] == "water"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"F": np.zeros((5, 2, 3))}, r"F should have one row for each atom of 5 structures"),
        ({"E": np.zeros(4)}, "E should hold one number for each of 5 structures, got 4"),
        ({"z": np.ones(4, int)}, "z should have one row for each atom"),
        ({"R": np.zeros((5, 3, 2))}, "R should have one row for each atom"),
    ],
)
def test_an_npz_whose_shapes_do_not_fit_is_an_error(changes, message, tmp_path):
    arrays = {"z": np.array([8, 1, 1]), "R": np.zeros((5, 3, 3)), "E": np.ones(5), **changes}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_frames(tmp_path / "a.npz")


def test_an_npz_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", z=[1], R=np.array([{"evil": 1}], dtype=object))
    with pytest.raises(DataError, match=r"a\.npz: structure 0 cannot be read as npz"):
        read_frames(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"z": ["H", "H"]}, "z should hold real numbers"),
        ({"z": [1, 300]}, "z should hold atomic numbers from 1 to 118, got 300"),
        ({"z": [1, 1.5]}, "z should hold atomic numbers from 1 to 118, got 1.5"),
        ({"E": ["a", "b"]}, "E should hold real numbers"),
        ({"E": np.ones(2) * 1j}, "E should hold real numbers"),
        ({"cell": np.ones((5, 3))}, r"cell should have shape \(3, 3\) or \(2, 3, 3\)"),
        ({"pbc": np.ones((2, 2))}, r"pbc should have shape \(3,\) or \(2, 3\)"),
    ],
)
def test_an_npz_with_impossible_arrays_is_an_error_that_names_the_array(changed, message, tmp_path):
    good = {"z": [1, 1], "R": np.arange(12.0).reshape(2, 2, 3), "E": [1.0, 2.0]}
    np.savez(tmp_path / "a.npz", **{**good, **changed})
    with pytest.raises(DataError, match=message):
        read_frames(tmp_path / "a.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.xyz")
    with pytest.raises(DataError, match="this is a pipe"):
        find_files(tmp_path / "a.xyz")


def test_patterns_lists_and_folders_name_the_same_files(save, tmp_path):
    paths = [save(f"{name}.xyz", calculated(k)) for k, name in enumerate("cab")]
    ordered = [tmp_path / f"{name}.xyz" for name in "abc"]
    assert find_files(str(tmp_path / "*.xyz")) == ordered
    assert find_files(tmp_path) == ordered
    assert find_files([str(paths[0]), paths[1]]) == paths[:2]
    assert find_files([paths[0], str(tmp_path / "*.xyz")]) == [paths[0], *ordered[:2]]


def test_a_name_with_brackets_is_a_name_before_it_is_a_pattern(save):
    path = save("a[1].xyz", calculated())
    assert find_files(path) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.xyz", r"missing\.xyz: no such file"),
        ("*.cfg", r"\*\.cfg: no file matches this pattern"),
        ([], "no data file was named"),
    ],
)
def test_files_that_are_not_there_are_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        read_frames(name)


def test_a_folder_without_data_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="this folder holds no data file"):
        read_frames(tmp_path)


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.json", "vasprun.xml", "OUTCAR", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00\xff\xfe garbage \x80", b"hello\nworld\n"])
def test_files_without_structures_are_errors_that_name_the_file(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_frames(tmp_path / name)


def test_an_unknown_format_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "a.weird").write_text("1 2 3\n")
    with pytest.raises(DataError, match=r"a\.weird: unknown file format"):
        read_frames(tmp_path / "a.weird")


def test_a_truncated_file_names_the_structure_and_the_line(save):
    path = save("a.xyz", [calculated(k) for k in range(3)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:12]))
    with pytest.raises(DataError, match=r"structure 2 \(line 11\) is cut off.*3 atoms.*after 0"):
        read_frames(path)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (6, "three\n", r"structure 1 \(line 6\).*number of atoms, got 'three'"),
        (6, "-3\n", r"structure 1 \(line 6\).*number of atoms, got '-3'"),
        (8, "H 0.0 0.0\n", r"structure 1 \(line 6\): a line of its 3 atoms has fewer columns"),
        (8, "H 0.0 zero 0.0 0 0 0\n", r"structure 1 \(line 6\) cannot be read.*zero"),
        (8, "Q 0.0 0.0 0.0 0 0 0\n", r"structure 1 \(line 6\): 'Q' is not a chemical element"),
        (7, "Lattice=\"1 2\" Properties=species:S:1:pos:R:3\n", r"structure 1 \(line 6\)"),
    ],
)  # fmt: skip
def test_a_damaged_structure_is_named_with_its_line(line, text, message, save):
    path = save("a.xyz", [calculated(k) for k in range(3)])
    lines = path.read_text().splitlines(keepends=True)
    lines[line - 1] = text
    path.write_text("".join(lines))
    with pytest.raises(DataError, match=message):
        read_frames(path)


def test_structures_after_a_blank_line_are_not_lost(save):
    path = save("a.xyz", [calculated(k) for k in range(3)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:5], "\n", *lines[5:], "\n\n"]))
    assert [frame.energy for frame in read_frames(path)] == [-1.0, -2.0, -3.0]


def test_a_damaged_compressed_file_is_an_error(save):
    path = save("a.xyz", [calculated(k) for k in range(30)])
    packed = gzip.compress(path.read_bytes())
    broken = path.with_name("b.xyz.gz")
    broken.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"b\.xyz\.gz: .*cannot be read.*ended before"):
        read_frames(broken)


def test_columns_without_a_name_are_reported(tmp_path):
    (tmp_path / "a.xyz").write_text("2\nenergy=-1.0\nH 0 0 0 1 2 3\nH 0 0 1 -1 -2 -3\n")
    dataset = read_frames(tmp_path / "a.xyz")
    assert "3 columns after the coordinates have no name" in str(dataset.labels.findings[0])


def test_frames_are_read_one_by_one(save):
    path = save("a.xyz", [calculated(k) for k in range(3)])
    path.write_text(path.read_text() + "broken\n")
    frames = read_file(path)
    assert [next(frames).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="structure 3"):
        next(frames)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "a.xyz"
    crystal = bulk("NaCl", "rocksalt", 5.6)
    crystal.calc = SinglePointCalculator(
        crystal, energy=-7.0, forces=np.ones((2, 3)), stress=np.ones(6)
    )
    write(path, [calculated(0), crystal, calculated(2, size=4)])
    return path.read_text()


@given(place=st.floats(0, 1))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_cut_anywhere_is_an_error_or_a_warning_or_whole(place, text, tmp_path):
    cut = int(place * len(text))
    path = tmp_path / "cut.xyz"
    path.write_text(text[:cut])
    try:
        dataset = read_frames(path)
    except DataError:
        return
    assert [frame.energy for frame in dataset] == [-1.0, -7.0, -3.0][: len(dataset)]
    warned = "may have been cut off" in str(dataset.labels.findings)
    assert warned == (not text[:cut].endswith("\n"))


@given(garbage=st.binary(max_size=400))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_garbage_is_always_a_data_error(garbage, tmp_path):
    for name in ("g.xyz", "g.npz", "g.json", "g.traj"):
        path = tmp_path / name
        path.write_bytes(garbage)
        with pytest.raises(DataError, match=name):
            read_frames(path)


@given(place=st.floats(0, 1), byte=st.integers(0, 255))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_byte_is_read_or_refused_but_never_crashes(place, byte, text, tmp_path):
    content = bytearray(text.encode())
    content[int(place * (len(content) - 1))] = byte
    path = tmp_path / "flip.xyz"
    path.write_bytes(content)
    try:
        dataset = read_frames(path)
    except DataError:
        return
    assert all(np.isfinite(frame.atoms.positions).all() for frame in dataset)


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="program" type="string">vasp </i></generator>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray>
  <varray name="weights"><v>1</v></varray></kpoints>
 <parameters></parameters>
 <atominfo><atoms>2</atoms><types>1</types>
  <array name="atoms"><dimension dim="1">ion</dimension>
   <field type="string">element</field><field type="int">atomtype</field>
   <set><rc><c>Si</c><c>1</c></rc><rc><c>Si</c><c>1</c></rc></set></array>
 </atominfo>
 <structure name="initialpos"><crystal><varray name="basis">
  <v>0 2.7 2.7</v><v>2.7 0 2.7</v><v>2.7 2.7 0</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v><v>0.25 0.25 0.25</v></varray></structure>
 <calculation>
  <scstep><energy><i name="e_fr_energy">-10.5</i><i name="e_wo_entrp">-10.5</i>
   <i name="e_0_energy">-10.5</i></energy></scstep>
  <structure><crystal><varray name="basis">
   <v>0 2.7 2.7</v><v>2.7 0 2.7</v><v>2.7 2.7 0</v></varray></crystal>
   <varray name="positions"><v>0 0 0</v><v>0.25 0.25 0.25</v></varray></structure>
  <varray name="forces"><v>0.1 0 0</v><v>-0.1 0 0</v></varray>
  <varray name="stress"><v>10 0 0</v><v>0 20 0</v><v>0 0 30</v></varray>
  <energy><i name="e_fr_energy">-10.5</i><i name="e_wo_entrp">-10.5</i>
   <i name="e_0_energy">-10.5</i></energy>
 </calculation>
</modeling>
"""


def test_a_part_of_a_file_is_named_as_ase_does_it(tmp_path):
    write(tmp_path / "all.xyz", [Atoms("H", positions=[[k, 0, 0]]) for k in range(6)])
    first, others = (
        [raw.atoms.positions[0, 0] for path in find_files(name) for raw in read_file(path)]
        for name in (f"{tmp_path}/all.xyz@:2", f"{tmp_path}/all.xyz@2::2")
    )
    assert first == [0, 1]
    assert others == [2, 4]
    with pytest.raises(DataError, match="holds no structure"):
        list(read_file(tmp_path / "all.xyz@9:"))
    with pytest.raises(DataError, match="no such file"):
        find_files(tmp_path / "none.xyz@:2")
