"""`equiv md`."""

import csv

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read, write

from equiv.cli.progress import Progress

RUN = ("md", "model.safetensors")


def table(path):
    with open(path) as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_nve_keeps_the_energy_and_writes_every_frame(folder, equiv):
    code, output, errors = equiv(
        *RUN, "crystal.xyz", "--ensemble", "nve", "-T", "300", "--steps", "40", "--timestep", "1",
        *("--every", "10", "-o", "run.traj", "--log", "run.csv"),
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert "drift" in output
    frames, rows = read("run.traj", ":"), table("run.csv")
    assert [row["time_fs"] for row in rows] == [0, 10, 20, 30, 40]
    assert len(frames) == 5
    total = np.array([row["total_eV"] for row in rows])
    kinetic = np.array([row["kinetic_eV"] for row in rows])
    assert np.ptp(total) < 0.02 * kinetic.max()
    assert np.ptp(kinetic) > 0
    assert frames[-1].get_potential_energy() == pytest.approx(rows[-1]["potential_eV"])
    assert frames[-1].get_temperature() == pytest.approx(rows[-1]["temperature_K"])


def test_the_same_command_gives_the_same_run_and_another_seed_another(folder, equiv):
    ends = []
    for seed in ("1", "1", "2"):
        equiv(*RUN, "crystal.xyz", "-T", "300", "--steps", "5", "--seed", seed, "-o", "run.traj",
              "--overwrite")  # fmt: skip
        ends.append(read("run.traj").positions)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.allclose(ends[0], ends[2])


def test_langevin_heats_a_cold_crystal_towards_its_temperature(folder, equiv):
    cold = read("crystal.xyz")
    cold.set_momenta(np.zeros((8, 3)))
    write("cold.xyz", cold)
    code, output, _ = equiv(*RUN, "cold.xyz", "-T", "500", "--steps", "100", "--friction", "0.1",
                            "--timestep", "2", "-o", "run.traj", "--log", "run.csv")  # fmt: skip
    assert code == 0
    assert "velocities from the file" in output
    rows = table("run.csv")
    assert rows[0]["temperature_K"] == 0
    late = np.mean([row["temperature_K"] for row in rows[len(rows) // 2 :]])
    assert 150 < late < 1000


@pytest.mark.parametrize("cell", ["isotropic", "full"])
def test_npt_moves_the_cell(folder, equiv, cell):
    code, _, errors = equiv(
        *RUN, "crystal.xyz", "--ensemble", "npt", "-T", "300", "--pressure", "50", "--cell", cell,
        *("--steps", "60", "--timestep", "1", "-o", "run.xyz", "--log", "run.csv"),
    )  # fmt: skip
    assert code == 0, errors
    rows = table("run.csv")
    assert rows[-1]["volume_A3"] < rows[0]["volume_A3"]
    frames = read("run.xyz", ":")
    assert frames[-1].get_volume() == pytest.approx(rows[-1]["volume_A3"], rel=1e-6)
    shape = frames[-1].cell.array / frames[-1].get_volume() ** (1 / 3)
    same = np.allclose(shape, frames[0].cell.array / frames[0].get_volume() ** (1 / 3), atol=1e-7)
    assert same == (cell == "isotropic")


def test_a_molecule_starts_without_drift_or_spin_and_with_a_short_timestep(folder, equiv):
    _, output, _ = equiv(*RUN, "water.xyz", "-T", "300", "--ensemble", "nve", "--steps", "1",
                         "-o", "run.traj")  # fmt: skip
    assert "0.5 fs" in output
    start = read("run.traj", 0)
    np.testing.assert_allclose(start.get_momenta().sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(start.get_angular_momentum(), 0, atol=1e-10)
    assert start.get_temperature() > 0


@pytest.mark.parametrize("name", ["run.traj", "run.xyz"])
def test_a_run_goes_on_from_its_end_and_never_replaces_one_unasked(folder, equiv, refused, name):
    words = (*RUN, "water.xyz", "-T", "300", "--steps", "4", "--every", "2", "-o", name,
             "--log", "run.csv")  # fmt: skip
    assert "there is no" in refused(*words, "--continue")
    assert equiv(*words)[0] == 0
    end = read(name)
    assert "--continue" in refused(*words)
    assert "not allowed with" in refused(*words, "--continue", "--overwrite")
    assert equiv(*words, "--continue")[0] == 0
    frames = read(name, ":")
    assert len(frames) == 3 + 2
    np.testing.assert_allclose(frames[2].positions, end.positions, atol=1e-7)
    moved = abs(frames[3].positions - end.positions).max()
    assert 0 < moved < 0.1
    assert [row["time_fs"] for row in table("run.csv")] == [0, 1, 2, 3, 4]
    assert equiv(*words, "--overwrite")[0] == 0
    assert len(read(name, ":")) == 3


def test_an_explosion_is_said_and_the_frames_before_it_are_kept(folder, refused):
    message = refused(*RUN, "water.xyz", "-T", "300", "--ensemble", "nve", "--timestep", "50",
                      "--steps", "500", "--every", "1", "-o", "run.traj")  # fmt: skip
    assert "the run exploded at step" in message
    assert "shorter --timestep than 50 fs" in message
    assert len(read("run.traj", ":")) >= 1


def test_a_run_hotter_than_allowed_stops(folder, refused):
    message = refused(*RUN, "crystal.xyz", "-T", "300", "--max-temperature", "5", "-o", "run.traj")
    assert "exploded at step 0" in message
    assert "temperature reached" in message


def test_an_interrupted_run_keeps_its_frames(folder, equiv, monkeypatch):
    advance = Progress.advance

    def interrupt(self, *args, **kwargs):
        advance(self, *args, **kwargs)
        if self.done == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupt)
    code, _, errors = equiv(*RUN, "water.xyz", "-T", "300", "--steps", "50", "--every", "2", "-o",
                            "run.traj", "--log", "run.csv")  # fmt: skip
    assert (code, errors) == (130, "interrupted\n")
    assert len(read("run.traj", ":")) == 4
    assert len(table("run.csv")) == 4


def test_what_makes_no_sense_is_refused(folder, refused):
    assert "npt needs a periodic" in refused(*RUN, "water.xyz", "-T", "300", "--ensemble", "npt",
                                             "-o", "run.traj")  # fmt: skip
    assert ".traj or .xyz" in refused(*RUN, "water.xyz", "-T", "300", "-o", "run.cif")
    fixed = molecule("H2O")
    fixed.set_constraint(FixAtoms([0, 1, 2]))
    write("fixed.xyz", fixed)
    assert "every atom is fixed" in refused(*RUN, "fixed.xyz", "-T", "300", "-o", "run.traj")
    (folder / "none.extxyz").write_text("0\nProperties=species:S:1:pos:R:3\n")
    assert "no atoms" in refused(*RUN, "none.extxyz", "-T", "300", "-o", "run.traj")
    write("methane.xyz", molecule("CH4"))
    assert "holds C," in refused(*RUN, "methane.xyz", "-T", "300", "-o", "run.traj")
    assert not (folder / "run.cif").exists()
