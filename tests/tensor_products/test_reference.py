import math

import pytest
import torch

from equiv.errors import EquivError
from equiv.tensor_products import Path, ReferenceTensorProduct, measured_coefficients


def test_dot_and_cross_product_by_hand():
    product = ReferenceTensorProduct(
        "1o", "1o", "0e+1e", irrep_normalization="none", internal_weights=False
    )
    x = torch.tensor([1.0, 2.0, 3.0])
    y = torch.tensor([-1.0, 0.5, 2.0])
    z = product(x, y, torch.tensor([2.0, 3.0]))
    assert z[0].item() == pytest.approx(2 * (-1 + 1 + 6) / math.sqrt(3))
    expected = 3 * torch.linalg.cross(x, y) / math.sqrt(6)
    torch.testing.assert_close(z[1:], expected)


def test_channels_by_hand():
    product = ReferenceTensorProduct("2x0e", "3x0e", "1x0e", internal_weights=False)
    x, y, w = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0, 7.0]), torch.arange(6.0)
    expected = torch.einsum("u,v,uv->", x, y, w.view(2, 3)) / math.sqrt(6)
    torch.testing.assert_close(product(x, y, w), expected.view(1))


def test_the_dense_array_is_the_map():
    product = ReferenceTensorProduct(
        "2x0e+1o",
        "2x0e+1o",
        "2x0e+2x1o",
        instructions=[Path(0, 0, 0, "uuu", False), Path(0, 1, 1, "uvw"), Path(1, 0, 1, "uvw")],
    ).double()
    k = measured_coefficients(product)
    assert k.shape == (5, 5, 8)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, dtype=torch.float64, generator=g)
    y = torch.randn(7, 5, dtype=torch.float64, generator=g)
    expected = torch.einsum("ijk,ni,nj->nk", k, x, y)
    torch.testing.assert_close(product(x, y), expected, atol=1e-14, rtol=0)


def test_a_large_product_is_refused():
    with pytest.raises(EquivError, match=r"would need 2 GiB; .*use method='clebsch_gordan'"):
        ReferenceTensorProduct("128x0e", "1x0e", "128x0e")
