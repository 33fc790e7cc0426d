import pytest
import torch
from ase.build import bulk

import equiv.native
from equiv.graph import AtomGraph, collate
from equiv.graph.blocks import neighbor_blocks
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.pair_form import parse
from equiv.message_passing.pair_kernels import kernels, vector_bytes

needs_compiler = pytest.mark.skipif(
    equiv.native.find_compiler() is None, reason="needs a C++ compiler (g++ or clang++)"
)


def crystal(*, uneven=False):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    if uneven:  # half of the atoms go far away from the others, in a chain
        atoms = atoms * (2, 2, 2)
        atoms.pbc = False
        atoms.positions[:48] = [[60.0 + 2.3 * k, 0, 0] for k in range(48)]
    graph = collate([AtomGraph.from_atoms(atoms, 5.0 if uneven else 3.0)])
    blocks, edges = neighbor_blocks(graph.senders, graph.receivers, graph.shifts, len(atoms))
    assert (blocks.parts is not None) == uneven
    return blocks, len(edges)


def given(layer, rows, pairs, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (rows, (layer.degree_in + 1) ** 2, layer.channels),
        (pairs, (layer.edge_degree + 1) ** 2),
        (pairs, layer.weight_numel),
    ]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def up_to_second_derivatives(function, inputs):
    """Results, and first and second derivatives of a nonlinear function of them."""
    out = function(*inputs)
    first = torch.autograd.grad(sum((x**2).sum() for x in out), inputs, create_graph=True)
    second = torch.autograd.grad(sum((x**3).sum() for x in first), inputs)
    return [*out, *first, *second]


@needs_compiler
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize(
    ("degree_in", "edge_degree", "channels"), [(0, 2, 3), (1, 2, 8), (2, 1, 16)]
)
def test_kernels_give_the_batched_products_and_their_derivatives(
    degree_in, edge_degree, channels, uneven, monkeypatch
):
    monkeypatch.setattr("equiv.message_passing.pair_form.LEAST_WORK", 0)
    blocks, pairs = crystal(uneven=uneven)
    layer = ClebschGordanConvolution(degree_in, edge_degree, 2, channels).double()
    inputs = given(layer, blocks.num_rows, pairs)
    assert layer.form.usable(inputs[0], blocks)
    ours = up_to_second_derivatives(lambda *x: layer(*x, blocks), inputs)

    def batched(features, harmonics, weights):
        weights = weights.unflatten(-1, (-1, channels))
        return layer._batched(features, harmonics, weights, blocks)

    expected = up_to_second_derivatives(batched, inputs)
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12 * y.abs().max().item())


@needs_compiler
def test_derivatives_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr("equiv.message_passing.pair_form.LEAST_WORK", 0)
    senders, receivers = torch.tensor([1, 0, 2, 1]), torch.tensor([0, 1, 1, 2])
    blocks, edges = neighbor_blocks(senders, receivers, torch.zeros(4, 3), 3)
    layer = ClebschGordanConvolution(1, 1, 1, 2).double()
    inputs = given(layer, 3, len(edges))
    function = lambda *x: torch.cat(layer(*x, blocks), 1)  # noqa: E731
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@needs_compiler
def test_two_evaluations_agree_in_every_bit(monkeypatch):
    monkeypatch.setattr("equiv.message_passing.pair_form.LEAST_WORK", 0)
    blocks, pairs = crystal()
    layer = ClebschGordanConvolution(1, 2, 2, 16)
    inputs = given(layer, blocks.num_rows, pairs, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            runs.append(up_to_second_derivatives(lambda *x: layer(*x, blocks), inputs))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(x, y) for x, y in zip(runs[0][:2], run[:2], strict=False))
    assert all(torch.equal(x, y) for x, y in zip(runs[1], runs[2], strict=True))


def test_pairs_that_pad_have_no_derivative(monkeypatch):
    monkeypatch.setattr("equiv.message_passing.pair_form.LEAST_WORK", 0)
    senders, receivers = torch.tensor([1, 0]), torch.tensor([0, 1])
    blocks, _ = neighbor_blocks(senders, receivers, torch.zeros(2, 3), 2, padded=True)
    layer = ClebschGordanConvolution(1, 1, 1, 2).double()
    features, harmonics, weights = inputs = given(layer, 2, 2)
    out = layer(features, harmonics, weights, blocks)
    _, of_harmonics, of_weights = torch.autograd.grad(sum((x**2).sum() for x in out), inputs)
    assert of_harmonics[0].abs().max() > 0
    assert of_harmonics[1].abs().max() == 0
    assert of_weights[1].abs().max() == 0


def test_small_work_edges_without_reverse_and_other_devices_take_the_batched_path():
    layer = ClebschGordanConvolution(1, 1, 1, 2)
    both, one = torch.tensor([1, 0]), torch.tensor([0, 1])
    blocks, _ = neighbor_blocks(both, one, torch.zeros(2, 3), 2)
    assert not layer.form.usable(torch.zeros(2, 4, 2), blocks)
    directed, _ = neighbor_blocks(both[:1], one[:1], torch.zeros(1, 3), 2)
    assert not layer.form.usable(torch.zeros(10**6, 4, 2, device="meta"), directed)


def test_a_form_is_known_by_its_key():
    form = ClebschGordanConvolution(2, 3, 1, 4).form
    assert parse(form.key) == form
    assert form.num_couplings == sum((2 * a + 1) * (2 * c + 1) for a, _, c in PATHS)
    assert [vector_bytes(c, torch.float32) for c in (64, 24, 12, 7)] == [64, 32, 16, 4]


PATHS = ClebschGordanConvolution(2, 3, 1, 4).paths


def test_without_a_compiler_nothing_is_built(monkeypatch):
    monkeypatch.setenv("EQUIV_NATIVE", "0")
    form = ClebschGordanConvolution(0, 1, 1, 4).form
    assert kernels.__wrapped__(form.key + " ", torch.float32, 16) is None


@needs_compiler
def test_a_source_that_does_not_compile_is_reported_and_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="slower path is used instead"):
        assert equiv.native.load_library("this is not C++") is None


def test_the_operator_has_the_shapes_it_promises():
    blocks, pairs = crystal()
    layer = ClebschGordanConvolution(1, 1, 1, 4)
    if kernels(layer.form.key, torch.float32, 16) is None:
        pytest.skip("needs a C++ compiler")
    x, y, w = given(layer, blocks.num_rows, pairs, dtype=torch.float32)
    arguments = (layer.form.key, 0, x, y @ layer.couplings, w.unflatten(-1, (-1, 4)))
    index = (blocks.first, blocks.second, blocks.pair, blocks.sign, blocks.senders, blocks.slots)
    torch.library.opcheck(
        torch.ops.equiv.pair_form.default,
        tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in (*arguments, *index)),
        test_utils=("test_schema", "test_faketensor"),
    )
