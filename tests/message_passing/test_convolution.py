import pytest
import torch

from equiv.graph.blocks import neighbor_blocks
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.reference import convolution_reference
from equiv.so3 import spherical_harmonics


def random_graph(generator, *, both_ways, atoms=6, edges=12):
    senders, receivers = torch.randint(atoms - 1, (2, edges), generator=generator)  # last: alone
    vectors = torch.randn(edges, 3, dtype=torch.float64, generator=generator)
    shifts = torch.randint(-1, 2, (edges, 3), generator=generator)
    shifts[:, 0] = torch.arange(edges)  # no two edges alike
    if not both_ways:
        return senders, receivers, shifts, vectors
    ends = torch.cat([senders, receivers]), torch.cat([receivers, senders])
    return *ends, torch.cat([shifts, -shifts]), torch.cat([vectors, -vectors])


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(
    ("degree_in", "edge_degree", "degree_out"), [(0, 3, 3), (1, 3, 3), (2, 2, 1)]
)
def test_blocks_give_the_messages_of_the_definition(degree_in, edge_degree, degree_out, both_ways):
    generator = torch.Generator().manual_seed(0)
    senders, receivers, shifts, vectors = random_graph(generator, both_ways=both_ways)
    layer = ClebschGordanConvolution(degree_in, edge_degree, degree_out, channels=3).double()
    features = torch.randn(6, (degree_in + 1) ** 2, 3, dtype=torch.float64, generator=generator)
    weights = torch.randn(12, layer.weight_numel, dtype=torch.float64, generator=generator)
    weights = weights.repeat(1 + both_ways, 1)
    harmonics = spherical_harmonics(edge_degree, vectors)

    blocks, edges = neighbor_blocks(senders, receivers, shifts, 6)
    assert len(edges) == 12
    messages = layer(features, harmonics[edges], weights[edges], blocks)

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
