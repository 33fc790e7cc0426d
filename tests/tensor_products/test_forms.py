"""Kernels against definitions: every layout, number of channels and kind of weights."""

import copy
import math
import pickle

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import equiv.native
from equiv.so3 import natural_irreps, wigner_3j
from equiv.tensor_products import (
    ClebschGordanTensorProduct,
    GauntManyBodyProduct,
    clebsch_gordan,
    gaunt_grid,
    many_body_grid,
    tensor_product,
)
from equiv.tensor_products.coupling_kernel import coupling_library

MODULES = (clebsch_gordan, gaunt_grid, many_body_grid)

needs_compiler = pytest.mark.skipif(
    equiv.native.find_compiler() is None, reason="needs a C++ compiler (g++ or clang++)"
)
PRODUCTS = {  # in1, in2, out, method, options
    "uuu": ("5x0e+5x1o+5x2e", "5x0e+5x1o+5x2e", "5x0e+5x1o+5x1e", "clebsch_gordan", "uuu"),
    "uuu of any order": ("3x2e+3x0e+3x1e", "3x1o+3x0e", "3x1o+3x1e+3x3o", "clebsch_gordan", "uuu"),
    "uuu, two multiplicities": ("70x0e+3x1o", "70x0e+3x1o", "3x0e+70x0e", "clebsch_gordan", "uuu"),
    "uvu with harmonics": ("9x0e+9x1o", "0e+1o+2e", "9x0e+9x1o+9x2e", "clebsch_gordan", "uvu"),
    "uvv": ("0e+1o", "16x0e+16x1o", "16x1o+16x0e", "clebsch_gordan", "uvv"),
    "grid": ("6x0e+6x1o+6x2e", "6x0e+6x1o", "6x0e+6x1o+6x2e", "gaunt_grid", None),
    "grid, 72 channels": ("72x1o+72x0e", "72x0e+72x1o", "72x2e+72x0e", "gaunt_grid", None),
    "grid, degrees apart": ("8x2e", "8x0e+8x3o", "8x1o+8x2e+8x5o", "gaunt_grid", None),
    "grid with harmonics": ("7x0e+7x1o", "0e+1o+2e", "7x0e+7x1o+7x3o", "gaunt_grid", None),
    "grid of a single function": ("1o", "5x0e+5x2e", "5x1o+5x3o", "gaunt_grid", None),
}
products = pytest.mark.parametrize("case", PRODUCTS)


def product_of(case, **options):
    in1, in2, out, method, mode = PRODUCTS[case]
    return tensor_product(in1, in2, out, method=method, mode=mode, **options).double()


def normal(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.fixture(params=["kernel", "torch"])
def way(request, monkeypatch):
    if request.param == "torch":
        for module in MODULES:
            monkeypatch.setattr(module, "is_plain", lambda x: False)
    elif equiv.native.find_compiler() is None:
        pytest.skip("needs a C++ compiler (g++ or clang++)")
    return request.param


def derivatives(function, tensors):
    """The value, first derivatives, and derivatives of their square."""
    z = function(*tensors)
    first = torch.autograd.grad(z.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    return [z, *first, *second]


def assert_same(some, others):
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12 * max(1, b.abs().max().item()), rtol=0)


@products
@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "by row"])
def test_products_and_derivatives_are_those_of_the_definition(way, case, rows, shared):
    product = product_of(case, internal_weights=False)
    x, y = normal(rows, product.irreps_in1.dim), normal(rows, product.irreps_in2.dim, seed=1)
    w = normal(*(() if shared else (rows,)), product.weight_numel, seed=2)
    tensors = [t.requires_grad_() for t in (x, y, w)]
    assert_same(
        derivatives(product, tensors),
        derivatives(lambda x, y, w: by_paths(product, x, y, w), tensors),
    )


def by_paths(product, x, y, w):
    """The definition of a product, path by path."""
    w = w.expand(len(x), -1)
    ins = [_terms(irreps, t) for irreps, t in ((product.irreps_in1, x), (product.irreps_in2, y))]
    out = [x.new_zeros(len(x), mul, ir.dim) for mul, ir in product.irreps_out]
    for i, j, k, factor, weight in _paths(product, w):
        l1, l2, l3 = (
            irreps[n].ir.l
            for irreps, n in (
                (product.irreps_in1, i),
                (product.irreps_in2, j),
                (product.irreps_out, k),
            )
        )
        coupled = torch.einsum(
            "nuij,ijk->nuk",
            ins[0][i][:, :, :, None] * ins[1][j][:, :, None, :],
            wigner_3j(l1, l2, l3).to(x),
        )
        out[k] = out[k] + factor * weight[:, :, None] * coupled
    return torch.cat([t.flatten(1) for t in out], dim=1)


def _terms(irreps, t):
    parts = t.split([mul * ir.dim for mul, ir in irreps], dim=1)
    return [part.unflatten(1, (mul, ir.dim)) for part, (mul, ir) in zip(parts, irreps, strict=True)]


def _paths(product, w):
    """Terms of inputs and result, factor and weights ``[rows, channels]`` of every path."""
    if isinstance(product, ClebschGordanTensorProduct):
        sizes = [math.prod(shape) for shape in product.weight_shapes]
        for path, factor, weight in zip(
            product.instructions, product.coefficients, w.split(sizes, dim=1), strict=True
        ):
            yield path.in1, path.in2, path.out, factor, weight
        return
    sectors = (product.sectors1, product.sectors2, product.sectors)
    weights = w.split([len(s.rows) * s.channels for s in sectors], dim=1)
    a, b, c = (
        part.unflatten(1, (len(s.rows), s.channels))
        for part, s in zip(weights, sectors, strict=True)
    )
    row1, row2, row = ({l: n for n, (_, l) in enumerate(s.rows)} for s in sectors)
    term1, term2, term = ({l: n for n, (_, l, _, _) in enumerate(s.terms)} for s in sectors)
    for p, factor in product.path_coefficients().items():
        weight = a[:, row1[p.l1]] * b[:, row2[p.l2]] * c[:, row[p.l3]]
        yield term1[p.l1], term2[p.l2], term[p.l3], factor, weight


@pytest.mark.parametrize("method", ["clebsch_gordan", "gaunt_grid"])
@pytest.mark.parametrize("channels", [1, 8, 48, 64, 100])
def test_both_layouts_agree_for_any_number_of_channels(method, channels):
    irreps = natural_irreps(2, channels)
    mode = "uuu" if method == "clebsch_gordan" else None
    product = tensor_product(irreps, irreps, irreps, method=method, mode=mode).double()
    x, y = normal(13, 9, channels), normal(13, 9, channels, seed=1)

    def flat(t):
        parts = t.split([1, 3, 5], dim=-2)
        return torch.cat([part.mT.flatten(-2) for part in parts], dim=-1)

    torch.testing.assert_close(
        flat(product.forward_spherical(x, y)), product(flat(x), flat(y)), atol=1e-12, rtol=0
    )


@products
def test_single_precision_and_two_threads_agree_with_double(case):
    product = product_of(case)
    x, y = normal(300, product.irreps_in1.dim), normal(300, product.irreps_in2.dim, seed=1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            z = product(x.requires_grad_(), y)
            results.append([z, *torch.autograd.grad(z.sum(), [x, product.weight])])
    finally:
        torch.set_num_threads(before)
    assert_same(*results)
    rough = product.float()(x.float(), y.float())
    torch.testing.assert_close(rough.double(), results[0][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["uuu", "grid"])
def test_an_operand_may_depend_on_another(way, case):
    product = product_of(case, internal_weights=False)
    x, matrix = normal(4, product.irreps_in1.dim), normal(product.irreps_in1.dim, 6, seed=5)
    matrix = matrix.new_ones(product.irreps_in1.dim, product.irreps_in2.dim) / 9
    w = normal(product.weight_numel, seed=2)
    dense = product.dense_coefficients(w)
    x.requires_grad_()
    one = derivatives(lambda x: product(x, x @ matrix, w), [x])
    other = derivatives(lambda x: torch.einsum("ijk,ni,nj->nk", dense, x, x @ matrix), [x])
    assert_same(one, other)


@pytest.mark.parametrize("case", ["uuu", "grid"])
def test_copies_and_pickles_forget_addresses(case):
    product = product_of(case)
    x, y = normal(3, product.irreps_in1.dim), normal(3, product.irreps_in2.dim)
    z = product(x, y)
    for other in (copy.deepcopy(product), pickle.loads(pickle.dumps(product))):
        torch.testing.assert_close(other(x, y), z, atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["real", "symbolic"])
@pytest.mark.parametrize("case", ["uuu", "grid"])
def test_tracers_see_operations_and_not_numbers(case, mode):
    product = product_of(case)
    shapes = (4, product.irreps_in1.dim), (4, product.irreps_in2.dim)
    given = [normal(*shape) for shape in shapes]
    traced = make_fx(lambda x, y: product(x, y), tracing_mode=mode, _allow_non_fake_inputs=True)(
        *given
    )
    x, y = (normal(*s, seed=7) for s in shapes)
    torch.testing.assert_close(traced(x, y), product(x, y), atol=1e-12, rtol=0)


@needs_compiler
def test_without_a_compiler_the_products_are_the_same(monkeypatch):
    product = product_of("uuu")
    x, y = normal(3, product.irreps_in1.dim), normal(3, product.irreps_in2.dim)
    assert coupling_library(torch.float64) is not None
    fast = product(x, y)
    monkeypatch.setattr("equiv.tensor_products.couplings.coupling_library", lambda dtype: None)
    torch.testing.assert_close(product(x, y), fast, atol=1e-13, rtol=0)


@pytest.mark.parametrize(("degree", "correlation"), [(0, 2), (1, 3), (2, 4), (3, 3)])
def test_powers_and_their_derivatives_are_those_of_plain_operations(degree, correlation):
    product = GauntManyBodyProduct(
        degree, min(degree, 1), 5, correlation=correlation, num_elements=2
    ).double()
    x = normal(9, (degree + 1) ** 2, 5).requires_grad_()

    def gradient(function):
        z = function(x)
        return z, *torch.autograd.grad(z.square().sum(), x, create_graph=True)

    def three(function):
        z, first = gradient(function)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        (third,) = torch.autograd.grad(second.square().sum(), x)
        last = torch.autograd.grad(gradient(function)[1].square().sum(), x)  # without a graph
        return [z, first, second, third, *last]

    by_kernel = three(lambda x: torch.stack(product.powers(x), dim=1))
    assert_same(by_kernel, three(product._stacked))
