from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from e3nn import o3

from equiv.errors import EquivError
from equiv.so3 import (
    irreps_matrix,
    natural_irreps,
    random_rotations,
    spherical_from_flat,
)
from equiv.tensor_products import (
    channelwise_paths,
    from_e3nn,
    measured_coefficients,
    tensor_product,
)

CHANNELWISE = channelwise_paths("4x0e+4x1o", "0e+1o+2e", "0e+1o+2e")

CASES = {
    "uvw": ("4x0e+3x1o+2x2e", "2x0e+1o+3x2e", "3x0e+2x1o+2x1e+2e+2x3o", dict(mode="uvw")),
    "uvw, one channel": ("4x0e+3x1o", "0e+1o+2e", "3x0e+2x1o+2x2e", dict(mode="uvw")),
    "uvu": ("4x0e+3x1o+4x1e", "2x0e+3x1o+2e", "4x0e+4x1o+3x1o+4x1e+3x2e", dict(mode="uvu")),
    "uvu, paths apart": (
        "4x0e+4x1o",
        "0e+1o+2e",
        CHANNELWISE[0],
        dict(instructions=CHANNELWISE[1]),
    ),
    "uuu": ("4x0e+4x1o+4x2e", "4x0e+4x1o+4x2e", "4x0e+4x1o+4x2e+4x1e", dict(mode="uuu")),
    "mixed": (
        "4x0e+4x1o",
        "4x0e+4x1o+2x1o",
        "4x0e+4x1o+5x1o+4x1e",
        dict(
            instructions=[
                (0, 0, 0, "uuu", True, 2.0),
                (0, 0, 0, "uuu", True, 2.0),
                (1, 1, 3, "uuu", False),
                (1, 0, 1, "uvu", False, 0.3),
                (1, 2, 0, "uvu", True),
                (1, 2, 0, "uvu", False),
                (0, 1, 2, "uvw", True),
                (1, 0, 2, "uvw", True, 0.5),
            ]
        ),
    ),
    "no weights": ("2x1o", "2x1o", "2x0e", dict(instructions=[(0, 0, 0, "uuu", False)])),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return CASES[request.param]


def inputs(product, *shape, weight_shape=(), seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(*shape, product.irreps_in1.dim, dtype=dtype, generator=g),
        torch.randn(*shape, product.irreps_in2.dim, dtype=dtype, generator=g),
        torch.randn(*weight_shape, product.weight_numel, dtype=dtype, generator=g),
    ]
    return [t.requires_grad_() for t in tensors]


@contextmanager
def double_precision() -> Iterator[None]:
    """e3nn rounds its constants to the default dtype, and keeps them so, when a product is made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def e3nn_product(ours, shared, **normalization):
    paths = [(p.in1, p.in2, p.out, p.mode, p.has_weight, p.path_weight) for p in ours.instructions]
    with double_precision():
        return o3.TensorProduct(
            ours.irreps_in1,
            ours.irreps_in2,
            ours.irreps_out,
            paths,
            internal_weights=False,
            shared_weights=shared,
            **normalization,
        )


def value_and_derivatives(function, tensors):
    z = function(*tensors)
    first = torch.autograd.grad((z**3).sum(), tensors, create_graph=True, allow_unused=True)
    first = [t for t in first if t is not None and t.numel()]
    norm = sum(t.square().sum() for t in first)
    second = torch.autograd.grad(norm, tensors, allow_unused=True)
    return [z, *first, *(t for t in second if t is not None and t.numel())]


def assert_same(one, other, tolerance=1e-12):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance * b.abs().max().item(), rtol=0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "normalization",
    [
        {},
        {"irrep_normalization": "norm", "path_normalization": "path"},
        {"irrep_normalization": "none", "path_normalization": "none"},
    ],
)
def test_equal_to_e3nn_and_the_reference_with_first_and_second_gradients(
    case, shared, normalization
):
    *irreps, options = case
    ours = tensor_product(*irreps, **options, **normalization, internal_weights=False).double()
    reference = tensor_product(
        *irreps, **options, **normalization, internal_weights=False, method="reference"
    ).double()
    theirs = e3nn_product(ours, shared, **normalization)
    assert ours.weight_numel == reference.weight_numel == theirs.weight_numel
    tensors = inputs(ours, 5, weight_shape=() if shared else (5,))
    own = tensors if ours.weight_numel else tensors[:2]
    came = value_and_derivatives(ours, own)
    assert_same(came, value_and_derivatives(reference, own))
    assert_same(came, value_and_derivatives(theirs, tensors))


@pytest.mark.parametrize("mode", ["uvw", "uvu", "uuu"])
def test_spherical_layout_gives_the_same_numbers_and_gradients(mode):
    channels = {"uvw": (4, 3, 5), "uvu": (4, 3, 4), "uuu": (4, 4, 4)}[mode]
    irreps = [natural_irreps(2, c) for c in channels]
    product = tensor_product(*irreps, mode=mode, internal_weights=False).double()
    tensors = inputs(product, 2, 3, weight_shape=(3,))

    def by_spherical(x1, x2, weight):
        x1, x2 = spherical_from_flat(x1, irreps[0]), spherical_from_flat(x2, irreps[1])
        return product.forward_spherical(x1, x2, weight)

    def by_flat(x1, x2, weight):
        return spherical_from_flat(product(x1, x2, weight), irreps[2])

    assert_same(
        value_and_derivatives(by_spherical, tensors), value_and_derivatives(by_flat, tensors)
    )


def test_spherical_layout_with_a_degree_spread_over_terms():
    irreps = ("2x1o+3x0e+1x1o", "0e+1o", "2x0e+2x1o")
    product = tensor_product(*irreps).double()
    x1, x2, _ = inputs(product, 4)
    came = product.forward_spherical(
        spherical_from_flat(x1, irreps[0]), spherical_from_flat(x2, irreps[1])
    )
    torch.testing.assert_close(came, spherical_from_flat(product(x1, x2), irreps[2]))


def test_rotations_and_reflections_commute_with_the_product(case):
    *irreps, options = case
    product = tensor_product(*irreps, **options).double()
    x1, x2, _ = inputs(product, 3)
    g = torch.Generator().manual_seed(1)
    for improper in (False, True):
        rotation = random_rotations(generator=g, improper=improper)
        d1, d2, d = (
            irreps_matrix(i, rotation)
            for i in (product.irreps_in1, product.irreps_in2, product.irreps_out)
        )
        expected = product(x1, x2) @ d.T
        torch.testing.assert_close(product(x1 @ d1.T, x2 @ d2.T), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3)])
def test_any_leading_shape_and_broadcasting(case, shape):
    *irreps, options = case
    product = tensor_product(*irreps, **options).double()
    x1, x2, _ = inputs(product, *shape)
    z = product(x1, x2)
    assert z.shape == (*shape, product.irreps_out.dim)
    rows = product(x1.reshape(-1, x1.shape[-1]), x2.reshape(-1, x2.shape[-1]))
    torch.testing.assert_close(z.reshape(rows.shape), rows, atol=1e-13, rtol=0)
    one = x2.detach().new_ones(x2.shape[-1])
    expected = product(x1, one.expand(*shape, -1))
    torch.testing.assert_close(product(x1, one), expected, atol=1e-13, rtol=0)


def test_strided_inputs_give_the_same_numbers(case):
    *irreps, options = case
    product = tensor_product(*irreps, **options).double()
    x1, x2, _ = inputs(product, 6)
    came = product(x1.T.contiguous().T, torch.stack([x2, x2], -1)[..., 0])
    torch.testing.assert_close(came, product(x1, x2), atol=1e-13, rtol=0)


def test_float32_agrees_with_float64_and_returns_to_it_exactly(case):
    *irreps, options = case
    product = tensor_product(*irreps, **options, internal_weights=False).double()
    tensors = inputs(product, 8)
    tensors = tensors if product.weight_numel else tensors[:2]
    exact = product(*tensors)
    rough = product.float()(*(t.float() for t in tensors))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(product.double()(*tensors), exact, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["uvw", "uvu", "mixed"])
def test_compiles_in_one_graph_with_the_same_values_and_gradients(name):
    torch.compiler.reset()
    *irreps, options = CASES[name]
    product = tensor_product(*irreps, **options, internal_weights=False).double()
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    tensors = inputs(product, 5, weight_shape=(5,))
    results = []
    for function in (compiled, product):
        z = function(*tensors)
        results.append([z, *torch.autograd.grad(z.square().sum(), tensors)])
    assert_same(*results)


def test_exports_with_any_number_of_rows():
    product = tensor_product("2x0e+2x1o", "0e+1o", "2x0e+2x1o")
    x1, x2, _ = inputs(product, 3, dtype=torch.float32)
    rows = {0: torch.export.Dim("rows")}
    with torch.no_grad():
        exported = torch.export.export(product, (x1, x2), dynamic_shapes=(rows, rows))
    x1, x2, _ = inputs(product, 5, dtype=torch.float32)
    torch.testing.assert_close(exported.module()(x1, x2), product(x1, x2))


@pytest.mark.parametrize(
    "irreps",
    [
        ("0x0e+2x1o", "1o+0x2e", "2x0e+0x3o"),
        ("2x0e+0x1o", "0e+0x1o", "2x0e"),
        ("0e", "", ""),
        ("", "0e", ""),
    ],
)
@pytest.mark.parametrize("method", ["clebsch_gordan", "reference"])
def test_terms_without_channels_are_passed_over(irreps, method):
    product = tensor_product(*irreps, method=method)
    x1, x2, _ = inputs(product, 3, dtype=torch.float32)
    z = product(x1, x2)
    assert z.shape == (3, product.irreps_out.dim)
    assert z.isfinite().all()
    assert (z != 0).all()


def test_weights_are_stored_and_restored():
    product = tensor_product("2x0e+1o", "0e+1o", "2x0e+1o")
    assert list(product.state_dict()) == ["weight"]
    other = tensor_product("2x0e+1o", "0e+1o", "2x0e+1o")
    other.load_state_dict(product.state_dict())
    torch.testing.assert_close(measured_coefficients(other), measured_coefficients(product))


def test_a_product_of_e3nn_goes_on_with_its_weights():
    with double_precision():
        theirs = o3.FullyConnectedTensorProduct("4x0e+3x1o", "2x0e+1o+2e", "3x0e+2x1o")
    ours = from_e3nn(theirs)
    assert ours.internal_weights
    x1, x2, _ = inputs(ours, 5)
    torch.testing.assert_close(ours(x1, x2), theirs(x1, x2), atol=1e-13, rtol=0)
    with torch.no_grad():
        theirs.weight.zero_()
    assert ours(x1, x2).abs().max() > 0


def test_a_product_of_e3nn_in_another_mode_is_refused():
    theirs = o3.TensorProduct("2x0e", "2x0e", "1x0e", [(0, 0, 0, "uvu<v", True)])
    with pytest.raises(EquivError, match="mode uvu<v has no counterpart here; known are uvw"):
        from_e3nn(theirs)


@pytest.mark.parametrize(
    ("mode", "in1", "in2", "out", "paths"),
    [
        ("uvv", "2x0e+3x1o", "2x1o+4x2e", "2x1o+4x2e", [(0, 0, 0), (0, 1, 1)]),
        ("uuw", "2x0e+3x1o", "3x1o+2x2e", "6x2e+4x1e", [(1, 0, 0), (0, 1, 0), (1, 0, 1)]),
        ("uvuv", "2x0e+3x1o", "3x1o+2x2e", "9x2e+6x1o+9x1e", [(1, 0, 0), (1, 1, 1), (1, 0, 2)]),
        ("uuu", "3x0e+3x1o", "3x1o+3x2e", "3x2e+3x1o+3x1e", [(1, 0, 0), (1, 1, 1), (1, 0, 2)]),
    ],
)
@pytest.mark.parametrize("weighted", [True, False])
def test_the_rarer_modes_are_those_of_e3nn(mode, in1, in2, out, paths, weighted):
    weighted = weighted or mode == "uuw"
    instructions = [(*path, mode, weighted) for path in paths]
    with double_precision():
        theirs = o3.TensorProduct(in1, in2, out, instructions)
    ours = from_e3nn(theirs)
    x1, x2, _ = inputs(ours, 3)
    torch.testing.assert_close(ours(x1, x2), theirs(x1, x2), atol=1e-13, rtol=0)
    dense = ours.dense_coefficients()
    torch.testing.assert_close(measured_coefficients(ours).detach(), dense, atol=1e-14, rtol=0)
    x1, x2 = x1.requires_grad_(), x2.requires_grad_()
    assert torch.autograd.gradcheck(ours, (x1, x2), fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, (x1, x2), fast_mode=True)


def test_blocks_of_rows_do_not_change_the_result_nor_its_gradients():
    channels, rows = 64, 700  # many blocks
    irreps = natural_irreps(2, channels)
    ours = tensor_product(irreps, irreps, irreps, mode="uuu").double()
    g = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(rows, irreps.dim, dtype=torch.float64, generator=g).requires_grad_()
        for _ in range(2)
    )
    z = ours(x, y)
    few = torch.cat([ours(x[n : n + 7], y[n : n + 7]) for n in range(0, rows, 7)])
    torch.testing.assert_close(z, few, atol=1e-12, rtol=0)
    seed = torch.randn(z.shape, dtype=torch.float64, generator=g)
    at_once = torch.autograd.grad(z, [x, y, ours.weight], seed)
    plain = torch.autograd.grad(few, [x, y, ours.weight], seed, create_graph=True)
    for a, b in zip(at_once, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
