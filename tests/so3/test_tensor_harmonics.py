import itertools
import math
import random

import numpy as np
import pytest
import torch

from equiv import EquivError
from equiv.so3 import random_rotations, spherical_harmonics, wigner_3j, wigner_matrix
from equiv.so3.tensor_harmonics import generalized_gaunt, tensor_harmonics


def sphere(degree):
    """Points and weights that integrate polynomials of the degree exactly."""
    cosines, ring = np.polynomial.legendre.leggauss(degree // 2 + 1)
    y, ring = torch.from_numpy(cosines)[:, None], torch.from_numpy(ring)[:, None]
    phi = torch.arange(degree + 1, dtype=torch.float64) * (2 * math.pi / (degree + 1))
    rho = (1 - y * y).sqrt()
    x, z = rho * phi.sin(), rho * phi.cos()
    points = torch.stack([x, y.expand_as(x), z], dim=-1).flatten(0, 1)
    return points, (ring * 2 * math.pi / (degree + 1)).expand_as(x).flatten()


def allowed(a, b, c):
    return abs(a - b) <= c <= a + b


@pytest.mark.parametrize("s", [0, 1, 2])
def test_they_are_orthonormal(s):
    points, weights = sphere(8)
    kinds = [(l, j) for l in range(4) for j in range(4) if allowed(l, s, j)]
    fields = torch.cat([tensor_harmonics(l, s, j, points) for l, j in kinds], dim=-1)
    overlaps = torch.einsum("gam,gan,g->mn", fields, fields, weights)
    torch.testing.assert_close(
        overlaps, torch.eye(fields.shape[-1], dtype=torch.float64), atol=1e-14, rtol=0
    )


def test_vector_harmonics_of_three_kinds():
    points, _ = sphere(6)
    j = 2
    y = spherical_harmonics(j, points, normalization="integral")[:, j * j :]
    below, same, above = (tensor_harmonics(l, 1, j, points) for l in (j - 1, j, j + 1))
    radial = math.sqrt(j / (2 * j + 1)) * below + math.sqrt((j + 1) / (2 * j + 1)) * above
    torch.testing.assert_close(radial, points[:, :, None] * y[:, None, :], atol=1e-14, rtol=0)
    gradient = math.sqrt((j + 1) / (2 * j + 1)) * below - math.sqrt(j / (2 * j + 1)) * above
    for field in (same, gradient):
        assert torch.einsum("ga,gam->gm", points, field).abs().max() < 1e-14
    cross = torch.linalg.cross(points[:, :, None].expand_as(same), gradient, dim=1)
    torch.testing.assert_close(cross.abs(), same.abs(), atol=1e-14, rtol=0)


def test_fields_turn_with_value_and_component():
    rotation = random_rotations(generator=torch.Generator().manual_seed(0))
    points, _ = sphere(4)
    turned = tensor_harmonics(3, 1, 2, points @ rotation.T)
    expected = torch.einsum(
        "ab,mn,gbn->gam",
        wigner_matrix(1, rotation),
        wigner_matrix(2, rotation),
        tensor_harmonics(3, 1, 2, points),
    )
    torch.testing.assert_close(turned, expected, atol=1e-13, rtol=0)


def test_integrals_of_three_follow_the_9j_symbol():
    cases = [
        (l, s, j)
        for s in ((0, 0, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1), (1, 2, 2))
        for l in itertools.product(range(4), repeat=3)
        for j in itertools.product(range(4), repeat=3)
        if allowed(*l) and allowed(*j) and all(map(allowed, l, s, j)) and sum(l) % 2 == 0
    ]
    for l, s, j in random.Random(0).sample(cases, 60):
        points, weights = sphere(sum(l))
        fields = [tensor_harmonics(*lsj, points) for lsj in zip(l, s, j, strict=True)]
        integral = torch.einsum("gai,gbj,gck,abc,g->ijk", *fields, wigner_3j(*s), weights)
        expected = generalized_gaunt(l, s, j) * wigner_3j(*j)
        torch.testing.assert_close(integral, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("s", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)])
def test_vector_signals_reach_every_odd_coupling(s):
    """The completeness that scalar signals lack; for (1, 1, 1) only odd couplings are claimed."""
    smallest = math.inf
    for j in itertools.product(range(1, 5), repeat=3):
        if not allowed(*j) or sum(j) % 2 == 0:
            continue
        assert generalized_gaunt(j, (0, 0, 0), j) == 0
        ranges = [range(abs(a - b), a + b + 1) for a, b in zip(j, s, strict=True)]
        best = max(
            abs(generalized_gaunt((l1, l2, l3), s, j)) for l1, l2, l3 in itertools.product(*ranges)
        )
        smallest = min(smallest, best)
    assert smallest > 0.1


def test_scalar_signals_give_the_gaunt_coefficient():
    expected = math.sqrt(5 * 9 / (4 * math.pi)) * math.sqrt(2 / 15)  # 3j(112;000)^2 = 2/15
    assert generalized_gaunt((1, 1, 2), (0, 0, 0), (1, 1, 2)) == pytest.approx(expected, abs=1e-15)


def test_degrees_are_checked():
    with pytest.raises(EquivError, match="non-negative integers"):
        generalized_gaunt((1, 1, -1), (0, 0, 0), (1, 1, 1))
