import math

import numpy as np
import pytest
import torch

from equiv.errors import EquivError
from equiv.so3 import (
    num_symmetric_couplings,
    random_rotations,
    symmetric_couplings,
    wigner_3j,
    wigner_matrix,
)

SMALL = [
    (l_in, degree, l_out) for l_in in (0, 1, 2) for degree in (1, 2, 3, 4) for l_out in range(4)
]
LARGE = [(3, 3, 0), (3, 3, 1), (3, 3, 2), (3, 4, 0), (3, 4, 1), (4, 3, 1)]


def character_count(l_in, degree, l_out):
    """Multiplicity by integrating characters over O(3), exact on a fine enough grid of angles."""
    n = 4 * (degree * l_in + l_out) + 8
    angles = 2 * np.pi * (np.arange(n) + 0.5) / n  # class angles; even integrand, so all of them

    def character(l, angle):
        return 1 + 2 * sum(np.cos(m * angle) for m in range(1, l + 1))

    total = 0.0
    for inversion in (1, -1):
        # power sums p_k = trace of the k-th power, then complete symmetric polynomials by Newton
        p = [
            sum(inversion ** (l * k) * character(l, k * angles) for l in range(l_in + 1))
            for k in range(1, degree + 1)
        ]
        h = [np.ones(n)]
        for order in range(1, degree + 1):
            h.append(sum(p[k - 1] * h[order - k] for k in range(1, order + 1)) / order)
        integrand = h[degree] * inversion**l_out * character(l_out, angles) * (1 - np.cos(angles))
        total += integrand.mean() / 2
    assert abs(total - round(total)) < 1e-8
    return round(total)


@pytest.mark.parametrize(("l_in", "degree", "l_out"), [*SMALL, *LARGE, (5, 4, 3), (2, 6, 2)])
def test_the_count_equals_that_of_character_theory(l_in, degree, l_out):
    assert num_symmetric_couplings(l_in, degree, l_out) == character_count(l_in, degree, l_out)


@pytest.mark.parametrize(("l_in", "degree", "l_out"), [*SMALL, *LARGE])
def test_complete_orthonormal_symmetric_and_equivariant(l_in, degree, l_out):
    u = symmetric_couplings(l_in, degree, l_out)
    n = (l_in + 1) ** 2
    count = character_count(l_in, degree, l_out)
    assert u.shape == (count, 2 * l_out + 1, *(n,) * degree)
    assert u.dtype == torch.float64
    flat = u.flatten(1)
    identity = torch.eye(count, dtype=torch.float64)
    torch.testing.assert_close(flat @ flat.T, identity, atol=1e-12, rtol=0)
    for axis in range(3, 2 + degree):
        torch.testing.assert_close(u, u.transpose(2, axis), atol=1e-13, rtol=0)
    g = torch.Generator().manual_seed(5)
    for improper in (False, True):
        rotation = random_rotations(generator=g, improper=improper)
        turn = torch.block_diag(*(wigner_matrix(l, rotation) for l in range(l_in + 1)))
        turned = torch.einsum("ab,kb...->ka...", wigner_matrix(l_out, rotation), u)
        for _ in range(degree):  # every turn moves the next axis to the back
            turned = torch.tensordot(turned, turn, dims=([2], [1]))
        torch.testing.assert_close(turned, u, atol=1e-12, rtol=0)


def test_squares_of_a_scalar_and_a_vector_by_hand():
    u = symmetric_couplings(1, 2, 0)
    assert u.shape == (2, 1, 4, 4)
    torch.testing.assert_close(u[0, 0], torch.diag(torch.tensor([1.0, 0, 0, 0]).double()))
    expected = torch.diag(torch.tensor([0.0, 1, 1, 1]).double()) / math.sqrt(3)
    torch.testing.assert_close(u[1, 0], expected)


def test_two_factors_are_the_coupling_coefficients():
    u = symmetric_couplings(2, 2, 2)
    w = wigner_3j(2, 2, 2)  # the last multiset is (2, 2)
    torch.testing.assert_close(u[-1, :, 4:, 4:], w.permute(2, 0, 1), atol=1e-14, rtol=0)


def test_the_basis_is_the_same_every_time():
    first = symmetric_couplings(2, 4, 1)
    again = symmetric_couplings(2, 4, 1)
    assert torch.equal(first, again)
    first.zero_()
    assert torch.equal(symmetric_couplings(2, 4, 1), again)


def test_the_basis_is_the_documented_one():
    """Model files rely on it: in another basis their weights would mean something else."""
    u = symmetric_couplings(2, 3, 1)
    weights = torch.cos(torch.arange(u[0].numel(), dtype=torch.float64)).view(u[0].shape)
    came = torch.einsum("k...,...->k", u, weights)
    expected = torch.tensor(
        [
            -0.2490191905071289,
            0.5879585778070568,
            -0.6459908797298858,
            0.30080703889176635,
            -0.006383261466788026,
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(came, expected, atol=1e-12, rtol=0)


def test_errors():
    with pytest.raises(EquivError, match="degree must be an integer of at least 1, got 0"):
        symmetric_couplings(1, 0, 1)
    with pytest.raises(EquivError, match=r"l_in_max=6, degree=6.* needs .* GiB; lower"):
        symmetric_couplings(6, 6, 1)
