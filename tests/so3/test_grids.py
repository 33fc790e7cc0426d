import math

import pytest
import torch

from equiv.errors import EquivError
from equiv.so3 import (
    antipodal_half,
    gaunt_coefficients,
    lebedev_grid,
    product_grid,
    spherical_harmonics,
)
from equiv.so3.legendre import azimuthal_waves, normalized_legendre


def grids(degree):
    return {"product": product_grid(degree), "lebedev": lebedev_grid(degree)}


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 12, 13, 25, 40])
@pytest.mark.parametrize("kind", ["product", "lebedev"])
def test_every_polynomial_up_to_the_degree_is_integrated(kind, degree):
    grid = grids(degree)[kind]
    assert grid.degree >= degree
    integrals = grid.weights @ grid.harmonics(degree)
    expected = torch.zeros_like(integrals)
    expected[0] = math.sqrt(4 * math.pi)
    torch.testing.assert_close(integrals, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("degree", [1, 2, 3, 6, 9, 12])
def test_no_ring_and_no_meridian_can_be_spared(degree):
    full = product_grid(degree)
    rings, steps = len(full.cosines), len(full.azimuths)
    assert (rings, steps) == ((degree + 2) // 2, degree + 1)
    spared = [product_grid(degree, steps=steps - 1)]
    if rings > 1:
        spared.append(product_grid(degree, rings=rings - 1))
    for fewer in spared:
        assert fewer.degree < degree
        integrals = (fewer.weights @ fewer.harmonics(degree))[1:]
        # a polynomial of the full degree is wrong by tens of percent of its own size
        assert integrals.abs().max() > 0.1


@pytest.mark.parametrize("l_max", [0, 3, 8])
@pytest.mark.parametrize("kind", ["product", "lebedev"])
def test_harmonics_are_those_of_the_package(kind, l_max):
    grid = grids(2 * l_max)[kind]
    expected = spherical_harmonics(l_max, grid.points, normalization="integral")
    torch.testing.assert_close(grid.harmonics(l_max), expected, atol=1e-13, rtol=0)


def test_harmonics_of_degree_forty_are_orthonormal():
    grid = product_grid(80)
    y = grid.harmonics(40)
    gram = (y.T * grid.weights) @ y
    torch.testing.assert_close(gram, torch.eye(41**2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_product_grid_is_sorted_ring_by_ring():
    grid = product_grid(4)
    rings = grid.points.view(len(grid.cosines), len(grid.azimuths), 3)
    assert (rings[..., 1] == grid.cosines[:, None]).all()
    z_axis = torch.atan2(rings[..., 0], rings[..., 2])
    torch.testing.assert_close(z_axis[1].cos(), grid.azimuths.cos())
    torch.testing.assert_close(grid.weights.sum().item(), 4 * math.pi)
    assert grid.points[:, 1].abs().max() < 1  # no pole


@pytest.mark.parametrize("grid", [lebedev_grid(7), lebedev_grid(13), product_grid(7)])
def test_half_a_grid_integrates_even_polynomials(grid):
    half = antipodal_half(grid)
    assert 2 * len(half) == len(grid)
    even = [l * l + l + m for l in range(0, 7, 2) for m in range(-l, l + 1)]
    integrals = (half.weights @ half.harmonics(6))[even]
    assert integrals[0] == pytest.approx(math.sqrt(4 * math.pi), abs=1e-13)
    assert integrals[1:].abs().max() < 1e-13


def test_a_grid_without_antipodes_has_no_half():
    with pytest.raises(EquivError, match="of 15 points have no partner at their antipode"):
        antipodal_half(product_grid(4))


def test_impossible_grids_are_refused():
    with pytest.raises(EquivError, match="degree cannot be negative, got -1"):
        product_grid(-1)
    with pytest.raises(EquivError, match="must be positive, got 0 and 3"):
        product_grid(2, rings=0)
    with pytest.raises(EquivError, match="degrees 0 to 131, got 132; product_grid has no limit"):
        lebedev_grid(132)
    with pytest.raises(EquivError, match="l_max cannot be negative"):
        normalized_legendre(-1, torch.zeros(1), torch.ones(1))


def test_legendre_functions_on_the_torus_cover_the_sphere_twice():
    theta = torch.linspace(0.1, 3.0, 7, dtype=torch.float64)
    p = normalized_legendre(6, theta.cos(), theta.sin())
    q = normalized_legendre(6, (-theta).cos(), (-theta).sin())
    signs = (-1.0) ** torch.arange(7)
    torch.testing.assert_close(q, p * signs[None, :, None], atol=1e-14, rtol=0)
    waves = azimuthal_waves(2, torch.tensor([0.3], dtype=torch.float64))[:, 0].tolist()
    root = math.sqrt(2)
    angles = [root * math.sin(0.6), root * math.sin(0.3), 1, root * math.cos(0.3)]
    assert waves == pytest.approx([*angles, root * math.cos(0.6)])


def test_integrals_of_three_harmonics_on_a_grid_are_gaunt_coefficients():
    grid = product_grid(12)
    y = grid.harmonics(6)
    integrals = torch.einsum("g,gi,gj,gk->ijk", grid.weights, y[:, :16], y[:, :16], y)
    torch.testing.assert_close(integrals, gaunt_coefficients(3, 3, 6), atol=1e-13, rtol=0)
