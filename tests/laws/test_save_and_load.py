"""Weights are all there is to store."""

import pytest
import torch
from safetensors.torch import load, save

from equiv.testing import check_model

from .table import LAYERS

WITH_WEIGHTS = [e for e in LAYERS if list(e.made().parameters())]


@pytest.mark.parametrize("layer_entry", WITH_WEIGHTS, ids=lambda e: e.name)
def test_a_layer_with_other_weights_becomes_the_same_by_its_state(layer_entry):
    entry = layer_entry
    stored, other = entry.made(seed=0), entry.made(seed=1)
    expected = entry.results(stored, entry.given())
    different = entry.results(other, entry.given())
    assert not all(torch.equal(x, y) for x, y in zip(expected, different, strict=True))
    other.load_state_dict(load(save(dict(stored.state_dict()))))
    for x, y in zip(expected, entry.results(other, entry.given()), strict=True):
        assert torch.equal(x, y)


def test_a_layer_stores_its_weights_and_nothing_else(entry):
    layer = entry.made()
    weights = {name for name, _ in layer.named_parameters()}
    assert set(layer.state_dict()) == weights | set(entry.also_stores)


@pytest.mark.parametrize("law", ["save_and_load", "repeatability"])
def test_a_model_survives_its_file_and_its_use_unchanged(model, law):
    check_model(model, laws=[law])
