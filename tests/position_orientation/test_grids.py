import math

import pytest
import torch

from equiv.errors import EquivError
from equiv.position_orientation import (
    Channels,
    OrientationGrid,
    lift,
    orientation_grid,
    readout,
    rotation_group,
)
from equiv.so3.harmonics import spherical_harmonics
from equiv.so3.rotations import random_rotations

# number, strength, rotations of the group, whether antipodes are there
KNOWN = {
    "octahedron": (6, 3, 24),
    "icosahedron": (12, 5, 60),
    "dodecahedron": (20, 5, 60),
    "lebedev14": (14, 5, 24),
    "lebedev26": (26, 7, 24),
    "pentakis32": (32, 9, 60),
}
ALL = [
    *((name, None) for name in KNOWN),
    ("repulsion", 16),
    ("repulsion", 7),
    ("fibonacci", 12),
    ("circle", 8),
    ("circle", 5),
]


@pytest.mark.parametrize("name", KNOWN)
def test_exact_grids_have_their_strength_and_group(name):
    num, strength, order = KNOWN[name]
    grid = orientation_grid(name)
    rotations, permutations = rotation_group(grid)
    assert (grid.num, grid.strength, len(rotations)) == (num, strength, order)
    assert grid.antipodes is not None
    points = grid.double().points
    assert (points @ rotations.mT - points[permutations]).abs().max() < 1e-12
    assert torch.equal(points[grid.antipodes], -points) or torch.allclose(
        points[grid.antipodes], -points, atol=1e-12
    )


@pytest.mark.parametrize("name", KNOWN)
def test_polynomials_are_averaged_exactly_up_to_the_strength_and_not_beyond(name):
    grid = orientation_grid(name).double()
    y = spherical_harmonics(grid.strength + 1, grid.points)
    mean = (grid.weights @ y).abs()
    exact = (grid.strength + 1) ** 2
    assert mean[1:exact].max() < 1e-12
    assert mean[exact:].max() > 1e-3


@pytest.mark.parametrize("num", [5, 8])
def test_the_circle_is_a_design_of_all_but_its_number(num):
    grid = orientation_grid("circle", num)
    assert grid.strength == num - 1
    rotations, permutations = rotation_group(grid)
    assert len(rotations) == num
    assert len({tuple(p.tolist()) for p in permutations}) == num


@pytest.mark.parametrize(("name", "num"), ALL)
def test_readout_undoes_lift(name, num):
    grid = orientation_grid(name, num).double()
    generator = torch.Generator().manual_seed(0)
    tensors = not (grid.num < 7 and grid.dim == 3)
    s = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    v = torch.randn(3, 2, grid.dim, generator=generator, dtype=torch.float64)
    t = torch.randn(3, 2, grid.dim, grid.dim, generator=generator, dtype=torch.float64)
    t = t + t.mT if tensors else None
    found = readout(grid, lift(grid, s, v, t), Channels(2, 2, 2 if tensors else 0))
    assert (found.scalars - s).abs().max() < 1e-12
    assert (found.vectors - v).abs().max() < 1e-12
    if t is not None:
        assert (found.tensors - t).abs().max() < 1e-12


def test_lift_and_readout_turn_with_the_group():
    grid = orientation_grid("icosahedron").double()
    rotations, permutations = rotation_group(grid)
    f = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    channels = Channels(1, 1, 1)
    before = readout(grid, f, channels)
    for turn, to in zip(rotations, permutations, strict=True):
        turned = torch.empty_like(f)
        turned[to] = f
        after = readout(grid, turned, channels)
        assert (after.scalars - before.scalars).abs().max() < 1e-13
        assert (after.vectors - before.vectors @ turn.T).abs().max() < 1e-13
        assert (after.tensors - turn @ before.tensors @ turn.T).abs().max() < 1e-13
        assert torch.allclose(lift(grid, vectors=before.vectors @ turn.T)[to],
                              lift(grid, vectors=before.vectors))  # fmt: skip


def test_isotropic_duals_on_strong_grids():
    grid = orientation_grid("pentakis32").double()
    o = grid.points
    products = o.unsqueeze(-1) * o.unsqueeze(-2)
    expected = grid.weights[:, None, None] * (7.5 * products - 1.5 * torch.eye(3))
    assert torch.allclose(grid.tensor_duals, expected, atol=1e-12)
    assert torch.allclose(grid.frame, 3 * torch.eye(3, dtype=torch.float64), atol=1e-12)


def test_the_grid_is_stored_exactly_and_comes_back(tmp_path):
    grid = orientation_grid("repulsion", 10, seed=3).to(torch.float32)
    state = grid.state_dict()
    assert state["points"].dtype == torch.float64
    other = orientation_grid("repulsion", 10, seed=4)
    assert not torch.allclose(other.points, grid.points)
    other.load_state_dict(state)
    assert torch.equal(other.points, grid.points)
    assert torch.equal(other.double().points, grid.double().points)
    assert torch.equal(other.antipodes, grid.antipodes)
    with pytest.raises(RuntimeError, match=r"grid has shape \(12, 3\), the stored one \(10, 3\)"):
        orientation_grid("icosahedron").load_state_dict(state)


def test_repulsion_is_reproducible_and_keeps_apart():
    a, b = (orientation_grid("repulsion", 16, seed=2).double().points for _ in range(2))
    assert torch.equal(a, b)
    distance = torch.cdist(a, a) + 10 * torch.eye(16)
    assert distance.min() > 0.65


def test_a_turned_grid_is_the_same_grid():
    turn = random_rotations(generator=torch.Generator().manual_seed(5))
    grid = orientation_grid("lebedev14").double()
    turned = grid.rotated(turn)
    assert turned.strength == grid.strength
    assert torch.allclose(turned.points, grid.points @ turn.T)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: orientation_grid("icosahedral"), "did you mean 'icosahedron'"),
        (lambda: orientation_grid("repulsion"), "takes a number of orientations, at least 4"),
        (lambda: orientation_grid("icosahedron", 20), "has 12 orientations, not 20"),
        (lambda: OrientationGrid(torch.ones(4, 3)), "must be unit vectors"),
        (lambda: OrientationGrid(torch.eye(3)[:2]), "span no space of dimension 3"),
        (lambda: OrientationGrid(torch.eye(3), torch.ones(2)), "expected 3 weights"),
        (lambda: lift(orientation_grid("octahedron")), "nothing to lift"),
        (
            lambda: readout(orientation_grid("octahedron"), torch.ones(1, 6, 1), Channels(0, 0, 1)),
            "cannot tell the 6 components of symmetric tensors apart",
        ),
        (
            lambda: readout(orientation_grid("octahedron"), torch.ones(1, 6, 2), Channels(1)),
            r"expected \[..., 6 orientations, 1 channels\]",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(EquivError, match=words):
        call()


def test_a_known_moment():
    grid = orientation_grid("pentakis32").double()
    x, y, z = grid.points.T
    assert math.isclose(float(grid.weights @ (x**4 * y**2)), 3 / 105, rel_tol=1e-12)
    assert math.isclose(float(grid.weights @ (x**2 * y**2 * z**2)), 1 / 105, rel_tol=1e-12)
