"""What holds for every potential, where a grid of orientations could break it."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equiv.graph import AtomGraph, collate
from equiv.models import build_model
from equiv.position_orientation import orientation_grid

CUTOFF = 4.0
GRID = orientation_grid("pentakis32").state_dict()["points"]


@pytest.fixture(scope="module", params=["bandlimited", "convnext"])
def model(request):
    return build_model(
        "ponita",
        dtype=torch.float64,
        block=request.param,
        elements=["H", "C", "O"],
        cutoff=CUTOFF,
        channels=16,
        layers=2,
        radial_hidden=[8],
        mean_neighbors=10.0,
        reference_energies={"H": 0.0, "C": 0.0, "O": 0.0},
    ).eval()


def predicted(model, atoms, **options):
    return model(collate([AtomGraph.from_atoms(atoms, CUTOFF)]), **options)


def test_a_crystal_of_one_atom_sees_all_its_images(model):
    """The cell is shorter than the cutoff; two and three cells are the same crystal."""
    cell = bulk("C", "sc", a=2.1)
    cell.set_cell(cell.cell.array + np.array([[0, 0.1, 0], [0, 0, 0.2], [0.3, 0, 0]]))
    one = predicted(model, cell, stress=True)
    assert one.energy.abs() > 1e-3
    for repeat in ((2, 1, 1), (1, 3, 2)):
        many = predicted(model, cell.repeat(repeat), stress=True)
        n = int(np.prod(repeat))
        torch.testing.assert_close(many.energy, n * one.energy, rtol=1e-10, atol=0)
        torch.testing.assert_close(many.stress, one.stress, rtol=0, atol=1e-12)
        assert many.forces.abs().max() < 1e-12


def test_wrapping_atoms_into_the_cell_changes_nothing(model):
    crystal = Atoms(
        "COH", [[0.1, 0.2, 0.3], [2.9, 4.5, -1.0], [-3.0, 1.0, 7.7]], cell=[3, 3.5, 4], pbc=True
    )
    before = predicted(model, crystal)
    crystal.wrap()
    after = predicted(model, crystal)
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-11)
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=1e-11)


@pytest.mark.parametrize("point", [0, 20])
def test_forces_do_not_jump_when_a_neighbor_crosses_a_direction_of_the_grid(model, point):
    direction = GRID[point].numpy()
    aside = np.cross(direction, [0.3, 0.5, 0.8])
    aside /= np.linalg.norm(aside)

    def forces(offset):
        position = 1.2 * direction + offset * aside
        return predicted(model, Atoms("COH", [[0, 0, 0], position, [0.9, -1.1, 0.4]])).forces

    width = 1e-6
    jump = (forces(width) - forces(-width)).abs().max()
    slope = (forces(1e-2) - forces(-1e-2)).abs().max() / 2e-2
    assert slope > 1e-3  # the atom does matter
    assert jump < 3 * (2 * width * slope) + 1e-12


def test_second_derivatives_are_finite_where_neighbors_are_aligned_with_the_grid(model):
    on_grid = Atoms("COH", np.concatenate([np.zeros((1, 3)), 1.3 * GRID[[0, 25]].numpy()]))
    opposite = Atoms("OCO", [[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]])
    for atoms in (on_grid, opposite, molecule("CH4")):
        hessian = model.hessian(collate([AtomGraph.from_atoms(atoms, CUTOFF)]))
        assert torch.isfinite(hessian).all()
        assert hessian.abs().max() > 1e-3
        rigid = hessian.view(-1, len(atoms), 3).sum(1)  # moving all atoms alike
        assert rigid.abs().max() < 1e-10


def test_a_cubic_crystal_has_finite_products_of_its_hessian(model):
    batch = collate([AtomGraph.from_atoms(bulk("C", "fcc", a=2.8, cubic=True), CUTOFF)])
    batch.positions = batch.positions.clone().requires_grad_()
    forces = model(batch).forces
    vector = torch.randn(
        forces.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    (product,) = torch.autograd.grad((forces * vector).sum(), batch.positions)
    assert torch.isfinite(product).all()
    assert product.abs().max() > 1e-6
