"""The Gaunt product with weights folded in, on many rows and channels, against plain code."""

import pytest
import torch

from equiv.so3 import Irreps
from equiv.tensor_products import tensor_product

# Sizes on both sides of every branch: few and many channels, one block of rows and several.
CASES = [(1, 8, 3), (2, 8, 1000), (2, 64, 1000), (3, 16, 700), (4, 64, 300), (1, 64, 2500)]


def natural(degree, channels):
    return Irreps([(channels, (l, (-1) ** l)) for l in range(degree + 1)])


def plain(product, x, y, w):
    """The same product in plain operations: weights, values on a grid, weights."""
    a, b, c = w.split([n for n in _sizes(product, x)])
    scale = [part.view(-1, x.shape[2]).repeat_interleave(_repeats(x), 0) for part in (a, b, c)]
    (kernel,) = product.kernels.values()
    return kernel.plain(x * scale[0], y * scale[1]) * scale[2]


def _sizes(product, x):
    terms = round(x.shape[1] ** 0.5)
    return [terms * x.shape[2]] * 3


def _repeats(x):
    return torch.tensor([2 * l + 1 for l in range(round(x.shape[1] ** 0.5))])


@pytest.mark.parametrize("spherical", [True, False], ids=["spherical", "flat"])
@pytest.mark.parametrize(("degree", "channels", "rows"), CASES)
def test_product_and_gradients_are_those_of_plain_operations(degree, channels, rows, spherical):
    generator = torch.Generator().manual_seed(rows)
    irreps = natural(degree, channels)
    product = tensor_product(irreps, irreps, irreps, method="gaunt_grid").double()
    shape = (rows, (degree + 1) ** 2, channels)
    x, y, z = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    w = product.weight
    x.requires_grad_()
    y.requires_grad_()
    if spherical:
        result = product.forward_spherical(x, y)
    else:
        from equiv.so3 import flat_from_spherical, spherical_from_flat

        flat = product(flat_from_spherical(x, irreps), flat_from_spherical(y, irreps))
        result = spherical_from_flat(flat, irreps)
    expected = plain(product, x, y, w)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-11)
    ours = torch.autograd.grad((result * z).sum(), [x, y, w])
    theirs = torch.autograd.grad((expected * z).sum(), [x, y, w])
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-9)


def test_results_do_not_share_memory_with_later_ones():
    irreps = natural(2, 64)
    product = tensor_product(irreps, irreps, irreps, method="gaunt_grid")
    x, y = torch.randn(2, 500, 9, 64)
    first = product.forward_spherical(x, y)
    kept = first.clone()
    product.forward_spherical(y, torch.randn(500, 9, 64))
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


def test_several_results_can_be_differentiated_together():
    irreps = natural(2, 16)
    product = tensor_product(irreps, irreps, irreps, method="gaunt_grid").double()
    x, y, u = torch.randn(3, 300, 9, 16, dtype=torch.float64)
    x.requires_grad_()
    both = product.forward_spherical(product.forward_spherical(x, y), u).sum()
    (ours,) = torch.autograd.grad(both, x)
    w = product.weight
    (theirs,) = torch.autograd.grad(plain(product, plain(product, x, y, w), u, w).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-10)
