"""The fused kernels beside the sums they stand for, to the third derivative."""

import pytest
import torch

from equiv.native import find_compiler
from equiv.position_orientation import (
    blockwise,
    fiber_form,
    gelu,
    normalization,
    orientation_grid,
    projected_form,
    zonal_form,
)
from equiv.position_orientation.fiber_form import mix_orientations
from equiv.position_orientation.projected_form import projected_convolution
from equiv.position_orientation.zonal_form import zonal_convolution

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
CHANNELS, DEGREES, FUNCTIONS = 8, 4, 5
GRID = orientation_grid("octahedron")


@pytest.fixture
def always(monkeypatch):
    """Kernels for the smallest work, in many small blocks."""
    for module in (fiber_form, projected_form, zonal_form):
        monkeypatch.setattr(module, "LEAST_WORK", 0)
    monkeypatch.setattr(projected_form, "BLOCK", 4 * GRID.num * CHANNELS)
    monkeypatch.setattr(normalization, "LEAST_SIZE", 0)
    monkeypatch.setattr(gelu, "CHUNK", 16)


def derivatives(function, inputs, order):
    """A function and its derivatives, mixed so that every one of them counts."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = function(*inputs)
    results, level = [y], [y]
    for k in range(1, order + 1):
        weights = [torch.cos(torch.arange(t.numel()).to(t)).view_as(t) for t in level]
        total = sum((w * t + 0.3 * t * t).sum() for w, t in zip(weights, level, strict=True))
        level = torch.autograd.grad(total, inputs, create_graph=k < order)
        results += level
    return results


def assert_same(fused, plain, inputs, order=3):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        given = [x.to(dtype) for x in inputs]
        pairs = zip(derivatives(fused, given, order), derivatives(plain, given, order), strict=True)
        for a, b in pairs:
            assert a.shape == b.shape
            assert (a - b).abs().max() <= tolerance * b.abs().max()


def cases(cluster):
    n, rows, pairs = cluster.neighbors, cluster.atoms, len(cluster.neighbors.first)
    x = cluster.normal(rows, GRID.num, CHANNELS)
    zonal = cluster.normal(pairs, GRID.num, DEGREES)
    radial = cluster.normal(pairs, DEGREES, CHANNELS)
    weight = cluster.normal(CHANNELS, FUNCTIONS)
    basis = cluster.normal(2 * pairs, GRID.num, FUNCTIONS)
    return {
        "zonal": (lambda *a: zonal_convolution(*a, n), [x, zonal, radial]),
        "projected": (
            lambda *a: projected_convolution(*a, n, GRID.antipodes),
            [x, basis[:pairs], weight],
        ),
        "projected both ways": (
            lambda *a: projected_convolution(*a, n, None),
            [x, basis, weight],
        ),
    }


@needs_compiler
@pytest.mark.parametrize("name", ["zonal", "projected", "projected both ways"])
def test_fused_convolutions_are_the_plain_ones(name, always, cluster, monkeypatch):
    function, inputs = cases(cluster)[name]
    found = derivatives(function, inputs, 3)
    for module in (projected_form, zonal_form):
        monkeypatch.setattr(module, "usable", lambda *_: False)
    for a, b in zip(found, derivatives(function, inputs, 3), strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


@needs_compiler
@pytest.mark.parametrize("num", [6, 7, 12])
def test_fused_mixing_is_an_einsum(num, always, cluster):
    x, kernel = cluster.normal(9, num, CHANNELS), cluster.normal(num, num, CHANNELS)
    assert_same(mix_orientations, lambda x, k: torch.einsum("ioc,opc->ipc", x, k), [x, kernel])


@needs_compiler
def test_fused_normalization_is_its_formula(always, cluster):
    def plain(x):
        centered = x - x.mean(-1, keepdim=True)
        return centered * (centered.square().mean(-1, keepdim=True) + 1e-5).rsqrt()

    assert_same(normalization.normalize, plain, [cluster.normal(7, 3, CHANNELS)])


def test_gelu_in_chunks_is_gelu(always, cluster):
    assert_same(gelu.gelu, torch.nn.functional.gelu, [2 * cluster.normal(5, 7, 3)])


def test_functions_in_blocks_are_the_same_to_the_third_derivative(cluster, monkeypatch):
    monkeypatch.setattr(blockwise, "ROWS", 4)

    def function(x, w):
        return torch.sin(x @ w) @ w.T

    given = [cluster.normal(9, 3), cluster.normal(3, 5)]
    assert_same(lambda x, w: blockwise.blockwise(function, x, w), function, given)


@pytest.mark.parametrize("name", ["zonal", "projected", "projected both ways"])
def test_gradients_are_those_of_finite_differences(name, always, make_cluster):
    function, inputs = cases(make_cluster(atoms=3))[name]
    inputs = [x[..., :2].contiguous().requires_grad_() for x in inputs[:1]] + inputs[1:]
    if name == "zonal":
        inputs[2] = inputs[2][..., :2].contiguous()
    else:
        inputs[2] = inputs[2][:2].contiguous()
    inputs = [x.detach().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@needs_compiler
def test_forces_alone_do_not_make_gradients_of_weights(always, cluster):
    function, inputs = cases(cluster)["projected"]
    made = []
    x, basis, weight = (t.requires_grad_() for t in inputs)
    weight_now = weight * 1.0
    weight_now.register_hook(lambda g: made.append(g))
    y = function(x, basis, weight_now)
    torch.autograd.grad(y.sum(), basis, retain_graph=True)
    assert not made
    torch.autograd.grad(y.sum(), weight)
    assert len(made) == 1


def test_edges_without_reverses(make_cluster, always):
    """A chain in which nobody answers."""
    from equiv.graph.blocks import neighbor_blocks

    c = make_cluster()
    senders, receivers = torch.arange(5), torch.arange(1, 6)
    n, edges = neighbor_blocks(senders, receivers, torch.zeros(5, 3), 6)
    x, basis = c.normal(6, GRID.num, CHANNELS), c.normal(5, GRID.num, FUNCTIONS)
    weight = c.normal(CHANNELS, FUNCTIONS)
    zonal, radial = c.normal(5, GRID.num, DEGREES), c.normal(5, DEGREES, CHANNELS)
    y = projected_convolution(x, basis, weight, n, GRID.antipodes)
    z = zonal_convolution(x, zonal, radial, n)
    assert y[0].abs().max() == 0
    for place, edge in enumerate(edges.tolist()):
        i, j = receivers[edge], senders[edge]
        assert torch.allclose(y[i], basis[place] @ weight.T * x[j])
        assert torch.allclose(z[i], zonal[place] @ radial[place] * x[j])
