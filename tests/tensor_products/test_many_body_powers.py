import itertools
import math

import pytest
import torch

from equiv.errors import EquivError
from equiv.so3 import gaunt_coefficients, wigner_3j
from equiv.so3.grids import product_grid
from equiv.tensor_products import many_body_grid
from equiv.tensor_products.many_body_choice import MANY_BODY_PRODUCTS
from equiv.tensor_products.many_body_fourier import GauntFourierManyBodyProduct
from equiv.tensor_products.many_body_grid import (
    GauntManyBodyProduct,
    power_scales,
    signal_scales,
)
from equiv.tensor_products.many_body_matrix import MatrixManyBodyProduct
from equiv.tensor_products.many_body_vector import VectorSignalManyBodyProduct
from equiv.tensor_products.moments import polynomial_moment, power_covariance
from equiv.tensor_products.powers import PowerProduct, degree_scales

POWERS = {n: kind for n, kind in MANY_BODY_PRODUCTS.items() if issubclass(kind, PowerProduct)}


def features(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(kind, degree_in, degree_out, channels=3, **choice):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind(degree_in, degree_out, channels, **{"num_elements": 2, **choice}).double()


def chained(x, degree_in, degree_out, power):
    """One Gaunt product after the other, every degree kept in between."""
    signal = degree_scales(signal_scales(degree_in), degree_in)[:, None] * x
    z = signal
    for k in range(2, power + 1):
        g = gaunt_coefficients((k - 1) * degree_in, degree_in, k * degree_in)
        z = torch.einsum("ijk,nic,njc->nkc", g, z, signal)
    gamma = degree_scales(power_scales(degree_in, degree_out, power), degree_out)
    return gamma[:, None] * z[:, : (degree_out + 1) ** 2]


@pytest.mark.parametrize(
    ("degree_in", "degree_out", "correlation"), [(3, 1, 3), (1, 1, 4), (2, 2, 4), (2, 0, 2)]
)
def test_powers_on_one_grid_are_chained_pairwise_products(degree_in, degree_out, correlation):
    product = made(GauntManyBodyProduct, degree_in, degree_out, correlation=correlation)
    x = features(4, (degree_in + 1) ** 2, 3)
    for power, ours in enumerate(product.powers(x), start=2):
        expected = chained(x, degree_in, degree_out, power)
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_no_smaller_grid_is_exact(monkeypatch):
    monkeypatch.setattr(many_body_grid, "smallest_grid", lambda degree: product_grid(degree - 1))
    product = made(GauntManyBodyProduct, 2, 1, correlation=3)
    x = features(4, 9, 3)
    assert (product.powers(x)[-1] - chained(x, 2, 1, 3)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("degree_in", "degree_out", "correlation"), [(3, 1, 3), (2, 2, 4), (1, 0, 2), (2, 1, 1)]
)
def test_fourier_series_give_the_numbers_of_the_grid(degree_in, degree_out, correlation):
    grid = made(GauntManyBodyProduct, degree_in, degree_out, correlation=correlation)
    fourier = made(GauntFourierManyBodyProduct, degree_in, degree_out, correlation=correlation)
    fourier.load_state_dict(grid.state_dict())
    x = features(5, (degree_in + 1) ** 2, 3)
    torch.testing.assert_close(fourier(x, [2, 3]), grid(x, [2, 3]), atol=1e-12, rtol=0)


def test_powers_of_matrices_are_powers_of_matrices():
    product = made(MatrixManyBodyProduct, 3, 2, correlation=4)
    x = features(2, 16, 3)
    e = torch.cat([math.sqrt(2 * l + 1) * wigner_3j(2, 2, l) for l in range(4)], dim=2)
    scaled = (
        x
        / torch.tensor([2 * l + 1 for l in range(4) for _ in range(2 * l + 1)])
        .double()
        .sqrt()[:, None]
    )
    matrix = torch.einsum("abm,nmc->ncab", e, scaled)
    for power, ours in enumerate(product.powers(x), start=2):
        z = torch.einsum("abm,ncab->nmc", e[:, :, :9], torch.linalg.matrix_power(matrix, power))
        for l in range(3):  # equal up to the constant of the degree
            a, b = (t[:, l * l : (l + 1) ** 2] for t in (ours, z))
            ratio = (a * b).sum() / (b * b).sum()
            torch.testing.assert_close(a, ratio * b, atol=1e-12, rtol=0)
            assert ratio > 0


def test_the_squared_gradient_is_the_gaunt_product_times_eigenvalues():
    product = made(VectorSignalManyBodyProduct, 3, 3, correlation=2)
    assert product.terms == [(2, 0), (2, 1)]
    x = features(4, 16, 3)
    f = degree_scales(signal_scales(3), 3)[:, None] * x
    eigenvalue = torch.tensor([l * (l + 1) for l in range(4) for _ in range(2 * l + 1)]).double()
    tilde = torch.where(eigenvalue > 0, eigenvalue, torch.inf).rsqrt()[:, None] * f
    path = 0.5 * (eigenvalue[:, None, None] + eigenvalue[None, :, None] - eigenvalue)
    expected = torch.einsum("ijk,nic,njc->nkc", path * gaunt_coefficients(3, 3, 3), tilde, tilde)
    ours = product.powers(x)[1]
    for l in range(4):
        a, b = (t[:, l * l : (l + 1) ** 2] for t in (ours, expected))
        ratio = (a * b).sum() / (b * b).sum()
        torch.testing.assert_close(a, ratio * b, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", POWERS)
@pytest.mark.parametrize(("degree_in", "degree_out", "correlation"), [(3, 1, 3), (2, 2, 4)])
def test_every_term_has_mean_square_one(name, degree_in, degree_out, correlation):
    product = made(POWERS[name], degree_in, degree_out, correlation=correlation)
    for term in product.powers(features(6000, (degree_in + 1) ** 2, 4)):
        for l in range(degree_out + 1):
            square = term[:, l * l : (l + 1) ** 2].square().mean().item()
            assert square == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("name", POWERS)
def test_every_element_has_its_weights(name):
    product = made(POWERS[name], 2, 1, correlation=3, num_elements=3)
    x = features(5, 9, 3)
    together = product(x, [2, 0, 3])
    other = made(POWERS[name], 2, 1, correlation=3, num_elements=1)
    for rows, element in ((slice(0, 2), 0), (slice(2, 5), 2)):
        other.weight.data = product.weight.data[:, element : element + 1]
        torch.testing.assert_close(other(x[rows], [x[rows].shape[0]]), together[rows])
    assert product(x[:0], [0, 0, 0]).shape == (0, 4, 3)


def test_moments_of_gaussian_polynomials():
    # <x^4> = 3, <(x^2)^2> with two variables, <(x^3)^2> = 15, <(x^4)^2> = 105
    for order, moment in ((1, 1), (2, 3), (3, 15), (4, 105)):
        assert polynomial_moment(torch.ones([1] * order, dtype=torch.float64)) == moment
        rho = torch.tensor(1.0, dtype=torch.float64)
        assert power_covariance(order, rho).item() == moment
    t = torch.tensor([[0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)  # 2 x y
    assert polynomial_moment(t) == 4
    # <u^2 v^2> = 1 + 2 rho^2, <u^3 v^3> = 9 rho + 6 rho^3
    rho = torch.tensor([0.0, 0.3, -0.7], dtype=torch.float64)
    torch.testing.assert_close(power_covariance(2, rho), 1 + 2 * rho**2)
    torch.testing.assert_close(power_covariance(3, rho), 9 * rho + 6 * rho**3)


@pytest.mark.parametrize(("name", "wrong"), list(itertools.product(POWERS, (0, 1))))
def test_what_cannot_be_is_named(name, wrong):
    arguments, message = (
        ((2, 1, 3, 5), "correlation must be 1, 2, 3 or 4, got 5"),
        ((1, 2, 3, 2), "degree_out must be 0 up to degree_in=1, got 2"),
    )[wrong]
    *dims, correlation = arguments
    with pytest.raises(EquivError, match=message):
        POWERS[name](*dims, correlation=correlation, num_elements=1)
