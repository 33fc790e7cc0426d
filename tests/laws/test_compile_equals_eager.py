"""A compiled layer is the same function, in one graph."""

import shutil

import pytest
import torch

from .table import LAYERS

COMPILING = [e for e in LAYERS if e.compiles]
# One of each kind of work goes through the C++ compiler too, which takes seconds for each.
GENERATED = [e for e in LAYERS if e.name in ("ClebschGordanConvolution 1 x 2 -> 2", "BesselBasis")]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compare(entry, backend):
    layer, inputs = entry.made(), entry.given()
    expected = entry.results(layer, inputs)
    given = [x.requires_grad_(True) for x in entry.given()]
    compiled = torch.compile(lambda *xs: entry.results(layer, xs), fullgraph=True, backend=backend)
    results = compiled(*given)
    for x, y in zip(expected, results, strict=True):
        torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(sum((y**2).sum() for y in results), given)
    again = [x.requires_grad_(True) for x in entry.given()]
    eager = torch.autograd.grad(sum((y**2).sum() for y in entry.results(layer, again)), again)
    for x, y in zip(eager, gradients, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("layer_entry", COMPILING, ids=lambda e: e.name)
def test_the_layer_traces_into_one_graph_with_the_same_values_and_gradients(layer_entry):
    compare(layer_entry, "aot_eager")


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler (g++ or clang++)"
)
@pytest.mark.parametrize("layer_entry", GENERATED, ids=lambda e: e.name)
def test_generated_code_computes_the_same(layer_entry):
    compare(layer_entry, "inductor")


def test_the_layers_chosen_for_code_generation_exist():
    assert len(GENERATED) == 2
