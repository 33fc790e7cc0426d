import math

import pytest
import torch

from equiv import EquivError
from equiv.so3 import wigner_3j
from equiv.so3.gaunt import gaunt_coefficient
from equiv.tensor_products.matrix import MatrixTensorProduct, accidental_zeros
from equiv.tensor_products.reference import measured_coefficients
from equiv.tensor_products.spherical import DegreePath


def test_vectors_multiply_like_matrices():
    """Spin 1: a vector is an antisymmetric 3 x 3 matrix, whose commutator is the cross product."""
    product = MatrixTensorProduct("1o", "1o", "0e+1e", weighted=False).double()
    assert product.spin == 1
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    y = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    z = product(x, y)
    # scaled to unit variance; X Y of antisymmetric matrices has a negative trace
    assert z[0].item() == pytest.approx(-torch.dot(x, y).item() / math.sqrt(3), abs=1e-14)
    cross = torch.linalg.cross(x, y) / math.sqrt(2)
    sign = math.copysign(1, product.coupling(1, 1, 1) * wigner_3j(1, 1, 1)[0, 1, 2].item())
    torch.testing.assert_close(z[1:], sign * cross, atol=1e-14, rtol=0)


def test_accidental_zeros_are_those_of_the_literature():
    found = {spin: accidental_zeros(spin) for spin in range(1, 8)}
    assert found == {
        1: [], 2: [], 3: [(3, 5, 5)], 4: [(5, 6, 7)], 5: [(4, 9, 9)], 6: [(3, 5, 6)], 7: [],
    }  # fmt: skip


def test_missing_paths_are_reported():
    product = MatrixTensorProduct("3o+5o", "0e+5o", "0e+3e+5e")
    assert product.spin == 3
    assert product.missing_paths == [DegreePath(3, 1, 5, 1, 5, -1), DegreePath(5, 1, 5, 1, 3, -1)]
    assert "3 paths, 2 missing, spin 3" in repr(product)
    assert MatrixTensorProduct("3o+5o", "0e+5o", "0e+3e+5e", spin=4).missing_paths == []


def test_an_output_without_another_path_is_refused():
    message = r"cannot reach 5e from .* miss the couplings \[\(3, 5, 5\)\]; another spin="
    with pytest.raises(EquivError, match=message):
        MatrixTensorProduct("3o", "5o", "5e")
    assert MatrixTensorProduct("3o", "5o", "5e", spin=4).paths == [DegreePath(3, 1, 5, 1, 5, -1)]


@pytest.mark.parametrize("spin", [1, 2, 3, 5])
def test_matrices_of_any_size_that_holds_the_degrees(spin):
    product = MatrixTensorProduct("0e+1o+2e", "0e+1o+2e", "0e+1o+1e+2e+2o", spin=spin).double()
    torch.testing.assert_close(
        measured_coefficients(product), product.dense_coefficients(), atol=1e-13, rtol=0
    )


def test_matrices_that_are_too_small_are_refused():
    with pytest.raises(EquivError, match="hold degrees up to 2"):
        MatrixTensorProduct("0e+3o", "0e+1o", "3o", spin=1)
    with pytest.raises(EquivError, match=r"spin: expected a non-negative integer, got 1\.5"):
        MatrixTensorProduct("0e+3o", "0e+1o", "3o", spin=1.5)  # type: ignore[arg-type]


def test_large_matrices_approach_the_gaunt_product():
    product = MatrixTensorProduct("0e+1o+2e", "0e+1o+2e", spin=40)
    scale = math.sqrt((2 * 40 + 1) / (4 * math.pi))
    for p in product.paths:
        if (p.l1 + p.l2 + p.l3) % 2 == 0:
            ratio = scale * abs(product.coupling(p.l1, p.l2, p.l3))
            assert ratio == pytest.approx(gaunt_coefficient(p.l1, p.l2, p.l3), rel=0.01)
