import pytest
import torch

from equiv.graph.blocks import neighbor_blocks
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.reference import convolution_reference
from equiv.so3 import spherical_harmonics


def random_graph(generator, atoms=6, edges=23):
    receivers = torch.randint(atoms - 1, (edges,), generator=generator).sort().values  # last: alone
    senders = torch.randint(atoms, (edges,), generator=generator)
    vectors = torch.randn(edges, 3, dtype=torch.float64, generator=generator)
    return senders, receivers, vectors


@pytest.mark.parametrize(
    ("degree_in", "edge_degree", "degree_out"), [(0, 3, 3), (1, 3, 3), (2, 2, 1)]
)
def test_blocks_give_the_messages_of_the_definition(degree_in, edge_degree, degree_out):
    generator = torch.Generator().manual_seed(0)
    senders, receivers, vectors = random_graph(generator)
    layer = ClebschGordanConvolution(degree_in, edge_degree, degree_out, channels=3).double()
    features = torch.randn(6, (degree_in + 1) ** 2, 3, dtype=torch.float64, generator=generator)
    weights = torch.randn(23, layer.weight_numel, dtype=torch.float64, generator=generator)
    harmonics = spherical_harmonics(edge_degree, vectors)

    blocks, edge = neighbor_blocks(senders, receivers, torch.zeros(23, 3), 6)
    padded_weights = torch.cat([weights, torch.zeros_like(weights[:1])])[edge]
    padded_harmonics = torch.cat([harmonics, torch.ones_like(harmonics[:1])])[edge]
    messages = layer(features, padded_harmonics, padded_weights, blocks)

    expected = convolution_reference(
        features, harmonics, weights, senders, receivers, paths=layer.paths
    )
    assert [m.shape[-1] for m in messages] == layer.channels_out()
    for ours, theirs in zip(messages, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=0)
        assert theirs[:5].abs().max() > 0.1
        assert ours[5].abs().max() == 0


def test_paths_are_those_of_natural_parity():
    layer = ClebschGordanConvolution(1, 2, 2, channels=1)
    assert layer.paths == [
        (0, 0, 0),
        (1, 1, 0),
        (0, 1, 1),
        (1, 0, 1),
        (1, 2, 1),
        (0, 2, 2),
        (1, 1, 2),
    ]
