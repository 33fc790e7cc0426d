"""The data sets of the repository are what their cards say, and can be trusted as labels."""

import hashlib
import re
from itertools import combinations
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units

from equiv.data import check_frames, check_leakage, read_frames

DATA = Path(__file__).parents[2] / "data"
SETS = sorted(card.parent.name for card in DATA.glob("*/README.md"))
ROW = re.compile(
    r"^\| `(?P<file>[\w.]+\.xyz)` \| (?P<frames>\d+) \|.*`(?P<sha256>[0-9a-f]{64})` \|$", re.M
)


def card(name: str) -> str:
    return (DATA / name / "README.md").read_text(encoding="utf-8")


def files(name: str) -> list[Path]:
    return sorted((DATA / name).glob("*.xyz"))


def read(name: str, file: str) -> list[Atoms]:
    return ase.io.read(DATA / name / file, ":")


def molecules(frames: list[Atoms]) -> list[Atoms]:
    return [frame for frame in frames if len(frame) > 1]


def shape(frame: Atoms) -> np.ndarray:
    """All interatomic distances in order, which no rotation or translation changes."""
    return np.sort(
        frame.get_all_distances(mic=bool(frame.pbc.any()))[np.triu_indices(len(frame), 1)]
    )


def test_there_is_a_molecular_and_a_periodic_set_with_stress():
    assert SETS == ["ethanol", "ionic_clusters", "silicon"]
    assert not any(frame.pbc.any() for file in files("ethanol") for frame in ase.io.read(file, ":"))
    assert all("stress" in frame.calc.results for frame in molecules(read("silicon", "train.xyz")))


def test_all_sets_together_stay_below_ten_megabytes():
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) < 10e6


@pytest.mark.parametrize("name", SETS)
def test_the_card_lists_every_file_with_its_count_and_checksum(name):
    listed = {row["file"]: row for row in ROW.finditer(card(name))}
    assert set(listed) == {file.name for file in files(name)}
    for file in files(name):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == listed[file.name]["sha256"], (
            file.name
        )
        assert len(ase.io.read(file, ":")) == int(listed[file.name]["frames"]), file.name


@pytest.mark.parametrize("name", SETS)
def test_the_card_says_where_the_numbers_come_from(name):
    text = card(name)
    for heading in ("Source", "Level of theory", "Units", "Licence", "Caveats"):
        assert re.search(rf"^\*\*{heading}\.\*\*|^## {heading}", text, re.M), heading
    assert "generate.py" in text


@pytest.mark.parametrize("name", SETS)
def test_every_frame_has_finite_labels_that_look_like_electronvolts(name):
    for file in files(name):
        for frame in ase.io.read(file, ":"):
            results = frame.calc.results
            assert np.isfinite(results["energy"])
            assert results["forces"].shape == (len(frame), 3)
            assert np.isfinite(results["forces"]).all()
            assert np.abs(results["forces"]).max() < 20
            assert frame.info["config_type"]


@pytest.mark.parametrize("name", SETS)
def test_forces_of_a_frame_add_up_to_nothing(name):
    """They would not if a grid or a basis were too coarse."""
    for file in files(name):
        for frame in molecules(ase.io.read(file, ":")):
            assert np.abs(frame.get_forces(apply_constraint=False).sum(axis=0)).max() < 0.01


@pytest.mark.parametrize("name", SETS)
def test_each_element_has_one_isolated_atom_below_the_bound_state(name):
    frames = read(name, "train.xyz")
    free = {
        frame.get_chemical_symbols()[0]: frame.get_potential_energy()
        for frame in frames
        if len(frame) == 1
    }
    elements = {symbol for frame in frames for symbol in frame.get_chemical_symbols()}
    assert set(free) == elements
    assert sum(len(frame) == 1 for frame in frames) == len(elements)
    for frame in molecules(frames):
        binding = frame.get_potential_energy() - sum(
            free[symbol] for symbol in frame.get_chemical_symbols()
        )
        assert -8 < binding / len(frame) < -2


@pytest.mark.parametrize("name", SETS)
def test_no_structure_occurs_twice(name):
    frames = [frame for file in files(name) for frame in molecules(ase.io.read(file, ":"))]
    by_formula: dict[str, list[np.ndarray]] = {}
    for frame in frames:
        by_formula.setdefault(frame.get_chemical_formula(), []).append(shape(frame))
    for formula, found in by_formula.items():
        shapes = np.array(found)
        for index in range(len(shapes)):
            differences = np.sqrt(((shapes[index + 1 :] - shapes[index]) ** 2).mean(axis=1))
            assert (differences > 1e-3).all(), (formula, index)


def test_no_ethanol_trajectory_is_in_two_files():
    trajectories = {
        file.name: {frame.info.get("trajectory") for frame in molecules(ase.io.read(file, ":"))}
        for file in files("ethanol")
    }
    for one, other in combinations(trajectories, 2):
        assert not trajectories[one] & trajectories[other], (one, other)


def test_the_stress_of_silicon_is_the_derivative_of_its_energy():
    """Along the volume series tr(stress) / 3 = dE/dV, and a polynomial knows dE/dV."""
    series = [
        frame
        for file in files("silicon")
        for frame in ase.io.read(file, ":")
        if frame.info["config_type"] == "volume"
    ]
    volumes = np.array([frame.get_volume() for frame in series])
    energies = [frame.get_potential_energy() for frame in series]
    stresses = np.array([frame.get_stress()[:3].mean() for frame in series])
    fit = np.polynomial.Polynomial.fit(volumes, energies, 6)
    inside = (volumes > volumes.min()) & (volumes < volumes.max())
    errors = (fit.deriv()(volumes) - stresses)[inside] / units.GPa
    assert len(series) == 19
    assert np.abs(stresses).max() / units.GPa > 5
    assert np.abs(errors).max() < 0.15


@pytest.mark.parametrize("name", SETS)
def test_the_package_finds_nothing_wrong_with_them(name):
    sets = {file.name: read_frames(file) for file in files(name)}
    for dataset in sets.values():
        assert not [
            finding for finding in check_frames(dataset).findings if finding.severity == "error"
        ]
    train = sets.pop("train.xyz")
    assert not check_leakage(train, sets).findings


def test_far_clusters_are_two_pieces_with_the_gap_they_claim():
    """And every atom has one of its own piece nearby."""
    for frame in read("ionic_clusters", "test_apart.xyz"):
        first = frame.info["first_fragment"]
        distances = frame.get_all_distances()
        assert distances[:first, first:].min() == pytest.approx(frame.info["gap"], abs=0.06)
        assert abs(frame.info["charge"]) <= 2
        for part in (slice(None, first), slice(first, None)):
            inside = frame.get_all_distances()[part, part] + 10 * np.eye(len(frame[part]))
            assert inside.min(axis=1).max() < 4


def test_no_cluster_trajectory_is_in_two_files():
    train, test = (
        {frame.info["trajectory"] for frame in molecules(read("ionic_clusters", file))}
        for file in ("train.xyz", "test_compact.xyz")
    )
    assert not train & test
