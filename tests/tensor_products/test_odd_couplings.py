"""What the products with odd couplings, matrix and vector_signal, have in common."""

import pytest
import torch

from equiv import EquivError
from equiv.so3 import (
    flat_from_spherical,
    irreps_matrix,
    natural_irreps,
    random_rotations,
    spherical_from_flat,
)
from equiv.tensor_products.matrix import MatrixTensorProduct
from equiv.tensor_products.reference import measured_coefficients
from equiv.tensor_products.vector_signal import VectorSignalTensorProduct

KINDS = (MatrixTensorProduct, VectorSignalTensorProduct)
NATURAL = "2x0e+2x1o+2x2e"
BOTH = "2x0e+2x0o+2x1o+2x1e+2x2e+2x2o"
CASES = {
    "natural": (NATURAL, NATURAL, NATURAL),
    "natural to both": (NATURAL, NATURAL, BOTH.replace("2x0o+", "")),
    "natural to pseudo": (NATURAL, NATURAL, "2x1e+2x2o+2x3e"),
    "natural x pseudo": (NATURAL, "2x0o+2x1e+2x2o", None),
    "pseudo x pseudo": ("2x1e+2x2o", "2x0o+2x1e", None),
    "both x natural": (BOTH, "2x1o+2x3o", BOTH),
    "both x both": (BOTH, BOTH, None),
    "both x pseudo": (BOTH, "2x1e", BOTH),
    "one channel": (BOTH, "0e+1o+2e", BOTH),
    "one channel first": ("0e+1o", BOTH, BOTH),
    "degrees missing": ("2x2e+2x1e", "2x0e+2x3o", "2x3o+2x5o+2x4o"),
    "one irrep over two terms": ("2x1o+1x0e+1x0e", "2x1o", "2x1e+1x1o+1x1o"),
}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def inputs(product, *lead, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = [product.irreps_in1.dim, product.irreps_in2.dim, product.weight_numel]
    return [torch.randn(*lead, n, generator=g, dtype=torch.float64) for n in shapes]


@pytest.mark.parametrize("case", CASES)
def test_it_is_its_definition(kind, case):
    product = kind(*CASES[case]).double()
    difference = measured_coefficients(product) - product.dense_coefficients()
    assert difference.abs().max() < 1e-13 * product.dense_coefficients().abs().max()


def test_mixed_channels_are_their_definition(kind):
    product = kind(BOTH, "3x0e+3x1o", "4x1o+4x1e", mode="uvw", rank=5).double()
    torch.testing.assert_close(
        measured_coefficients(product), product.dense_coefficients(), atol=1e-13, rtol=0
    )


@pytest.mark.parametrize("l1", range(7))
def test_all_highest_degrees_up_to_six(kind, l1):
    """Every l1, l2 and l3, equal or not: all outputs of two stacks, up to degree l3."""
    for l2 in range(7):
        degrees = natural_irreps(l1, 1), natural_irreps(l2, 1)
        everything = kind(*degrees, weighted=False).irreps_out
        for l3 in range(min(l1 + l2, 6) + 1):
            out = [term for term in everything if term.ir.l <= l3]
            product = kind(*degrees, out, weighted=False).double()
            x, y, _ = inputs(product, 3)
            z = torch.einsum("ijk,ni,nj->nk", product.dense_coefficients(), x, y)
            assert (product(x, y) - z).abs().max() < 1e-12 * z.abs().max(), (l1, l2, l3)


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_rotations_and_reflections_commute_with_it(kind, case, improper):
    product = kind(*CASES[case]).double()
    x, y, _ = inputs(product, 5)
    rotation = random_rotations(generator=torch.Generator().manual_seed(1), improper=improper)
    d1, d2, d = (
        irreps_matrix(irreps, rotation)
        for irreps in (product.irreps_in1, product.irreps_in2, product.irreps_out)
    )
    z = product(x, y)
    torch.testing.assert_close(product(x @ d1.mT, y @ d2.mT), z @ d.mT, atol=1e-11, rtol=0)


@pytest.mark.parametrize("weights", ["internal", "shared", "external"])
@pytest.mark.parametrize("mode", ["uuu", "uvu", "uvw"])
def test_first_and_second_derivatives(kind, mode, weights):
    in2 = "0e+1o+1e" if mode == "uvu" else "2x0e+2x1o+2x1e"
    internal = weights == "internal"
    product = kind("2x0e+2x1o", in2, "2x1o+2x1e", mode=mode, internal_weights=internal).double()
    x, y, weight = inputs(product, 2)
    arguments = [x, y] if internal else [x, y, weight if weights == "external" else weight[0]]
    for argument in arguments:
        argument.requires_grad_()
    assert torch.autograd.gradcheck(product, arguments)
    assert torch.autograd.gradgradcheck(product, arguments)


def test_gradients_of_every_path_and_operand(kind):
    """Each path alone, by switching the others off, against the dense definition."""
    product = kind("0e+1o+2e", "0e+1o+2e", "0e+1o+2e+1e+2o", internal_weights=False).double()
    rows = (product.sectors1.rows, product.sectors2.rows, product.sectors.rows)
    for path in product.paths:
        keys = ((path.sign1, path.l1), (path.sign2, path.l2), (path.sign3, path.l3))
        weight = torch.cat(
            [
                torch.tensor([1.5 if row == key else 0.0 for row in some], dtype=torch.float64)
                for some, key in zip(rows, keys, strict=True)
            ]
        )
        x, y, _ = inputs(product, 3)
        x.requires_grad_()
        y.requires_grad_()
        dense = torch.einsum("ijk,ni,nj->nk", product.dense_coefficients(weight), x, y)
        results = []
        for z in (product(x, y, weight), dense):
            first = torch.autograd.grad(z.square().sum(), (x, y), create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, y))
            results.append([z, *first, *second])
        assert results[0][0].abs().max() > 1e-3
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("case", ["natural to both", "both x both", "degrees missing"])
def test_outputs_have_unit_variance(kind, case):
    product = kind(*CASES[case], weighted=False).double()
    variance = product.dense_coefficients().square().sum((0, 1))
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-12, rtol=0)
    x, y, _ = inputs(product, 20000)
    assert (product(x, y).var(0) - 1).abs().max() < 0.15


def test_single_precision(kind):
    l = 6
    out = natural_irreps(l, 2) + "+".join(f"2x{k}{'oe'[k % 2]}" for k in range(1, l + 1))
    product = kind(natural_irreps(l, 2), natural_irreps(l, 2), out)
    x, y, _ = inputs(product, 20)
    z = product(x.float(), y.float())
    expected = product.double()(x, y)
    assert (z - expected).abs().max() < 1e-5 * expected.square().mean().sqrt()


@pytest.mark.parametrize("lead", [(), (0,), (1,), (2, 3)])
def test_leading_shapes(kind, lead):
    product = kind(*CASES["natural to both"]).double()
    x, y, _ = inputs(product, *lead)
    z = product(x, y)
    assert z.shape == (*lead, product.irreps_out.dim)
    if len(lead) == 2:
        torch.testing.assert_close(z[1, 2], product(x[1, 2], y[1, 2]), atol=1e-13, rtol=0)


def test_layouts_and_strides_do_not_matter(kind):
    product = kind(NATURAL, NATURAL, NATURAL).double()
    x, y, _ = inputs(product, 4)
    spherical = [spherical_from_flat(t, NATURAL) for t in (x, y)]
    z = product(x, y)
    for a, b in (spherical, [t.mT.contiguous().mT for t in spherical]):
        out = product.forward_spherical(a, b)
        assert out.is_contiguous()
        torch.testing.assert_close(flat_from_spherical(out, NATURAL), z, atol=1e-13, rtol=0)
    strided = [torch.stack([t, t], dim=-1)[..., 0] for t in (x, y)]
    torch.testing.assert_close(product(*strided), z, atol=1e-13, rtol=0)
    sectors = product.forward_sectors((spherical[0], None), (spherical[1], None))
    torch.testing.assert_close(sectors[0], product.forward_spherical(*spherical))
    assert sectors[1] is None


@pytest.mark.parametrize("case", ["natural to both", "both x both"])
def test_it_compiles_whole(kind, case):
    product = kind(*CASES[case])
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    x, y, _ = (t.float() for t in inputs(product, 3))
    results = []
    for function in (compiled, product):
        x.requires_grad_()
        z = function(x, y)
        results.append([z, *torch.autograd.grad(z.square().sum(), (x, product.weight))])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_what_parity_forbids_is_refused(kind):
    with pytest.raises(EquivError, match=r"cannot reach 0o from .* only 0e, 1o, 1e, 2e"):
        kind("0e+1o", "0e+1o", "0o+1o")
