import numpy as np
import pytest
from ase import Atoms

from equiv.data import Dataset, Frame, check_frames, read_frames, survey


def frame(index, *, distance=0.75, force=1.0):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, distance]])
    forces = np.array([[0, 0, force], [0, 0, -force]])
    return Frame(atoms, -31.0, forces, None, "a.xyz", index)


def test_good_data_pass():
    report = check_frames(Dataset([frame(k, distance=0.7 + 0.01 * k) for k in range(5)]))
    assert report.ok
    assert report.findings == []


def test_findings_of_all_kinds_are_collected_errors_first():
    frames = [frame(0), frame(1), frame(2, distance=0.2), frame(3, distance=0.8, force=99.0)]
    report = check_frames(Dataset(frames))
    assert [f.kind for f in report.findings] == ["force outliers", "close contacts", "duplicates"]
    frames[3].energy = np.nan
    report = check_frames(Dataset(frames))
    assert [(f.kind, f.places) for f in report.errors] == [("non-finite energy", (("a.xyz", 3),))]


def test_what_was_found_while_reading_is_part_of_the_check(save):
    frames = [f.atoms for f in (frame(0), frame(1, distance=0.8))]
    for atoms in frames:
        atoms.info["energy"] = -31.0
    frames[1].info["other_energy"] = -30.0
    report = check_frames(survey(save("a.xyz", frames)))
    assert [f.kind for f in report.errors] == ["ambiguous energy"]


@pytest.mark.parametrize(
    "name",
    [
        "acac/train_300K.xyz",
        "acac/train_600K.xyz",
        "mlearn/Si_train.xyz",
        "mlearn/Cu_train.xyz",
        "water/water_train.xyz",
        "ecemc_liquid/ecemc_train.xyz",
        "si_nequip",
        "tial/TiAl_train.xyz",
        "ionic_crystals/NaCl_train.xyz",
    ],
)
def test_published_data_raise_no_false_alarm(name, shared_data):
    report = check_frames(read_frames(shared_data / name))
    assert report.ok
    alarms = {finding.kind for finding in report.of("warning")}
    assert alarms <= {"missing stress", "force outliers", "contradicting duplicates"}


def test_published_data_in_other_units_are_noticed(shared_data):
    report = check_frames(read_frames(shared_data / "rmd17/rmd17_ethanol_train_01.npz"))
    kinds = {finding.kind for finding in report.of("warning")}
    assert {"unit of energy", "unit of forces"} <= kinds
