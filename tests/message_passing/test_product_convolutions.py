import math
import shutil

import pytest
import torch

from equiv.errors import EquivError
from equiv.graph.blocks import neighbor_blocks
from equiv.message_passing import pair_form
from equiv.message_passing.choice import CONVOLUTIONS
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.rank_one import (
    GauntConvolution,
    MatrixConvolution,
    RankOneConvolution,
    VectorSignalConvolution,
)
from equiv.message_passing.so2 import SO2Convolution
from equiv.so3 import gaunt_coefficients, spherical_harmonics, wigner_3j

RANK_ONE = [GauntConvolution, MatrixConvolution, VectorSignalConvolution]
DEGREES = [(0, 3, 3), (1, 3, 3), (2, 2, 1)]


def random_graph(atoms=6, edges=12):
    g = torch.Generator().manual_seed(0)
    senders, receivers = torch.randint(atoms - 1, (2, edges), generator=g)  # the last is alone
    vectors = torch.randn(edges, 3, dtype=torch.float64, generator=g)
    shifts = torch.randint(-1, 2, (edges, 3), generator=g)
    shifts[:, 0] = torch.arange(edges)  # no two edges alike
    ends = torch.cat([senders, receivers]), torch.cat([receivers, senders])
    return *ends, torch.cat([shifts, -shifts]), torch.cat([vectors, -vectors]), g


def inputs(layer, degree_in, edge_degree):
    senders, receivers, shifts, vectors, g = random_graph()
    blocks, edges = neighbor_blocks(senders, receivers, shifts, 6)
    features = torch.randn(6, (degree_in + 1) ** 2, 3, dtype=torch.float64, generator=g)
    weights = torch.randn(12, layer.weight_numel, dtype=torch.float64, generator=g).repeat(2, 1)
    harmonics = spherical_harmonics(edge_degree, vectors)
    every_edge = (features, harmonics, weights, senders, receivers)
    return (features, harmonics[edges], weights[edges], blocks), every_edge


@pytest.mark.parametrize("degrees", DEGREES)
def test_frames_of_edges_give_the_clebsch_gordan_messages(degrees):
    so2 = SO2Convolution(*degrees, channels=3).double()
    clebsch_gordan = ClebschGordanConvolution(*degrees, channels=3).double()
    assert so2.weight_numel == clebsch_gordan.weight_numel
    given, _ = inputs(so2, *degrees[:2])
    for ours, theirs in zip(so2(*given), clebsch_gordan(*given), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=0)
        assert theirs[:5].abs().max() > 0.1


def defined(layer, features, harmonics, weights, senders, receivers):
    """Edge by edge, degree by degree, as the docstring has it."""
    l1, l2, l3 = layer.degree_in, layer.edge_degree, layer.degree_out
    c = weights[:, : (l3 + 1) * 3].view(-1, l3 + 1, 3)
    if l1:
        a = weights[:, (l3 + 1) * 3 : (l3 + l1 + 2) * 3].view(-1, l1 + 1, 3)
        b = weights[:, (l3 + l1 + 2) * 3 :].view(-1, layer.terms, l2 + 1)
    messages = []
    for k in range(l3 + 1):
        paths = [
            (i, j, [layer.coupling(t, i, j, k) for t in range(layer.terms)])
            for i in range(l1 + 1)
            for j in range(l2 + 1)
            if abs(i - j) <= k <= i + j and (i + j + k) % 2 == 0
        ]
        norm = sum(kappa**2 / ((2 * i + 1) * (2 * j + 1)) for i, j, ks in paths for kappa in ks) / (
            2 * k + 1
        )
        message = torch.zeros(6, 2 * k + 1, 3, dtype=torch.float64)
        for i, j, kappas in paths:
            h = features[senders, i * i : (i + 1) ** 2]
            y = harmonics[:, j * j : (j + 1) ** 2]
            z = torch.einsum("abm,eac,eb->emc", wigner_3j(i, j, k), h, y) * c[:, k, None]
            z = z / math.sqrt((2 * i + 1) * (2 * j + 1) * norm)
            if l1:
                radial = sum(kappa * b[:, t, j] for t, kappa in enumerate(kappas))
                z = z * a[:, i, None] * radial[:, None, None]
            else:
                z = z * abs(kappas[0])
            message.index_add_(0, receivers, z)
        messages.append(message)
    return messages


@pytest.mark.parametrize("kind", RANK_ONE)
@pytest.mark.parametrize("degrees", DEGREES)
def test_blocks_give_the_messages_of_the_definition(kind, degrees):
    layer = kind(*degrees, channels=3).double()
    given, every_edge = inputs(layer, *degrees[:2])
    messages = layer(*given)
    assert [m.shape[-1] for m in messages] == layer.channels_out()
    for ours, expected in zip(messages, defined(layer, *every_edge), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-13, rtol=0)
        assert expected[:5].abs().max() > 0.1
        assert ours[5].abs().max() == 0


def test_gaunt_messages_are_integrals_of_three_harmonics():
    layer = GauntConvolution(2, 3, 2, channels=1).double()
    sizes = [(2 * l1 + 1) * (2 * l3 + 1) for l1, l3 in layer.paths]
    g = gaunt_coefficients(3, 2, 2)
    for (l1, l3), map_ in zip(layer.paths, layer.couplings.split(sizes, dim=1), strict=True):
        for l2 in range(4):
            j, i, m = (slice(l**2, (l + 1) ** 2) for l in (l2, l1, l3))
            ours, integrals = map_.view(16, 2 * l1 + 1, -1)[j], g[j, i, m]
            left, right = ours * integrals.norm(), integrals * ours.norm()
            torch.testing.assert_close(left, right, atol=1e-13, rtol=0)


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler (g++ or clang++)"
)
@pytest.mark.parametrize("name", [n for n, k in CONVOLUTIONS.items() if n != "clebsch_gordan"])
def test_kernels_and_matrix_products_give_the_same_messages(name, monkeypatch):
    layer = CONVOLUTIONS[name](1, 2, 2, channels=3).double()
    given, _ = inputs(layer, 1, 2)
    expected = layer(*given)
    monkeypatch.setattr(pair_form, "LEAST_WORK", 0)
    assert layer.form.usable(given[0], given[3])
    for ours, theirs in zip(layer(*given), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", [n for n, k in CONVOLUTIONS.items() if n != "clebsch_gordan"])
def test_one_edge_makes_messages_of_unit_variance(name):
    g = torch.Generator().manual_seed(0)
    layer = CONVOLUTIONS[name](1, 3, 3, channels=8).double()
    edges = 3000
    senders, receivers = torch.arange(edges) + edges, torch.arange(edges)
    ends = torch.cat([senders, receivers]), torch.cat([receivers, senders])
    blocks, pairs = neighbor_blocks(*ends, torch.zeros(2 * edges, 3), 2 * edges)
    features = torch.randn(2 * edges, 4, 8, dtype=torch.float64, generator=g)
    vectors = torch.randn(edges, 3, dtype=torch.float64, generator=g)
    weights = torch.randn(len(pairs), layer.weight_numel, dtype=torch.float64, generator=g)
    for message in layer(features, spherical_harmonics(3, vectors), weights, blocks):
        assert message.square().mean().item() == pytest.approx(1.0, abs=0.15)


def test_frames_need_a_direction():
    with pytest.raises(EquivError, match="edge_degree must be at least 1"):
        SO2Convolution(1, 0, 1, 2)
    assert issubclass(CONVOLUTIONS["matrix"], RankOneConvolution)
