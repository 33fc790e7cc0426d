"""Layers of the Hamiltonian network: products over selected paths, and their kernels."""

from functools import partial

import pytest
import torch

from equiv.errors import EquivError
from equiv.hamiltonian import gated_linear, gated_products, row_functions
from equiv.hamiltonian.coupling_paths import PathProduct, coupling_paths
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.gated_products import ProductOfAtom, ProductOfPair
from equiv.hamiltonian.irrep_layers import IrrepLinear, NormGate
from equiv.hamiltonian.pair_layers import DiagonalLayer
from equiv.hamiltonian.path_sparsity import PathSparsity
from equiv.hamiltonian.radial import ExponentialBernstein
from equiv.hamiltonian.row_functions import Rows
from equiv.hamiltonian.row_kernels import row_library
from equiv.so3 import wigner_3j
from equiv.testing import assert_gradient

NODES, BLOCKS = Degrees.up_to(4), Degrees((0, 1, 2, 3, 4), (1, 2, 3))


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_degrees_know_where_they_are():
    assert BLOCKS.dim == 25 + 15
    assert BLOCKS.natural_dim == 25
    assert len(BLOCKS) == 8
    assert BLOCKS.starts == (0, 1, 4, 9, 16, 25, 28, 33)
    with pytest.raises(EquivError, match="distinct, ascending"):
        Degrees((1, 0))


def test_parity_decides_where_a_path_leads():
    for path in coupling_paths(NODES, NODES, BLOCKS):
        sign, l = BLOCKS.irreps[path.out]
        assert path.degrees[2] == l
        assert sign == (-1) ** sum(path.degrees)
    # The paper's count for degree 4, where all couplings are called even.
    assert len(coupling_paths(NODES, NODES, NODES, parity=False)) == 65


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("selection", [(0, 3, 7, 20, 33, 58), None])
def test_products_agree_with_their_definition(selection, single):
    product = PathProduct(NODES, NODES, BLOCKS)
    selection = tuple(range(len(product.paths))) if selection is None else selection
    x, y = normal(5, 25, 4), normal(5, 25, 1 if single else 4, seed=1)
    w = normal(5, len(selection), 4, seed=2)
    expected = torch.zeros(5, 40, 4, dtype=torch.float64)
    for n, p in enumerate(selection):
        l1, l2, l3 = product.paths[p].degrees
        start = BLOCKS.starts[product.paths[p].out]
        a = x[:, l1 * l1 : (l1 + 1) ** 2]
        b = y[:, l2 * l2 : (l2 + 1) ** 2].expand(-1, -1, 4)
        coupled = torch.einsum("ijk,ric,rjc,rc->rkc", wigner_3j(l1, l2, l3), a, b, w[:, n])
        expected[:, start : start + 2 * l3 + 1] += coupled
    torch.testing.assert_close(product(x, y, w, selection), expected)
    torch.testing.assert_close(product.by_matrices(x, y, w, selection), expected)


def test_a_selection_is_the_same_as_zero_weights():
    """Dense with masked weights against compact: value and gradients."""
    product = PathProduct(NODES, NODES, BLOCKS)
    everything, selection = tuple(range(len(product.paths))), (0, 3, 7, 20, 33, 58)
    x, y, w = normal(5, 25, 4), normal(5, 25, 4, seed=1), normal(5, len(everything), 4, seed=2)
    mask = torch.zeros(len(everything), 1, dtype=torch.float64)
    mask[list(selection)] = 1
    found = []
    for compact in (True, False):
        given = [t.clone().requires_grad_() for t in (x, y, w)]
        if compact:
            z = product(given[0], given[1], given[2][:, list(selection)], selection)
        else:
            z = product(given[0], given[1], given[2] * mask, everything)
        found.append([z, *torch.autograd.grad((z * normal(5, 40, 4, seed=3)).sum(), given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    dropped = [p for p in everything if p not in selection]
    assert (found[0][3][:, dropped] == 0).all()
    assert (found[0][3][:, list(selection)] != 0).any()


def test_an_unreachable_irrep_is_an_error():
    with pytest.raises(EquivError, match=r"no path reaches the irreps \(sign, l\) \[\(-1, 4\)\]"):
        PathProduct(Degrees((0, 1)), Degrees((0, 1)), Degrees((0,), (4,)))


CASES = {
    "linear": (lambda r, x, w: row_functions.linear(r, 1, x, w, 0.3), [(7, 40, 12), (8, 12, 12)]),
    "graded": (lambda r, x, w: row_functions.linear(r, 2, x, w, 0.3), [(7, 40, 12), (16, 6, 6)]),
    "norms": (lambda r, x: row_functions.norms(r, 6, x), [(7, 40, 12)]),
    "gates": (
        lambda r, x, s, o: row_functions.gates(r, 6, x, s, o),
        [(7, 40, 12), (7, 1, 1), (7, 102)],
    ),
    "inner": (
        lambda r, x: row_functions.inner(r, x, torch.tensor([0, 2, 2]), torch.tensor([1, 1, 6])),
        [(7, 40, 12)],
    ),
    "together": (
        lambda r, x: row_functions.together(
            x,
            torch.tensor([0, 2, 2]),
            torch.tensor([1, 1, 6]),
            torch.tensor([1.0, -1.0] * 6, dtype=x.dtype),
        ),
        [(7, 40, 12)],
    ),
}


def gated(channels, seed=0):
    """Gate and maps with weights that are not special, their arguments, and the definition."""
    torch.manual_seed(seed)
    gate = NormGate(BLOCKS, channels, 6, odd=channels // 2).double()
    maps = [IrrepLinear(BLOCKS, channels, grades=g).double() for g in (2, 1)]
    return gate, maps, normal(7, 40, channels)


@pytest.mark.parametrize(
    "rows", [0, 1, 39]
)  # none, one, and some more than the kernel takes at once
@pytest.mark.parametrize("scaled", [False, True])
def test_gated_maps_agree_with_their_parts(scaled, rows, monkeypatch):
    gate, maps, _ = gated(12)
    x = normal(rows, 40, 12)
    monkeypatch.setattr(gated_linear, "BLOCK", 20 * 40 * 12)  # several blocks
    scale = normal(rows, seed=4).requires_grad_() if scaled else None
    given = [x.requires_grad_(), *gate.parameters(), *(w.weight for w in maps)]
    given += [scale] if scaled else []
    found = []
    for fused in (True, False):
        y = gated_linear.GatedMaps(gate, maps)(x, scale) if fused else [w(gate(x)) for w in maps]
        if scaled and not fused:
            y = [z * scale[:, None, None] for z in y]
        grads = [normal(*o.shape, seed=9 + n) for n, o in enumerate(y)]
        found.append([*y, *torch.autograd.grad(y, given, grads)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scaled", [False, True])
def test_gated_maps_have_second_derivatives(scaled):
    gate, maps, x = gated(4)
    given = [x, *gate.parameters(), *(w.weight for w in maps), *([normal(7)] if scaled else [])]

    def function(*given):
        layers = gated_linear.GatedMaps(gate, maps)
        return torch.cat([y.flatten() for y in gated_linear._GatedLinear.apply(layers, *given)])

    assert_gradient_by_all(function, given)


def assert_gradient_by_all(function, given):
    """The same check for a function of several tensors."""

    def of_all(flat):
        parts = flat.split([t.numel() for t in given])
        return function(*(p.view(t.shape) for p, t in zip(parts, given, strict=True)))

    flat = torch.cat([t.detach().flatten() for t in given])
    assert_gradient(of_all, flat, step=1e-4, tolerance=1e-7)


SELECTION = (0, 3, 7, 20, 33, 40, 47, 52, 55, 58)
PAIRS = torch.tensor([0, 2, 2, 0, 3] * 2), torch.tensor([1, 1, 4, 4, 1] * 2)  # of five atoms
SIGNS = torch.tensor([1.0, -1, 1, -1]).double(), torch.tensor([1.0, -1, -1, 1]).double()


def products(kind):
    """A product, what it is a function of, and its rows."""
    product, atoms = PathProduct(NODES, NODES, BLOCKS), [normal(10, 25, 4, seed=n) for n in (1, 2)]
    if kind == "atoms":
        tensors = [*atoms, normal(1, len(SELECTION), 4, seed=3), normal(10, 25, 4, seed=4)]
        return ProductOfAtom(product, SELECTION), tensors, 10
    pairs = tuple(some[:0] for some in PAIRS) if kind == "no pairs" else PAIRS
    tensors = [*atoms, normal(len(pairs[0]), 6, seed=3)]
    tensors += [normal(len(product.paths), 6, 4, seed=4), normal(len(SELECTION), seed=5)]
    return ProductOfPair(product, SELECTION, pairs, SIGNS), tensors, len(pairs[0])


@pytest.mark.skipif(row_library(torch.float64) is None, reason="no compiler")
@pytest.mark.parametrize("kind", ["atoms", "pairs", "no pairs"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_product_that_is_not_kept_is_the_same(kind, scaled, monkeypatch):
    gate, maps, _ = gated(4)
    of, tensors, rows = products(kind)
    monkeypatch.setattr(gated_linear, "BLOCK", 1)  # blocks of eight rows
    scale = normal(rows, seed=6).requires_grad_() if scaled else None
    given = [t.requires_grad_() for t in tensors]
    given += [*gate.parameters(), maps[0].weight, *([scale] if scaled else [])]
    found = []
    for keep in (True, False):
        kept: list[torch.Size] = []
        layers = gated_linear.GatedMaps(gate, maps[:1])
        with torch.autograd.graph.saved_tensors_hooks(partial(_note, kept), lambda t: t):
            y = gated_products.gated_product(layers, of, tensors, scale, keep=keep)
        assert (torch.Size([rows, 40, 4]) in kept) == keep
        found.append([y, *torch.autograd.grad(y, given, normal(*y.shape, seed=9))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def _note(kept, x):
    kept.append(x.shape)
    return x


@pytest.mark.parametrize("kind", ["atoms", "pairs"])
@pytest.mark.parametrize("scaled", [False, True])
def test_products_that_are_not_kept_have_second_derivatives(kind, scaled):
    gate, maps, _ = gated(4)
    of, tensors, rows = products(kind)

    def function(*given):
        layers = gated_linear.GatedMaps(gate, maps[:1])
        count = len(tensors)
        scale = given[count] if scaled else None
        return gated_products.gated_product(layers, of, given[:count], scale, keep=False)

    assert_gradient_by_all(function, [*tensors, *([normal(rows, seed=6)] if scaled else [])])


def test_thinned_products_are_made_again_and_dense_ones_kept():
    for sparsity in (0.0, 0.3, 0.7):
        layer = DiagonalLayer(NODES, BLOCKS, 4, 8, sparsity=PathSparsity(sparsity)).double()
        kept: list[torch.Size] = []
        with torch.autograd.graph.saved_tensors_hooks(partial(_note, kept), lambda t: t):
            layer(normal(5, 25, 4).requires_grad_())
        assert (torch.Size([5, 40, 4]) in kept) == (sparsity != 0.7)


@pytest.mark.skipif(row_library(torch.float64) is None, reason="no compiler")
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_torch(name, monkeypatch):
    function, shapes = CASES[name]
    rows = Rows(BLOCKS, 12)

    def results():
        given = [normal(*s, seed=n).requires_grad_() for n, s in enumerate(shapes)]
        out = function(rows, *given)
        out = out if isinstance(out, tuple) else (out,)
        grads = [normal(*o.shape, seed=9 + n) for n, o in enumerate(out)]
        return [*out, *torch.autograd.grad(out, given, grads)]

    fast = results()
    monkeypatch.setattr(row_functions, "possible", lambda *tensors: False)
    for one, other in zip(fast, results(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_kernels_have_second_derivatives(name):
    function, shapes = CASES[name]
    given = [normal(*s, seed=n).requires_grad_() for n, s in enumerate(shapes)]
    rows = Rows(BLOCKS, 12)

    def slope(x):
        out = function(rows, x, *given[1:])
        out = out[0] if isinstance(out, tuple) else out
        return torch.autograd.grad((out**2).sum(), x, create_graph=True)[0]

    x, direction, h = given[0], normal(*shapes[0], seed=5), 1e-5
    moved = (slope(x + h * direction) - slope(x - h * direction)).detach() / (2 * h)
    (exact,) = torch.autograd.grad(slope(x), x, direction)
    torch.testing.assert_close(exact, moved, rtol=1e-6, atol=1e-6)


def test_gates_and_norms_of_one_row_are_not_counted_twice():
    """Both depend on the same features; gradients that can be differentiated again must agree."""
    layer, x = NormGate(NODES, 4, 8).double(), normal(5, 25, 4).requires_grad_()
    grads = [
        torch.autograd.grad((layer(x) * normal(5, 25, 4, seed=1)).sum(), x, create_graph=again)[0]
        for again in (False, True)
    ]
    torch.testing.assert_close(grads[0], grads[1].detach(), rtol=0, atol=1e-12)


def test_only_weights_of_kept_paths_have_gradients():
    sparsity = PathSparsity(0.7)
    layer = DiagonalLayer(NODES, BLOCKS, 4, 8, sparsity=sparsity).double()
    layer(normal(3, 25, 4)).square().sum().backward()
    kept = sparsity.gates[0].kept
    assert (layer.weights.grad[~kept] == 0).all()
    assert (layer.weights.grad[kept].abs().sum(1) > 0).all()


def test_bernstein_functions_are_smooth_and_vanish_at_the_cutoff():
    basis = ExponentialBernstein(8, 5.0).double()
    r = torch.linspace(0, 6, 601, dtype=torch.float64, requires_grad=True)
    values = basis(r)
    assert torch.isfinite(values).all()
    assert (values[r >= 5] == 0).all()
    (slope,) = torch.autograd.grad(values.sum(), r)
    assert torch.isfinite(slope).all()
    # Without the window they are a partition of unity.
    total = values.sum(1) / 8**0.5
    torch.testing.assert_close(total[1:500], basis.window(r)[1:500], rtol=1e-9, atol=1e-12)
    with pytest.raises(EquivError, match="num >= 2"):
        ExponentialBernstein(1, 5.0)
