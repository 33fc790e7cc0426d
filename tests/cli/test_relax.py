"""`equiv relax`."""

import numpy as np
from ase.constraints import FixAtoms
from ase.io import read, write

from equiv.integrations.ase import EquivCalculator


def test_forces_vanish(folder, equiv, model):
    code, output, errors = equiv(
        "relax", "model.safetensors", "water.xyz", "--fmax", "0.02", "-o", "out.xyz"
    )
    assert (code, errors) == (0, "")
    assert "converged after" in output
    relaxed, start = read("out.xyz"), read("water.xyz")
    relaxed.calc = EquivCalculator(model)
    start.calc = EquivCalculator(model)
    assert abs(start.get_forces()).max() > 0.05
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.02


def test_cell_and_forces_relax_together_in_the_format_of_the_name(folder, equiv, model):
    before = read("crystal.xyz")
    code, output, _ = equiv(
        *("relax", "model.safetensors", "crystal.xyz", "--cell", "--fmax", "0.01"),
        *("-o", "CONTCAR", "--trajectory", "path.traj", "--steps", "200"),
    )
    assert code == 0, output
    after = read("CONTCAR")
    assert not np.allclose(after.cell, before.cell)
    after.calc = before.calc = EquivCalculator(model)
    assert abs(after.get_stress()).max() < 0.01 / after.get_volume() + 1e-4
    assert len(read("path.traj", ":")) >= 2


def test_pressure_compresses(folder, equiv):
    volumes = []
    for pressure in ("0", "10"):
        code, output, _ = equiv(
            *("relax", "model.safetensors", "crystal.xyz", "--cell", "--fmax", "0.02"),
            *("--pressure", pressure, "-o", "out.xyz", "--steps", "300"),
        )
        assert code == 0, output
        volumes.append(read("out.xyz").get_volume())
    assert volumes[1] < volumes[0]


def test_giving_up_is_said_and_the_structure_still_written(folder, equiv):
    code, output, _ = equiv(
        *("relax", "model.safetensors", "water.xyz", "--fmax", "1e-6", "--steps", "1"),
        *("-o", "out.xyz"),
    )
    assert code == 1
    assert "NOT converged after 1 steps" in output
    assert len(read("out.xyz")) == 3


def test_fixed_atoms_stay(folder, equiv):
    water = read("water.xyz")
    water.set_constraint(FixAtoms([0]))
    write("fixed.xyz", water)
    equiv("relax", "model.safetensors", "fixed.xyz", "--fmax", "0.02", "-o", "out.xyz")
    after = read("out.xyz")
    np.testing.assert_allclose(after.positions[0], water.positions[0], atol=1e-7)
    assert not np.allclose(after.positions[1], water.positions[1], atol=1e-4)


def test_one_of_several_structures_is_chosen(folder, equiv, refused):
    write("many.xyz", [read("crystal.xyz"), read("water.xyz")])
    words = ("relax", "model.safetensors", "many.xyz", "--steps", "1", "--fmax", "9", "-o", "o.xyz")
    _, output, _ = equiv(*words)
    assert "holds 2 structures; this is the last" in output
    assert len(read("o.xyz")) == 3
    equiv(*words, "--index", "0")
    assert len(read("o.xyz")) == 8
    assert "no structure number 5" in refused(*words, "--index", "5")


def test_what_makes_no_sense_is_refused(folder, refused):
    relax = ("relax", "model.safetensors")
    assert "is an input" in refused(*relax, "water.xyz", "-o", "water.xyz")
    assert "--cell needs a periodic" in refused(*relax, "water.xyz", "--cell", "-o", "o.xyz")
    assert "add --cell" in refused(*relax, "crystal.xyz", "--pressure", "1", "-o", "o.xyz")
    assert "ASE writes no structure file" in refused(*relax, "water.xyz", "-o", "o.nonsense")
    assert not (folder / "o.xyz").exists()
