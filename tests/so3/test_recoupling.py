import itertools
import math

import pytest
import torch

from equiv import EquivError
from equiv.so3 import wigner_3j
from equiv.so3.recoupling import standard_3j, wigner_6j, wigner_9j


def triples(l_max):
    for l1, l2 in itertools.product(range(l_max + 1), repeat=2):
        for l3 in range(abs(l1 - l2), min(l1 + l2, l_max) + 1):
            yield l1, l2, l3


def test_values_worked_by_hand():
    assert standard_3j(1, 1, 0, 0, 0) == pytest.approx(-1 / math.sqrt(3), abs=1e-15)
    assert standard_3j(1, 1, 2, 1, -1) == pytest.approx(1 / math.sqrt(30), abs=1e-15)
    assert standard_3j(1, 1, 1, 1, -1) == pytest.approx(1 / math.sqrt(6), abs=1e-15)
    assert wigner_6j(1, 1, 1, 1, 1, 1) == pytest.approx(1 / 6, abs=1e-15)
    assert wigner_6j(1, 1, 2, 1, 1, 2) == pytest.approx(1 / 30, abs=1e-15)
    assert wigner_6j(1, 1, 1, 1, 1, 0) == pytest.approx(-1 / 3, abs=1e-15)
    assert wigner_9j(1, 1, 0, 1, 1, 0, 0, 0, 0) == pytest.approx(1 / 3, abs=1e-15)
    assert abs(wigner_9j(1, 1, 1, 1, 1, 1, 1, 1, 1)) < 1e-16  # odd under exchange of two rows


def test_broken_triangles_give_zero():
    assert standard_3j(1, 1, 3, 0, 0) == 0
    assert standard_3j(1, 1, 1, 1, 1) == 0
    assert wigner_6j(1, 1, 3, 1, 1, 1) == 0


@pytest.mark.parametrize(("m1", "m2"), [(0, 0), (1, -1), (1, 1)])
def test_the_squares_sum_to_one(m1, m2):
    total = sum((2 * l + 1) * standard_3j(3, 4, l, m1, m2) ** 2 for l in range(8))
    assert total == pytest.approx(1, abs=1e-14)


def test_orthogonality_of_6j():
    for l1, l2 in itertools.product(range(1, 4), repeat=2):
        total = sum(
            (2 * k + 1) * (2 * l1 + 1) * wigner_6j(3, 4, k, 3, 4, l1) * wigner_6j(3, 4, k, 3, 4, l2)
            for k in range(1, 8)
        )
        assert total == pytest.approx(float(l1 == l2), abs=1e-14)


def test_6j_is_the_overlap_of_real_couplings_around_a_triangle():
    for l1, l2, l3 in triples(4):
        w = [wigner_3j(2, 2, l) for l in (l1, l2, l3)]
        overlap = torch.einsum("abi,bcj,ack,ijk->", *w, wigner_3j(l1, l2, l3)).item()
        assert overlap == pytest.approx((-1) ** l3 * wigner_6j(l1, l2, l3, 2, 2, 2), abs=1e-14)


def test_9j_is_the_overlap_of_real_couplings():
    for s in ((1, 1, 0), (1, 1, 1), (1, 2, 2)):
        for l in triples(2):
            for j in triples(3):
                if not all(abs(a - b) <= c <= a + b for a, b, c in zip(l, s, j, strict=True)):
                    continue
                across = [wigner_3j(*t) for t in zip(l, s, j, strict=True)]
                overlap = torch.einsum(
                    "iap,jbq,kcr,ijk,abc,pqr->",
                    *across,
                    wigner_3j(*l),
                    wigner_3j(*s),
                    wigner_3j(*j),
                )
                assert overlap.item() == pytest.approx(wigner_9j(*l, *s, *j), abs=1e-14)


def test_arguments_are_checked():
    with pytest.raises(EquivError, match="must be non-negative integers"):
        wigner_6j(1, 1, 1, 1, 1, -1)
