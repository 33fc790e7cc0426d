"""Atoms and neighbours have no order."""

import pytest
import torch

from equiv.graph.blocks import neighbor_blocks, reverse_edges
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.testing import check_model

from .table import ATOMS, EDGES, LAYERS, NEIGHBORS, RECEIVERS, SENDERS


def shuffled(groups, generator):
    """An order that mixes rows within each group of consecutive ones."""
    starts = torch.cumsum(torch.tensor([0, *groups]), 0)[:-1]
    return torch.cat(
        [s + torch.randperm(n, generator=generator) for s, n in zip(starts, groups, strict=True)]
    )


@pytest.mark.parametrize(
    "layer_of_rows", [e for e in LAYERS if e.groups is not None], ids=lambda e: e.name
)
def test_rows_in_another_order_give_their_results_in_that_order(layer_of_rows):
    entry = layer_of_rows
    layer, inputs = entry.made(), entry.given()
    order = shuffled(entry.groups, torch.Generator().manual_seed(1))
    assert not torch.equal(order, torch.arange(len(order)))
    before = entry.results(layer, inputs)
    after = entry.results(layer, [x[order] for x in inputs])
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(y, x[order], rtol=0, atol=1e-13)


REVERSES = reverse_edges(SENDERS, RECEIVERS, torch.zeros(len(SENDERS), 3))[EDGES]
CONVOLUTIONS = [e for e in LAYERS if e.kind is ClebschGordanConvolution]


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=lambda e: e.name)
def test_renaming_atoms_and_mixing_neighbours_leaves_the_messages(convolution):
    layer, (features, harmonics, weights) = convolution.made(), convolution.given()
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(ATOMS, generator=generator)
    rank = torch.argsort(order)
    before = layer(features, harmonics, weights, NEIGHBORS)
    # Every edge with its own harmonics and weights, in another order and between renamed atoms.
    mixed = torch.randperm(len(SENDERS), generator=generator)
    of_pairs = torch.argsort(torch.cat([EDGES, REVERSES]))
    odd = (-1.0) ** torch.arange(harmonics.shape[-1]).sqrt().floor()
    of_edges = torch.cat([harmonics, harmonics * odd])[of_pairs][mixed]
    renamed, edges = neighbor_blocks(
        rank[SENDERS][mixed], rank[RECEIVERS][mixed], torch.zeros(len(SENDERS), 3), ATOMS
    )
    weights = torch.cat([weights, weights])[of_pairs][mixed]
    after = layer(features[order], of_edges[edges], weights[edges], renamed)
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(y, x[order], rtol=0, atol=1e-12)


def test_atoms_in_another_order_have_the_same_energies_and_forces(model):
    check_model(model, laws=["permutation"])
