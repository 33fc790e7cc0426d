"""What is evaluated alongside makes no difference."""

import pytest
import torch

from equiv.models.ponita_layer import TensorProducts
from equiv.nn.linear import ElementLinear
from equiv.tensor_products.many_body import ManyBodyProduct
from equiv.tensor_products.powers import PowerProduct
from equiv.testing import check_model

from .table import COUNTS, LAYERS

BY_ELEMENT = (ElementLinear, ManyBodyProduct, PowerProduct, TensorProducts)


@pytest.mark.parametrize(
    "layer_of_rows",
    [e for e in LAYERS if e.groups is not None and not issubclass(e.kind, BY_ELEMENT)],
    ids=lambda e: e.name,
)
def test_rows_alone_give_the_same_as_in_a_batch(layer_of_rows):
    entry = layer_of_rows
    layer, inputs = entry.made(), entry.given()
    together = entry.results(layer, inputs)
    for row in range(inputs[0].shape[0]):
        alone = entry.results(layer, [x[row : row + 1] for x in inputs])
        for x, y in zip(together, alone, strict=True):
            torch.testing.assert_close(y, x[row : row + 1], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "by_element", [e for e in LAYERS if issubclass(e.kind, BY_ELEMENT)], ids=lambda e: e.name
)
def test_atoms_alone_give_the_same_as_among_other_elements(by_element):
    layer, (x,) = by_element.made(), by_element.given()
    together, start = layer(x, COUNTS), 0
    for element, count in enumerate(COUNTS):
        for atom in range(start, start + count):
            alone = layer(x[atom : atom + 1], [int(e == element) for e in range(len(COUNTS))])
            torch.testing.assert_close(alone, together[atom : atom + 1], rtol=0, atol=1e-13)
        start += count


@pytest.mark.parametrize(
    "by_element", [e for e in LAYERS if issubclass(e.kind, BY_ELEMENT)], ids=lambda e: e.name
)
def test_no_atoms_at_all_are_no_error(by_element):
    layer, (x,) = by_element.made(), by_element.given()
    empty, full = layer(x[:0], [0] * len(COUNTS)), layer(x, COUNTS)
    assert empty.shape == (0, *full.shape[1:])


@pytest.mark.parametrize("law", ["batch_equals_singles", "energies_add_up", "extensivity"])
def test_structures_in_a_batch_do_not_see_each_other(model, law):
    check_model(model, laws=[law])
