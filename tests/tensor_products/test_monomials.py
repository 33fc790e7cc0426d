import pytest
import torch

from equiv.so3 import spherical_harmonics, symmetric_couplings
from equiv.tensor_products.monomials import (
    ONE,
    columns_of,
    components,
    half_turn_class,
    monomial_couplings,
    num_products,
    row_groups,
)

# What the coordinates y, z and x of class 1, 2 and 3 do under half turns about x, y and z.
SIGNS = {0: (1, 1, 1), 1: (-1, 1, -1), 2: (-1, -1, 1), 3: (1, -1, -1)}


def test_half_turns_multiply_components_by_the_signs_of_their_class():
    r = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here = spherical_harmonics(5, r)
    for axis in range(3):
        turn = -torch.ones(3, dtype=torch.float64)
        turn[axis] = 1
        signs = torch.tensor(
            [SIGNS[half_turn_class(l, m)][axis] for l in range(6) for m in range(-l, l + 1)]
        )
        torch.testing.assert_close(
            spherical_harmonics(5, r * turn), here * signs, atol=1e-12, rtol=0
        )


def test_classes_multiply_by_exclusive_or():
    for a, signs_a in SIGNS.items():
        for b, signs_b in SIGNS.items():
            assert SIGNS[a ^ b] == tuple(s * t for s, t in zip(signs_a, signs_b, strict=True))


def test_components_are_shared_out():
    members = components(3)
    assert [len(group) for group in members] == [5, 4, 4, 4]
    assert members[0][0] == ONE
    assert sorted(i for group in members for i in group) == list(range(-1, 16))


@pytest.mark.parametrize(("degree_in", "degree_out"), [(2, 0), (1, 1), (2, 2)])
@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
def test_coefficients_of_monomials_give_the_polynomials_of_the_couplings(
    degree_in, degree_out, correlation
):
    x = torch.randn((degree_in + 1) ** 2, dtype=torch.float64)
    h = {ONE: 1.0} | dict(enumerate(x.tolist()))

    def products(several):
        values = []
        for factors in several:
            v = torch.ones(1, dtype=torch.float64)
            for a in factors:
                group = torch.tensor([h[i] for i in components(degree_in)[a]], dtype=torch.float64)
                v = (v[:, None] * group).flatten()
            values.append(v)
        return torch.cat(values)

    monomials = [[] for _ in range(2 * degree_out + 1)]
    position, total = 0, []
    for group in row_groups(correlation):
        rows = products(group.rows)
        assert len(rows) == num_products(degree_in, group.rows)
        for m, factors in columns_of(group, degree_out):
            block = torch.outer(products([factors]), rows).flatten()
            monomials[m].append((position, block))
            position += len(block)
    couplings = monomial_couplings(degree_in, degree_out, correlation)
    assert couplings.shape[1] == position
    for blocks in monomials:
        value = torch.zeros(len(couplings), dtype=torch.float64)
        for start, block in blocks:
            value += couplings[:, start : start + len(block)] @ block
        total.append(value)
    expected = []
    for order in range(1, correlation + 1):
        t = symmetric_couplings(degree_in, order, degree_out)
        for _ in range(order):
            t = t @ x
        expected.append(t)
    torch.testing.assert_close(torch.stack(total, 1), torch.cat(expected), atol=1e-12, rtol=0)
