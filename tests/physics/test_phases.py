"""The signs that docs/conventions.md promises, which no theorem fixes and model files depend on."""

import math

import torch

from equiv.so3 import spherical_harmonics, wigner_3j
from equiv.so3.grids import product_grid
from equiv.so3.recoupling import standard_3j, wigner_6j

TRIPLES = [
    (l1, l2, l3)
    for l1 in range(5)
    for l2 in range(5)
    for l3 in range(abs(l1 - l2), min(l1 + l2, 4) + 1)
]


def test_couplings_are_symmetric_or_antisymmetric_under_exchange():
    for l1, l2, l3 in TRIPLES:
        w, sign = wigner_3j(l1, l2, l3), (-1) ** (l1 + l2 + l3)
        for other in (
            wigner_3j(l2, l1, l3).permute(1, 0, 2),
            wigner_3j(l1, l3, l2).permute(0, 2, 1),
            wigner_3j(l3, l2, l1).permute(2, 1, 0),
        ):
            torch.testing.assert_close(other, sign * w, atol=1e-14, rtol=0)


def test_dot_and_cross_product():
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(wigner_3j(1, 1, 0)[..., 0], eye / math.sqrt(3))
    levi_civita = torch.linalg.cross(eye[:, None].expand(3, 3, 3), eye[None].expand(3, 3, 3))
    torch.testing.assert_close(wigner_3j(1, 1, 1), levi_civita / math.sqrt(6))


def test_even_couplings_are_positive_multiples_of_the_integral_of_three_harmonics():
    grid = product_grid(12)
    y = grid.harmonics(4)
    for l1, l2, l3 in TRIPLES:
        y1, y2, y3 = (y[:, l * l : (l + 1) ** 2] for l in (l1, l2, l3))
        integral = torch.einsum("gi,gj,gk,g->ijk", y1, y2, y3, grid.weights)
        dims = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
        r = math.sqrt(dims / (4 * math.pi)) * abs(standard_3j(l1, l2, l3, 0, 0))
        torch.testing.assert_close(integral, r * wigner_3j(l1, l2, l3), atol=1e-13, rtol=0)


def test_odd_couplings_are_positive_multiples_of_the_bracket_of_two_harmonics():
    grid = product_grid(12)
    points = grid.points.clone().requires_grad_()
    y = spherical_harmonics(4, points, normalization="integral")
    gradients = torch.stack(
        [torch.autograd.grad(c.sum(), points, retain_graph=True)[0] for c in y.T[1:]]
    )  # of a function of the direction: along the sphere
    gradients = torch.cat([torch.zeros_like(gradients[:1]), gradients])
    y = y.detach()
    for l1, l2, l3 in TRIPLES:
        if (l1 + l2 + l3) % 2:
            f, h = (gradients[l * l : (l + 1) ** 2] for l in (l1, l2))
            bracket = torch.linalg.cross(f[:, None], h[None]) * grid.points
            integral = torch.einsum(
                "ijg,gk,g->ijk", bracket.sum(-1), y[:, l3 * l3 : (l3 + 1) ** 2], grid.weights
            )
            dims = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
            rho = math.sqrt(l1 * (l1 + 1) * l2 * (l2 + 1)) * math.sqrt(dims / (4 * math.pi))
            rho *= abs(standard_3j(l1, l2, l3, 1, -1))
            assert rho > 0.3
            torch.testing.assert_close(integral, rho * wigner_3j(l1, l2, l3), atol=1e-12, rtol=0)


def test_matrices_multiply_with_the_sign_of_the_result():
    s = 2
    for l1, l2, l3 in TRIPLES:
        w1, w2, w3 = (wigner_3j(s, s, l) for l in (l1, l2, l3))
        product = torch.einsum("abi,bcj,ack->ijk", w1, w2, w3)
        expected = (-1) ** l3 * wigner_6j(l1, l2, l3, s, s, s) * wigner_3j(l1, l2, l3)
        torch.testing.assert_close(product, expected, atol=1e-14, rtol=0)
