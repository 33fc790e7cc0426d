import pytest
import torch

from equiv.errors import EquivError
from equiv.tensor_products import tensor_product


def product(**options):
    return tensor_product("2x0e+2x1o", "0e+1o", "2x0e+2x1o", **options)


def test_internal_weights_are_the_default_and_can_be_overridden():
    ours = product()
    x, y = torch.ones(3, 8), torch.ones(3, 4)
    assert ours.weight.shape == (ours.weight_numel,)
    torch.testing.assert_close(ours(x, y), ours(x, y, ours.weight))
    assert ours(x, y, torch.zeros(ours.weight_numel)).abs().max() == 0


def test_external_weights_are_no_parameters_and_may_differ_between_rows():
    ours = product(internal_weights=False)
    assert not list(ours.parameters())
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 8, generator=g), torch.randn(3, 4, generator=g)
    w = torch.randn(3, ours.weight_numel, generator=g)
    rows = torch.stack([ours(x[n], y[n], w[n]) for n in range(3)])
    torch.testing.assert_close(ours(x, y, w), rows)


def test_missing_or_misshapen_weights_are_refused():
    ours = product(internal_weights=False)
    x, y = torch.ones(3, 8), torch.ones(3, 4)
    with pytest.raises(EquivError, match=r"expected 16 weights \(weight\[\.\.\., 16\]\), got none"):
        ours(x, y)
    with pytest.raises(EquivError, match=r"expected 16 weights .* got shape \(3, 15\)"):
        ours(x, y, torch.ones(3, 15))
    fixed = tensor_product("1o", "1o", "0e", instructions=[(0, 0, 0, "uuu", False)])
    with pytest.raises(EquivError, match=r"expected 0 weights"):
        fixed(torch.ones(3), torch.ones(3), torch.ones(1))


def test_wrong_shapes_are_refused():
    ours = product()
    with pytest.raises(EquivError, match=r"x1: expected shape \[\.\.\., 8\] .*, got \(3, 7\)"):
        ours(torch.ones(3, 7), torch.ones(3, 4))
    with pytest.raises(EquivError, match=r"x2: expected shape \[\.\.\., 4\] .*, got \(\)"):
        ours(torch.ones(3, 8), torch.tensor(1.0))
    with pytest.raises(EquivError, match=r"leading shapes \(3,\) of x1, \(2,\) of x2 .* broadcast"):
        ours(torch.ones(3, 8), torch.ones(2, 4))
    with pytest.raises(
        EquivError, match=r"x1: expected shape \[\.\.\., 4, 2\] .*, got \(3, 2, 4\)"
    ):
        ours.forward_spherical(torch.ones(3, 2, 4), torch.ones(3, 4, 1))


def test_mixed_dtypes_are_refused():
    ours = product()
    with pytest.raises(EquivError, match=r"x1 is torch.float64, x2 is torch.float64 .*\.to\(torch"):
        ours(torch.ones(3, 8).double(), torch.ones(3, 4).double())


def test_unnatural_parity_has_no_spherical_layout():
    ours = tensor_product("1o", "1o", "1e")
    with pytest.raises(EquivError, match=r"irreps_in1: .*0 of degree 0"):
        ours.forward_spherical(torch.ones(3, 4, 1), torch.ones(3, 4, 1))


def test_printing_describes_the_product():
    text = repr(product())
    assert "2x0e+2x1o x 1x0e+1x1o -> 2x0e+2x1o, 16 internal weights, 4 paths" in text
