import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from rich.console import Console

from equiv.data import LabelChoice, UnitChoice, read_frames, survey
from equiv.errors import DataError

STRESS = np.array([[0.01, 0.004, 0.005], [0.004, 0.02, 0.006], [0.005, 0.006, 0.03]])
VOIGT = np.array([0.01, 0.02, 0.03, 0.006, 0.005, 0.004])


def structure(seed=0, *, energy="REF_energy", forces="REF_forces", value=None):
    rng = np.random.default_rng(seed)
    atoms = Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms.positions += rng.normal(scale=0.03, size=(3, 3))
    if energy:
        atoms.info[energy] = -76.0 - rng.random() if value is None else value
    if forces:
        atoms.arrays[forces] = rng.normal(size=(3, 3))
    return atoms


def crystal(seed=0, **info):
    atoms = bulk("Si", cubic=True)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.03, size=(8, 3))
    atoms.info.update({"energy": -40.0 - rng.random(), **info})
    atoms.arrays["forces"] = rng.normal(size=(8, 3))
    return atoms


def free(symbol, energy, key="REF_energy"):
    atoms = Atoms(symbol, [[0, 0, 0]])
    atoms.info[key] = energy
    return atoms


@pytest.mark.parametrize(
    ("energy", "forces"),
    [
        ("energy", "forces"),
        ("REF_energy", "REF_forces"),
        ("dft_energy", "dft_forces"),
        ("DFT_total_energy", "force"),
        ("TotEnergy", "dft_force"),
        ("E", "F"),
        ("toten", "forces_dft"),
        ("energy_pbe", "PBE-forces"),
    ],
)
def test_usual_names_of_labels_are_found(energy, forces, save):
    frames = [structure(k, energy=energy, forces=forces) for k in range(4)]
    dataset = read_frames(save("a.xyz", frames))
    assert dataset.labels.labels["energy"].key == energy
    assert dataset.labels.labels["forces"].key == forces
    for frame, atoms in zip(dataset, frames, strict=True):
        assert frame.energy == pytest.approx(atoms.info[energy])
        np.testing.assert_allclose(frame.forces, atoms.arrays[forces], atol=1e-7)


@pytest.mark.parametrize(
    "key",
    ["kinetic_energy", "energy_per_atom", "formation_energy", "energy_std", "e_above_hull", "zpe"],
)
def test_other_energies_are_not_taken_for_the_potential_energy(key, save):
    path = save("a.xyz", [structure(k, energy=key) for k in range(3)])
    assert [frame.energy for frame in read_frames(path)] == [None] * 3


@pytest.mark.parametrize("key", ["forces", "REF_forces"])
def test_forces_of_the_wrong_shape_are_not_passed_over(key, save):
    frames = [structure(k, forces=None) for k in range(3)]
    for atoms in frames:
        atoms.arrays[key] = np.ones((3, 2))
    with pytest.raises(DataError, match=rf"'{key}' should hold three numbers per atom"):
        read_frames(save("a.xyz", frames))


def test_a_doubt_is_an_error_that_lists_what_could_be_meant(save):
    frames = [structure(k) for k in range(3)]
    for atoms in frames:
        atoms.info["xtb_energy"] = -5.0
    with pytest.raises(DataError, match=r"'REF_energy' in 3 structures.*'xtb_energy'.*energy-key"):
        read_frames(save("a.xyz", frames))


def test_a_doubt_is_settled_by_naming_the_key(save):
    frames = [structure(k) for k in range(3)]
    for atoms in frames:
        atoms.info["xtb_energy"] = -5.0
    dataset = read_frames(save("a.xyz", frames), labels=LabelChoice(energy="xtb_energy"))
    assert [frame.energy for frame in dataset] == [-5.0] * 3


def test_two_names_for_the_same_numbers_are_no_doubt(save):
    frames = [structure(k) for k in range(3)]
    for atoms in frames:
        atoms.info["energy_copy"] = atoms.info["REF_energy"]
    dataset = read_frames(save("a.xyz", frames))
    assert all(frame.energy is not None for frame in dataset)
    assert "holds the same values" in str(dataset.labels.findings[0])


def test_files_with_different_keys_are_a_doubt_that_names_the_files(save):
    paths = [
        save("a.xyz", [structure(0)]),
        save("b.xyz", [structure(1, energy="dft_energy", forces="dft_forces")]),
    ]
    with pytest.raises(DataError, match=r"'REF_energy'.*\(a\.xyz\).*'dft_energy'.*\(b\.xyz\)"):
        read_frames(paths)
    dataset = read_frames(
        paths,
        labels=LabelChoice(energy="REF_energy|dft_energy", forces="REF_forces|dft_forces"),
    )
    assert all(f.energy is not None and f.forces is not None for f in dataset)


@pytest.mark.parametrize("missing", ["energy", "forces"])
def test_a_label_missing_in_one_structure_is_an_error_with_its_number(missing, save):
    frames = [structure(k) for k in range(10)]
    frames[7] = structure(7, **{missing: None})
    with pytest.raises(DataError, match=rf"{missing}.*missing in 1 of 10 structures.*a\.xyz: 7"):
        read_frames(save("a.xyz", frames))


def test_a_label_may_be_missing_where_that_is_allowed(save):
    frames = [structure(k) for k in range(10)]
    frames[7] = structure(7, forces=None)
    dataset = read_frames(save("a.xyz", frames), labels=LabelChoice(allow_missing=["forces"]))
    assert [k for k, frame in enumerate(dataset) if frame.forces is None] == [7]
    assert dataset.labels.labels["forces"].present == 9


def test_free_atoms_need_no_forces_and_molecules_no_stress(save):
    frames = [crystal(k, stress=VOIGT) for k in range(3)]
    for atoms in (structure(9, energy="energy", forces="forces"), free("Si", -1.0, "energy")):
        frames.append(atoms)
    dataset = read_frames(save("a.xyz", frames))
    assert dataset.labels.labels["forces"].wanted == 4
    assert dataset.labels.labels["stress"].wanted == 3
    assert dataset.labels.isolated == 1
    assert [frame.stress is not None for frame in dataset] == [True] * 3 + [False] * 2


def test_a_discovered_stress_that_some_crystals_lack_is_a_warning(save):
    frames = [crystal(0, stress=VOIGT), crystal(1, stress=VOIGT), crystal(2)]
    path = save("a.xyz", frames)
    dataset = read_frames(path)
    assert dataset[2].stress is None
    (finding,) = dataset.labels.findings
    assert (finding.severity, finding.kind) == ("warning", "missing stress")
    assert finding.places == ((str(path), 2),)


def test_a_requested_stress_that_some_crystals_lack_is_an_error(save):
    frames = [crystal(0, stress=VOIGT), crystal(1)]
    with pytest.raises(DataError, match="'stress' is missing in 1 of 2 structures"):
        read_frames(save("a.xyz", frames), labels=LabelChoice(stress="stress"))


def test_a_requested_key_that_is_nowhere_names_the_nearest(save):
    path = save("a.xyz", [structure(0)])
    with pytest.raises(DataError, match=r"no structure has the key 'REF_enrgy'.*'REF_energy'"):
        read_frames(path, labels=LabelChoice(energy="REF_enrgy"))


def test_a_label_that_is_not_wanted_is_not_read(save):
    path = save("a.xyz", [structure(0)])
    (frame,) = read_frames(path, labels=LabelChoice(forces=None))
    assert frame.forces is None
    assert frame.energy is not None


@pytest.mark.parametrize("name", ["energy", "forces"])
def test_labels_that_are_zero_everywhere_are_an_error(name, save):
    frames = [structure(k) for k in range(5)]
    for atoms in frames:
        if name == "energy":
            atoms.info["REF_energy"] = 0.0
        else:
            atoms.arrays["REF_forces"][:] = 0.0
    with pytest.raises(DataError, match=rf"{name} (is|are) exactly zero in all 5 structures"):
        read_frames(save("a.xyz", frames))


def test_a_second_file_with_zero_labels_is_an_error(save):
    good = save("a.xyz", [structure(k) for k in range(5)])
    bad = [structure(k + 5, value=0.0) for k in range(5)]
    with pytest.raises(DataError, match=r"energy is exactly zero in all 5 structures of b\.xyz"):
        read_frames([good, save("b.xyz", bad)])


def test_structures_without_any_label_say_what_they_have_instead(save):
    atoms = structure(0, energy=None, forces=None)
    atoms.info["bandgap"] = 1.5
    with pytest.raises(DataError, match=r"no energy, forces or stress was found.*'bandgap'"):
        read_frames(save("a.xyz", atoms))
    assert read_frames(
        save("b.xyz", atoms), labels=LabelChoice(energy=None, forces=None, stress=None)
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("energy_x", "high", "one number, got 'high'"),
        ("energy_x", [1.0, 2.0], r"one number, got an array of shape \(2,\)"),
    ],
)
def test_a_requested_label_of_the_wrong_kind_is_an_error(key, value, expected, save):
    atoms = structure(0, energy=None)
    atoms.info[key] = value
    with pytest.raises(DataError, match=expected):
        read_frames(save("a.xyz", atoms), labels=LabelChoice(energy=key))


@pytest.mark.parametrize(
    "value",
    [VOIGT, STRESS, STRESS.ravel()],
    ids=["six numbers", "matrix", "nine numbers"],
)
@pytest.mark.parametrize("key", ["stress", "REF_stress", "dft_stress"])
def test_stress_is_read_in_all_its_forms(key, value, save):
    (frame,) = read_frames(save("a.xyz", crystal(0, **{key: value})))
    np.testing.assert_allclose(frame.stress, STRESS, atol=1e-10)


@pytest.mark.parametrize("key", ["virial", "virials", "REF_virial"])
def test_virials_become_stress_with_the_opposite_sign(key, save):
    atoms = crystal(0)
    atoms.info[key] = -STRESS * atoms.cell.volume
    (frame,) = read_frames(save("a.xyz", atoms))
    np.testing.assert_allclose(frame.stress, STRESS, atol=1e-8)


def test_stress_and_virials_that_agree_are_no_doubt(save):
    atoms = crystal(0, stress=VOIGT)
    atoms.info["virial"] = -STRESS * atoms.cell.volume
    dataset = read_frames(save("a.xyz", atoms))
    assert dataset.labels.labels["stress"].key == "stress"


def test_stress_and_virials_that_differ_are_a_doubt(save):
    atoms = crystal(0, stress=VOIGT)
    atoms.info["virial"] = STRESS * atoms.cell.volume
    with pytest.raises(DataError, match="stress: several keys"):
        read_frames(save("a.xyz", atoms))


def test_units_are_converted_once(save):
    atoms = crystal(0, energy=None, forces=None)
    del atoms.arrays["forces"], atoms.info["energy"], atoms.info["forces"]
    atoms.info.update(REF_energy=-2.0, REF_stress=STRESS)
    atoms.arrays["REF_forces"] = np.full((8, 3), 0.1)
    path = save("a.xyz", atoms)
    units = UnitChoice(energy="Ha", length="Bohr")
    (frame,) = read_frames(path, units=units)
    hartree, bohr = 27.211386, 0.52917721
    assert frame.energy == pytest.approx(-2 * hartree)
    np.testing.assert_allclose(frame.forces, 0.1 * hartree / bohr, rtol=1e-6)
    np.testing.assert_allclose(frame.stress, STRESS * hartree / bohr**3, rtol=1e-6)
    np.testing.assert_allclose(frame.atoms.positions, atoms.positions * bohr, atol=1e-7)
    np.testing.assert_allclose(frame.atoms.cell.array, atoms.cell.array * bohr, rtol=1e-6)


def test_stress_has_its_own_unit_and_sign(save):
    path = save("a.xyz", crystal(0, stress=100 * VOIGT))
    units = UnitChoice(stress="kbar", stress_sign="compression_positive")
    (frame,) = read_frames(path, units=units)
    np.testing.assert_allclose(frame.stress, -100 * STRESS * 6.241509e-4, rtol=1e-6)


def test_units_are_refused_for_files_that_ase_converts(tmp_path):
    (tmp_path / "OUTCAR").write_text(" vasp.6.4\n")
    with pytest.raises(DataError, match="ASE converts vasp-out files to eV"):
        read_frames(tmp_path / "OUTCAR", units=UnitChoice(energy="Ha"))


def test_the_free_energy_is_mentioned_but_not_a_doubt(save):
    atoms = crystal(0)
    forces = atoms.arrays.pop("forces")
    del atoms.info["energy"]
    atoms.calc = SinglePointCalculator(atoms, energy=-40.0, free_energy=-40.1, forces=forces)
    path = save("a.xyz", atoms)
    dataset = read_frames(path)
    assert dataset[0].energy == -40.0
    assert "'free_energy' differs from 'energy' by up to 12.50 meV/atom" in str(
        dataset.labels.findings[0]
    )
    assert read_frames(path, labels=LabelChoice(energy="free_energy"))[0].energy == -40.1


def test_labels_in_an_ase_database_are_found(save, tmp_path):
    from ase.db import connect

    with connect(tmp_path / "a.db") as database:
        for k in range(3):
            atoms = structure(k, energy=None, forces=None)
            data = {"dft_forces": np.full((3, 3), k + 1.0)}
            database.write(atoms, key_value_pairs={"dft_energy": -10.0 - k}, data=data)
    dataset = read_frames(tmp_path / "a.db")
    assert [frame.forces[0, 0] for frame in dataset] == [1.0, 2.0, 3.0]
    assert [frame.energy for frame in dataset] == [-10.0, -11.0, -12.0]


def test_groups_come_from_config_type_or_another_key(save):
    frames = [structure(k) for k in range(4)]
    for k, atoms in enumerate(frames):
        atoms.info.update(config_type=f"T{k % 2}", run=k // 2)
    path = save("a.xyz", frames)
    assert read_frames(path).groups == ["T0", "T1"]
    assert [frame.group for frame in read_frames(path, group_key="run")] == ["0", "0", "1", "1"]
    with pytest.raises(DataError, match="no structure has the key 'trajectory'"):
        read_frames(path, group_key="trajectory")


def test_weights_are_read_and_reported(save):
    frames = [structure(k) for k in range(2)]
    frames[1].info["config_weight"] = 3.0
    dataset = read_frames(save("a.xyz", frames))
    assert [frame.weight for frame in dataset] == [1.0, 3.0]
    assert "config_weight" in str(dataset.labels.findings[0])
    frames[1].info["config_weight"] = -1.0
    with pytest.raises(DataError, match="structure 1: config_weight should be"):
        read_frames(save("b.xyz", frames))


def test_all_faults_are_told_at_once(save):
    frames = [structure(k) for k in range(4)]
    frames[1].arrays["REF_forces"][0, 0] = np.nan
    frames[2].info["REF_energy"] = np.inf
    frames[3].positions[1, 2] = np.nan
    with pytest.raises(DataError) as caught:
        read_frames(save("a.xyz", frames))
    message = str(caught.value)
    assert "forces that are not finite numbers [a.xyz: 1]" in message
    assert "energy that is not a finite number [a.xyz: 2]" in message
    assert "positions that are not finite numbers [a.xyz: 3]" in message


def test_survey_tells_instead_of_raising(save):
    frames = [structure(k) for k in range(4)]
    frames[2] = structure(2, energy=None)
    dataset = survey(save("a.xyz", frames))
    assert [f.severity for f in dataset.labels.findings] == ["error"]
    assert dataset[0].energy is not None
    assert dataset[2].energy is None


def test_the_report_is_one_line_a_table_and_json(save):
    dataset = read_frames(save("a.xyz", [structure(k) for k in range(4)] + [free("H", -13.6)]))
    assert str(dataset.labels) == (
        "5 structures (1 free atoms), 13 atoms, elements H O | energy: 'REF_energy' (5/5)  "
        "forces: 'REF_forces' (4/4)  stress: none"
    )
    console = Console(width=120, record=True, file=None, quiet=False, stderr=True)
    with console.capture() as captured:
        console.print(dataset.labels)
    assert "REF_forces" in captured.get()
    assert json.loads(json.dumps(dataset.labels.to_dict()))["labels"]["energy"]["present"] == 5


def test_constraints_survive_and_calculators_do_not(save):
    atoms = structure(0)
    atoms.set_constraint(FixAtoms([1]))
    (frame,) = read_frames(save("a.traj", [atoms]))
    assert frame.atoms.calc is None
    assert frame.atoms.constraints[0].get_indices().tolist() == [1]
