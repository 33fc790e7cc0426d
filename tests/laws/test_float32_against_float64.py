"""Single precision computes the same function."""

import torch

from equiv.testing import check_model


def test_a_float32_layer_agrees_with_the_float64_one(entry):
    exact = entry.results(entry.made(), entry.given())
    single = entry.results(entry.made(dtype=torch.float32), entry.given(dtype=torch.float32))
    for x, y in zip(exact, single, strict=True):
        assert y.dtype == torch.float32
        assert (y.double() - x).abs().max() <= 3e-6 * x.abs().max()


def test_a_visit_to_float32_leaves_constants_exact(entry):
    visited = entry.made().to(torch.float32).to(torch.float64)
    fresh = entry.made()
    visited.load_state_dict(fresh.state_dict())
    for x, y in zip(
        entry.results(fresh, entry.given()), entry.results(visited, entry.given()), strict=True
    ):
        assert torch.equal(x, y)


def test_a_float32_model_agrees_with_the_float64_one(model):
    check_model(model, laws=["float32_against_float64"])
