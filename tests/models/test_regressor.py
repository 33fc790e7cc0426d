"""Laws of the regressor, for numbers, vectors and tensors of structures and of atoms."""

import ase.build
import numpy as np
import pytest
import torch

from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate
from equiv.models import Regressor
from equiv.models.file import load_model
from equiv.position_orientation import orientation_grid, rotation_group
from equiv.so3.rotations import random_rotations

CUTOFF = 3.5
MOLECULE = ase.build.molecule("CH3OH")
CRYSTAL = ase.build.bulk("MgO", "rocksalt", a=4.2, cubic=True)


def graph(atoms):
    return collate([AtomGraph.from_atoms(atoms, CUTOFF)])


def regressor(kind, collect="sum", **options):
    torch.manual_seed(1)
    model = Regressor(
        ["H", "C", "O", "Mg"],
        CUTOFF,
        kind=kind,
        collect=collect,
        channels=6,
        num_radial=4,
        mean_neighbors=8.0,
        offsets={"O": 0.7} if kind != "vector" else {},
        **options,
    )
    return model.double().eval()


def turned(values, turn, kind):
    if kind == "scalar":
        return values
    return values @ turn.T if kind == "vector" else turn @ values @ turn.T


@pytest.mark.parametrize("kind", ["scalar", "vector", "tensor"])
@pytest.mark.parametrize("collect", ["sum", "mean", "atoms"])
@pytest.mark.parametrize("block", ["bandlimited", "convnext"])
def test_rotations_and_reflections_are_exact_as_far_as_promised(kind, collect, block):
    """All of them for band-limited layers, those of the grid for the published ones."""
    model = regressor(kind, collect, block=block)
    atoms = MOLECULE.copy()
    expected = model(graph(atoms))
    assert expected.abs().max() > 1e-3
    for turn in (
        rotation_group(orientation_grid("pentakis32"))[0][7]
        if block == "convnext"
        else random_rotations(generator=torch.Generator().manual_seed(1)),
        -torch.eye(3).double(),
    ):
        atoms.positions = MOLECULE.positions @ turn.T.numpy()
        found = model(graph(atoms))
        torch.testing.assert_close(found, turned(expected, turn, kind), rtol=0, atol=1e-10)


@pytest.mark.parametrize("block", ["bandlimited", "convnext"])
@pytest.mark.parametrize("kind", ["scalar", "vector", "tensor"])
def test_turning_the_grid_is_turning_the_structure_back(kind, block):
    model = regressor(kind, block=block)
    turn = random_rotations(generator=torch.Generator().manual_seed(2))
    atoms = MOLECULE.copy()
    atoms.positions = atoms.positions @ turn.numpy()
    back = turned(model(graph(atoms)), turn, kind)
    torch.testing.assert_close(model(graph(MOLECULE), orientation=turn), back, rtol=0, atol=1e-10)


def test_sums_are_extensive_and_means_are_not():
    for collect, factor in (("sum", 8), ("mean", 1)):
        model = regressor("tensor", collect)
        one, eight = model(graph(CRYSTAL)), model(graph(CRYSTAL * 2))
        torch.testing.assert_close(eight, factor * one, rtol=0, atol=1e-9)


def test_batches_are_their_structures_one_by_one():
    model = regressor("vector", "atoms")
    graphs = [AtomGraph.from_atoms(atoms, CUTOFF) for atoms in (MOLECULE, CRYSTAL)]
    together = model(collate(graphs))
    alone = torch.cat([model(collate([g])) for g in graphs])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11)


def test_offsets_are_those_of_the_elements():
    plain, offset = regressor("scalar"), regressor("scalar")
    plain.offsets.zero_()
    difference = offset(graph(CRYSTAL)) - plain(graph(CRYSTAL))
    np.testing.assert_allclose(difference.detach().numpy(), [4 * 0.7], rtol=1e-6)


def test_it_is_saved_with_its_unit(tmp_path):
    model = regressor("vector", unit="e Å")
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.units["property"] == "e Å"
    assert torch.equal(loaded(graph(MOLECULE)), model(graph(MOLECULE)))


def test_what_cannot_be_is_refused():
    with pytest.raises(EquivError, match="collect should be one of sum, mean, atoms, got 'max'"):
        regressor("scalar", "max")
    with pytest.raises(EquivError, match=r"kind: expected one of .* did you mean 'vector'"):
        regressor("vectr")
    with pytest.raises(EquivError, match="degree = 1 is too low for tensors"):
        regressor("tensor", degree=1)
    with pytest.raises(EquivError, match="averages polynomials up to degree 9 exactly"):
        regressor("vector", grid="icosahedron")
