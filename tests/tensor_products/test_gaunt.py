"""The Gaunt product in all its forms: grids and Fourier series."""

import itertools

import pytest
import torch
from e3nn import o3

from equiv.errors import EquivError
from equiv.so3 import (
    gaunt_coefficient,
    gaunt_coefficients,
    irreps_matrix,
    natural_irreps,
    product_grid,
    random_rotations,
    spherical_harmonics,
)
from equiv.tensor_products import (
    GauntFourierTensorProduct,
    GauntGridTensorProduct,
    gaunt_grid,
    measured_coefficients,
    tensor_product,
)
from equiv.tensor_products.gaunt_grid import GRIDS, GridProduct

FORMS = {
    **{
        grid: lambda *irreps, grid=grid, **options: GauntGridTensorProduct(
            *irreps, grid=grid, **options
        ).double()
        for grid in ("product", "lebedev", "folded_product", "folded_lebedev", "separable")
    },
    **{
        f"fourier, {transform}": lambda *irreps, transform=transform, **options: (
            GauntFourierTensorProduct(*irreps, transform=transform, **options).double()
        )
        for transform in ("matrix", "fft")
    },
}
forms = pytest.mark.parametrize("form", FORMS)
SECTORS = [  # in1, in2, out, options
    ("2x0e+2x1o+2x2e", "2x0e+2x1o", "2x0e+2x1o+2x2e", {}),
    ("2x0e+2x1o+2x1e", "2x1o+2x2o", None, {}),
    ("3x1e+3x2e+3x0o", "1x0e+1x1o", "3x1e+3x1o+3x0o+3x2e", {}),
    ("1x0e+1x1e", "2x1o+2x2e", "2x2e+2x0o+2x1e", {}),
    ("2x0e+2x1e", "3x0e+3x1o", "2x1o+2x1e+2x2o", {"mode": "uvw", "rank": 2}),
]


def product_of(form, l1, l2, l3, channels=1, **options):
    irreps = (natural_irreps(l, channels) for l in (l1, l2, l3))
    return FORMS[form](*irreps, **options)


def normal(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.fixture(scope="module")
def integrals():
    """Integrals of all triples of harmonics up to degree 6, from their closed form."""
    return gaunt_coefficients(6, 6, 6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("way", ["kernel", "torch"])
def test_all_highest_degrees_up_to_six_agree_with_the_integrals(grid, way, integrals, monkeypatch):
    # every l1, l2 and l3, equal or not: each triple has its own grid
    if way == "torch":
        monkeypatch.setattr(gaunt_grid, "is_plain", lambda x: False)
    elif grid not in ("product", "lebedev"):
        pytest.skip("this form has no kernel")
    x, y = normal(3, 49, 1), normal(3, 49, 1, seed=1)
    expected = torch.zeros(7, 7, 3, 49, dtype=torch.float64)
    for l1, l2 in itertools.product(range(7), repeat=2):
        d1, d2 = (l1 + 1) ** 2, (l2 + 1) ** 2
        expected[l1, l2] = torch.einsum(
            "ni,nj,ijk->nk", x[:, :d1, 0], y[:, :d2, 0], integrals[:d1, :d2]
        )
    for l1, l2, l3 in itertools.product(range(7), repeat=3):
        d1, d2, d3 = ((l + 1) ** 2 for l in (l1, l2, l3))
        ones = [torch.ones(d, dtype=torch.float64) for d in (d1, d2, d3)]
        z = GRIDS[grid](l1 + l2 + l3, ones).double()(x[:, :d1], y[:, :d2])
        assert (z[:, :, 0] - expected[l1, l2, :, :d3]).abs().max() < 1e-12, (l1, l2, l3)


@forms
def test_degrees_up_to_six_agree_with_the_definition(form):
    for l1, l2 in itertools.product(range(7), repeat=2):
        if form == "fourier, fft" and l1 != l2:  # slow; one code for all
            continue
        all_l3 = {max(abs(l1 - l2) - 1, 0), (l1 + l2) // 2, min(l1 + l2, 6)}
        for l3 in all_l3 if form == "fourier, matrix" else {(l1 + l2) // 2}:
            product = product_of(form, l1, l2, l3, weighted=False)
            x, y = normal(3, product.irreps_in1.dim), normal(3, product.irreps_in2.dim, seed=1)
            dense = torch.einsum("ijk,ni,nj->nk", product.dense_coefficients(), x, y)
            error = (product(x, y) - dense).abs().max()
            assert error < 1e-12, (l1, l2, l3, error)


@pytest.mark.parametrize(
    ("l1", "l2", "l3"), [(1, 1, 1), (2, 2, 2), (3, 2, 1), (4, 4, 4), (2, 3, 5)]
)
def test_one_ring_or_one_meridian_fewer_is_wrong(l1, l2, l3):
    scales = [torch.ones((l + 1) ** 2, dtype=torch.float64) for l in (l1, l2, l3)]
    full = product_grid(l1 + l2 + l3)
    x, y = normal(20, (l1 + 1) ** 2, 1), normal(20, (l2 + 1) ** 2, 1, seed=1)
    right = GridProduct(full, scales).double()(x, y)
    for fewer in (
        product_grid(l1 + l2 + l3, rings=len(full.cosines) - 1),
        product_grid(l1 + l2 + l3, steps=len(full.azimuths) - 1),
    ):
        wrong = GridProduct(fewer, scales).double()(x, y)
        assert (wrong - right).abs().max() > 0.02 * right.abs().max()


def test_multiplying_functions_is_what_it_does():
    product = GauntGridTensorProduct("0e+1o+2e", "0e+1o", "0e+1o+2e+3o", weighted=False).double()
    x, y, points = normal(9), normal(4, seed=1), normal(50, 3, seed=2)
    scale1, scale2, scale = product.scale1(1), product.scale2(1), product.scale(1)
    f, h, fh = (
        spherical_harmonics(l, points, normalization="integral") @ c
        for l, c in ((2, scale1 * x), (1, scale2 * y), (3, product(x, y) / scale))
    )
    torch.testing.assert_close(f * h, fh, atol=1e-13, rtol=0)


def test_e3nn_with_fixed_path_weights_is_the_same_map():
    l_max, channels = 3, 2
    irreps = natural_irreps(l_max, channels)
    product = GauntGridTensorProduct(irreps, irreps, irreps, weighted=False)
    instructions = [
        (p.l1, p.l2, p.l3, "uuu", False, coefficient**2)
        for p, coefficient in product.path_coefficients().items()
    ]
    theirs = o3.TensorProduct(
        irreps, irreps, irreps, instructions, irrep_normalization="none", path_normalization="none"
    )
    x, y = normal(5, irreps.dim).float(), normal(5, irreps.dim, seed=1).float()
    torch.testing.assert_close(product(x, y), theirs(x, y), atol=2e-5, rtol=0)


@forms
@pytest.mark.parametrize(("in1", "in2", "out", "options"), SECTORS)
def test_sectors_and_weights_agree_with_the_dense_contraction(form, in1, in2, out, options):
    for weighted in (True, False) if "rank" not in options else (True,):
        product = FORMS[form](in1, in2, out, weighted=weighted, **options)
        measured = measured_coefficients(product).detach()
        dense = product.dense_coefficients()
        assert dense.abs().amax((0, 1)).min() > 0  # every output is really filled
        torch.testing.assert_close(measured, dense, atol=1e-13, rtol=0)


@forms
@pytest.mark.parametrize(("in1", "in2", "out", "options"), SECTORS[1:3] + SECTORS[4:])
def test_rotations_and_reflections_commute_with_the_product(form, in1, in2, out, options):
    product = FORMS[form](in1, in2, out, **options)
    x, y = normal(4, product.irreps_in1.dim), normal(4, product.irreps_in2.dim, seed=1)
    g = torch.Generator().manual_seed(2)
    rotation = random_rotations(1, generator=g)[0]
    for r in (rotation, -rotation):
        d1, d2, d = (
            irreps_matrix(irreps, r)
            for irreps in (product.irreps_in1, product.irreps_in2, product.irreps_out)
        )
        error = product(x @ d1.T, y @ d2.T) - product(x, y) @ d.T
        assert error.abs().max() < 1e-11


@forms
@pytest.mark.parametrize(("in1", "in2", "out", "options"), SECTORS[1:2] + SECTORS[4:])
def test_gradients_are_exact_to_second_order(form, in1, in2, out, options):
    if form == "fourier, fft":  # four transforms of complex numbers per evaluation: one is enough
        in1, in2, out, options = "1x0e+1x1o", "1x0e+1x1o", "1x0e+1x1o", {}
    product = FORMS[form](in1, in2, out, internal_weights=False, **options)
    x = normal(2, product.irreps_in1.dim).requires_grad_()
    y = normal(2, product.irreps_in2.dim, seed=1).requires_grad_()
    for shape in ((product.weight_numel,), (2, product.weight_numel)):
        w = normal(*shape, seed=2).requires_grad_()
        assert torch.autograd.gradcheck(product, (x, y, w), fast_mode=True)
        assert torch.autograd.gradgradcheck(product, (x, y, w), fast_mode=True)


@pytest.mark.parametrize("form", ["lebedev", "folded_lebedev", "separable", "fourier, matrix"])
@pytest.mark.parametrize("broadcast", [False, True])
def test_gradients_of_blocks_are_those_of_plain_operations(form, broadcast):
    irreps = natural_irreps(2, 4)
    product = FORMS[form](irreps, natural_irreps(1, 1 if broadcast else 4), irreps, weighted=False)
    (kernel,) = product.kernels.values()
    kernel.block = 12  # three rows at a time
    x, y = normal(10, 9, 4).requires_grad_(), normal(10, 4, 1 if broadcast else 4).requires_grad_()
    seed, u, v = normal(10, 9, 4, seed=3).requires_grad_(), normal(10, 9, 4), normal(*y.shape)
    results = []
    for f in (kernel, kernel.plain):
        z = f(x, y)
        gx, gy = torch.autograd.grad(z, [x, y], seed, create_graph=True)
        third = torch.autograd.grad((gx * u).sum() + (gy * v).sum(), [x, y, seed])
        one = torch.autograd.grad(f(x, y.detach()), x, seed, create_graph=True)[0]
        results.append([z, gx, gy, one, *third])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_every_path_alone_has_the_gradients_of_the_definition():
    irreps = natural_irreps(2, 1)
    product = GauntGridTensorProduct(irreps, irreps, irreps, internal_weights=False).double()
    x, y = normal(9).requires_grad_(), normal(9, seed=1).requires_grad_()
    z_seed = normal(9, seed=3)
    for p, coefficient in product.path_coefficients().items():
        w = torch.zeros(9, dtype=torch.float64)
        w[[p.l1, 3 + p.l2, 6 + p.l3]] = 1
        w.requires_grad_()
        dense = product.dense_coefficients(w.detach())
        assert dense.norm() == pytest.approx(abs(coefficient), rel=1e-12)
        ours = torch.autograd.grad(product(x, y, w), [x, y], z_seed)
        torch.testing.assert_close(ours[0], torch.einsum("ijk,j,k->i", dense, y, z_seed))
        torch.testing.assert_close(ours[1], torch.einsum("ijk,i,k->j", dense, x, z_seed))


@forms
def test_high_degrees_keep_their_accuracy(form):
    product = product_of(form, 12, 12, 12, weighted=False)
    other = product_of("product", 12, 12, 12, weighted=False)
    x, y = normal(2, 169), normal(2, 169, seed=1)
    expected = other(x, y)
    torch.testing.assert_close(product(x, y), expected, atol=1e-12, rtol=0)
    single = product.float()(x.float(), y.float()).double()
    assert (single - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize(("l1", "l2", "l3"), [(1, 1, 1), (4, 4, 4), (3, 2, 5)])
def test_outputs_have_unit_variance(l1, l2, l3):
    product = GauntGridTensorProduct(*(natural_irreps(l, 20) for l in (l1, l2, l3)), weighted=False)
    x, y = normal(2000, product.irreps_in1.dim), normal(2000, product.irreps_in2.dim, seed=1)
    z = product(x.float(), y.float())
    for block in product.irreps_out.slices():
        assert z[:, block].var().item() == pytest.approx(1, abs=0.1)


def test_shapes_of_all_kinds():
    product = FORMS["lebedev"]("3x0e+3x1o", "0e+1o", "3x0e+3x1o", internal_weights=False)
    n = product.weight_numel
    x, y, w = normal(5, 2, 12), normal(2, 4, seed=1), normal(5, 1, n, seed=2)
    z = product(x, y, w)
    assert z.shape == (5, 2, 12)
    torch.testing.assert_close(z[3, 1], product(x[3, 1], y[1], w[3, 0]))
    assert product(x[:0], y, w[:0]).shape == (0, 2, 12)
    strided = normal(12, 2, 5).permute(2, 1, 0)
    torch.testing.assert_close(product(strided, y, w), product(strided.contiguous(), y, w))
    empty = normal(0, 12).requires_grad_()
    product(empty, normal(0, 4), w[0, 0]).sum().backward()
    assert empty.grad is not None
    assert empty.grad.shape == (0, 12)


def test_stacks_of_both_parities_and_the_flat_layout_are_the_same_product():
    product = FORMS["lebedev"]("2x0e+2x1o+2x1e", "2x1o+2x2o", "2x0e+2x1o+2x1e+2x2e+2x2o")
    x, y = normal(4, 14), normal(4, 16, seed=1)
    stacks = product.forward_sectors(product.sectors1.split(x), product.sectors2.split(y))
    torch.testing.assert_close(product.sectors.join(stacks), product(x, y))
    natural, _ = product.sectors1.split(x)
    with pytest.raises(
        EquivError, match=r"x1: expected \[\.\.\., 4, 2\] for the pseudo part .*None"
    ):
        product.forward_sectors((natural, None), product.sectors2.split(y))


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(
        EquivError, match=r"cannot reach 1e from '1x1o' x '1x1o', only 0e, 2e\. .*'matrix'"
    ):
        tensor_product("1o", "1o", "1e", method="gaunt_grid")
    assert str(tensor_product("1o", "1o", method="gaunt_grid").irreps_out) == "1x0e+1x2e"
    with pytest.raises(EquivError, match="'uuu' needs three equal numbers"):
        tensor_product("2x0e", "3x0e", "2x0e", method="gaunt_grid")
    with pytest.raises(EquivError, match="mode: expected one of uuu, uvu, uvv, uvw, got 'uuw'"):
        tensor_product("2x0e", "2x0e", method="gaunt_grid", mode="uuw")
    with pytest.raises(EquivError, match="needs weights to mix channels"):
        tensor_product("2x0e", "2x0e", method="gaunt_grid", mode="uvw", weighted=False)
    with pytest.raises(EquivError, match=r"grid: expected one of .*mean 'lebedev'"):
        tensor_product("2x0e", "2x0e", method="gaunt_grid", grid="lebedew")


def test_the_structure_constants_are_those_of_the_integral():
    product = GauntGridTensorProduct("0e+1o+2e", "0e+1o+2e", weighted=False)
    for p, coefficient in product.path_coefficients().items():
        folded = product.scale1(1)[p.l1**2] * product.scale2(1)[p.l2**2]
        folded *= product.scale(1)[p.l3**2] * gaunt_coefficient(p.l1, p.l2, p.l3)
        assert coefficient == pytest.approx(folded.item(), rel=1e-14)
    assert product.path_coefficients().keys() == set(product.paths)


@forms
def test_products_are_traced_in_one_graph(form):
    product = product_of(form, 2, 1, 2, channels=2).float()
    traced = torch.compile(product, fullgraph=True, dynamic=True, backend="eager")
    for rows in (3, 4):
        x, y = (normal(rows, i.dim).float() for i in (product.irreps_in1, product.irreps_in2))
        torch.testing.assert_close(traced(x, y), product(x, y), atol=1e-5, rtol=0)
