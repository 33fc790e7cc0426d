import math

import pytest
import torch
from e3nn import o3

from equiv.errors import EquivError
from equiv.so3 import random_rotations, wigner_3j, wigner_matrix


def test_equal_to_e3nn_up_to_degree_seven():
    for l1 in range(8):
        for l2 in range(8):
            for l3 in range(abs(l1 - l2), l1 + l2 + 1):
                theirs = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
                torch.testing.assert_close(wigner_3j(l1, l2, l3), theirs, atol=1e-14, rtol=0)


def test_three_vectors_couple_to_the_triple_product():
    levi_civita = torch.zeros(3, 3, 3, dtype=torch.float64)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        levi_civita[i, j, k], levi_civita[j, i, k] = 1, -1
    torch.testing.assert_close(wigner_3j(1, 1, 1), levi_civita / math.sqrt(6), atol=1e-15, rtol=0)


@pytest.mark.parametrize("degrees", [(1, 2, 3), (4, 4, 1), (9, 12, 10), (20, 20, 40)])
def test_rotations_leave_the_coefficients_alone_and_rows_are_orthogonal(degrees):
    w = wigner_3j(*degrees)
    rotation = random_rotations(generator=torch.Generator().manual_seed(1))
    d1, d2, d3 = (wigner_matrix(l, rotation) for l in degrees)
    turned = torch.einsum("ai,bj,ck,ijk->abc", d1, d2, d3, w)
    torch.testing.assert_close(turned, w, atol=1e-12, rtol=0)
    gram = torch.einsum("abc,abd->cd", w, w)
    expected = torch.eye(len(gram), dtype=gram.dtype) / len(gram)
    torch.testing.assert_close(gram, expected, atol=1e-14, rtol=0)


def test_the_result_may_be_changed_without_changing_the_next():
    wigner_3j(1, 1, 0).zero_()
    assert wigner_3j(1, 1, 0).norm().item() == pytest.approx(1)


def test_the_default_dtype_does_not_matter():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        assert wigner_3j(3, 2, 2).dtype == torch.float64
        torch.testing.assert_close(wigner_3j(3, 2, 2).norm().item(), 1.0, atol=1e-15, rtol=0)
    finally:
        torch.set_default_dtype(before)


def test_errors_name_the_degrees():
    with pytest.raises(EquivError, match=r"\(1, 1, 3\) break the triangle rule.*from 0 to 2"):
        wigner_3j(1, 1, 3)
    with pytest.raises(EquivError, match="l2 must be a non-negative integer, got -1"):
        wigner_3j(1, -1, 1)
    with pytest.raises(EquivError, match=r"l1 must be a non-negative integer, got 1\.0"):
        wigner_3j(1.0, 1, 1)  # pyright: ignore[reportArgumentType]
