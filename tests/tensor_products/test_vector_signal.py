import math

import pytest
import torch

from equiv.so3 import spherical_harmonics, wigner_3j
from equiv.so3.grids import product_grid
from equiv.so3.tensor_harmonics import generalized_gaunt
from equiv.tensor_products import vector_signal
from equiv.tensor_products.reference import measured_coefficients
from equiv.tensor_products.vector_signal import VectorSignalTensorProduct


def odd_and_even(l_max):
    for l1 in range(l_max + 1):
        for l2 in range(l_max + 1):
            for l3 in range(abs(l1 - l2), min(l1 + l2, l_max) + 1):
                yield l1, l2, l3


def test_dot_and_cross_product_of_vectors():
    product = VectorSignalTensorProduct("1o", "1o", "0e+1e", weighted=False).double()
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    y = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    z = product(x, y)
    assert z[0].item() == pytest.approx(torch.dot(x, y).item() / math.sqrt(3), abs=1e-14)
    cross = torch.linalg.cross(x, y) / math.sqrt(2)
    torch.testing.assert_close(z[1:], cross, atol=1e-14, rtol=0)


def test_the_odd_part_is_the_poisson_bracket():
    """By derivatives of the signals themselves, extended to space as functions of the direction."""
    product = VectorSignalTensorProduct("0e+1o+2e", "0e+1o+2e", weighted=False)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 9, generator=g, dtype=torch.float64)
    root = torch.tensor([0.0] + [2**-0.5] * 3 + [6**-0.5] * 5, dtype=torch.float64)
    grid = product_grid(8)

    def signal(coefficients):
        points = grid.points.clone().requires_grad_()
        values = spherical_harmonics(2, points, normalization="integral") @ coefficients
        return torch.autograd.grad(values.sum(), points)[0]

    bracket = torch.linalg.cross(signal(root * x), signal(root * y))
    bracket = math.sqrt(2) * (grid.points * bracket).sum(1)
    expected = grid.harmonics(3).T @ (grid.weights * bracket)
    unscaled = torch.zeros(16, dtype=torch.float64)
    for l1, l2, l3 in odd_and_even(3):
        if max(l1, l2) <= 2 and (l1 + l2 + l3) % 2:
            i, j, k = (slice(l * l, (l + 1) ** 2) for l in (l1, l2, l3))
            coupled = torch.einsum("ijk,i,j->k", wigner_3j(l1, l2, l3), x[i], y[j])
            unscaled[k] += product.coupling(l1, l2, l3) * coupled
    torch.testing.assert_close(unscaled, expected, atol=1e-13, rtol=0)


def test_every_coupling_is_there_and_positive():
    product = VectorSignalTensorProduct("0e", "0e")
    assert all(product.coupling(*l) > 0 for l in odd_and_even(8))


def test_odd_couplings_are_those_of_a_gradient_and_a_field_without_divergence():
    """The bracket among the products of vector signals: (s1, s2, s3) = (1, 1, 0)."""
    product = VectorSignalTensorProduct("0e", "0e")
    for j in odd_and_even(4):
        j1, j2, j3 = j
        if sum(j) % 2:
            below, above = (generalized_gaunt((l, j2, j3), (1, 1, 0), j) for l in (j1 - 1, j1 + 1))
            gradient = (math.sqrt(j1 + 1) * below - math.sqrt(j1) * above) / math.sqrt(2 * j1 + 1)
            rho = math.sqrt(2) * math.sqrt(3) * gradient  # a dot product is sqrt(3) wigner_3j(110)
            assert abs(rho) == pytest.approx(product.coupling(*j), abs=1e-13)


def test_odd_and_even_couplings_weigh_the_same():
    product = VectorSignalTensorProduct("0e", "0e")
    weights = [0.0, 0.0]
    for l1, l2, l3 in odd_and_even(6):
        weights[(l1 + l2 + l3) % 2] += (
            product.coupling(l1, l2, l3) ** 2 / (2 * l1 + 1) / (2 * l2 + 1)
        )
    assert 0.7 < weights[1] / weights[0] < 1.1


@pytest.mark.parametrize("l", [1, 2, 3])
def test_a_smaller_grid_is_wrong(monkeypatch, l):
    """The grid is as large as it must be, no larger: one ring or one meridian fewer fails."""
    irreps = ["+".join(f"{k}{'eo'[k % 2]}" for k in range(l + 1))] * 2
    irreps.append(irreps[0] + "".join(f"+{k}{'oe'[k % 2]}" for k in range(1, l + 1)))
    degree = 3 * l
    rings, steps = (degree + 2) // 2, degree + 1
    errors = []
    for r, s in ((rings, steps), (rings - 1, steps), (rings, steps - 1)):
        monkeypatch.setattr(
            vector_signal,
            "_smallest_grid",
            lambda _, r=r, s=s: product_grid(degree, rings=r, steps=s),
        )
        product = VectorSignalTensorProduct(*irreps, weighted=False).double()
        difference = measured_coefficients(product) - product.dense_coefficients()
        errors.append(difference.abs().max().item())
    assert errors[0] < 1e-13
    assert min(errors[1:]) > 1e-2
