import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equiv.graph import AtomGraph, collate
from equiv.graph.blocks import NeighborBlocks, neighbor_blocks, reverse_edges
from equiv.so3 import spherical_harmonics


def edges_of(atoms, cutoff=3.0):
    graph = collate([AtomGraph.from_atoms(atoms, cutoff)])
    return graph.senders, graph.receivers, graph.shifts


def uneven():
    """A crowded cluster, a chain and a lone atom."""
    generator = torch.Generator().manual_seed(0)
    cluster = 2.2 * torch.rand(40, 3, generator=generator, dtype=torch.float64).numpy()
    chain = [[50.0 + 2.0 * k, 0.0, 0.0] for k in range(130)]
    return Atoms("H171", [*cluster, *chain, [-50.0, 0.0, 0.0]])


STRUCTURES = {
    "molecule": molecule("CH3CH2OH"),
    "crystal that sees its own images": bulk("Si"),
    "uneven": uneven(),
}


@pytest.fixture(params=STRUCTURES, ids=str)
def arranged(request):
    edges = edges_of(STRUCTURES[request.param])
    return edges, *neighbor_blocks(*edges, len(STRUCTURES[request.param]))


def receivers_of(blocks: NeighborBlocks):
    """The row that receives in each slot."""
    rows = torch.arange(blocks.num_rows) if blocks.parts is None else blocks.parts.of
    return rows.repeat_interleave(blocks.pair.shape[1]).view_as(blocks.pair)


def dense(index, size):
    return torch.nn.functional.one_hot(index.flatten(), size).double()


def test_every_pair_has_a_slot_with_each_of_its_atoms(arranged):
    (senders, receivers, _), blocks, edges = arranged
    assert len(edges) == len(senders) / 2
    assert torch.equal(blocks.first, receivers[edges])
    assert torch.equal(blocks.second, senders[edges])
    at = receivers_of(blocks)
    for sign, here, there in (
        (1, blocks.first, blocks.second),
        (-1, blocks.second, blocks.first),
    ):
        pair = blocks.pair[blocks.sign == sign]
        assert torch.equal(pair.sort().values, torch.arange(len(edges)))
        assert torch.equal(at[blocks.sign == sign], here[pair])
        assert torch.equal(blocks.senders[blocks.sign == sign], there[pair])
    pairs = torch.arange(len(edges)).unsqueeze(1).expand(-1, 2)
    assert torch.equal(blocks.pair.flatten()[blocks.slots], pairs)
    assert blocks.exists.all()


def test_slots_know_their_reverses(arranged):
    _, blocks, _ = arranged
    reverse = blocks.reverse.flatten()
    assert torch.equal(reverse[reverse], torch.arange(len(reverse)))
    assert torch.equal(blocks.sign.flatten()[reverse], -blocks.sign.flatten())
    assert torch.equal(blocks.pair.flatten()[reverse], blocks.pair.flatten())
    assert torch.equal(receivers_of(blocks).flatten()[reverse], blocks.senders.flatten())
    padded = blocks.sign.flatten() == 0
    assert torch.equal(reverse[padded], torch.arange(len(reverse))[padded])


def test_crowded_rows_are_split_and_even_ones_are_not():
    even = edges_of(bulk("Si", cubic=True) * 2, 5.0)
    assert neighbor_blocks(*even, 64)[0].parts is None
    edges = edges_of(uneven())
    blocks, _ = neighbor_blocks(*edges, 171)
    assert blocks.parts is not None
    assert blocks.pair.numel() < 0.6 * 171 * 40


def test_sums_and_gathers_are_adjoint_and_differentiable_twice(arranged):
    _, blocks, edges = arranged
    rows, pairs = blocks.num_rows, len(edges)
    send, receive = dense(blocks.senders, rows), dense(receivers_of(blocks), rows)
    sign = blocks.sign.flatten().double().unsqueeze(1)
    of_pair = dense(blocks.pair, pairs)
    generator = torch.Generator().manual_seed(0)
    shapes = {"rows": (rows,), "slots": blocks.pair.shape, "pairs": (pairs,)}
    given = {
        name: torch.randn(*shape, 2, dtype=torch.float64, generator=generator).requires_grad_()
        for name, shape in shapes.items()
    }
    maps = [
        (blocks.gather, "rows", send),
        (blocks.collect, "slots", send.T),
        (lambda y: blocks.total(y.sum(1)), "slots", receive.T),
        (blocks.from_pairs, "pairs", sign.abs() * of_pair),
        (blocks.sum_pairs, "pairs", receive.T @ (sign.abs() * of_pair)),
        (blocks.divergence, "pairs", -receive.T @ (sign * of_pair)),
        (blocks.differences, "rows", -(receive.T @ (sign * of_pair)).T),
    ]
    for function, name, matrix in maps:
        x = given[name]
        y = function(x)
        flat = x.reshape(matrix.shape[1], 2)
        torch.testing.assert_close(y.flatten(0, -2), matrix @ flat, rtol=0, atol=1e-12)
        weights = torch.randn(y.shape, dtype=torch.float64, generator=generator).requires_grad_()
        (gradient,) = torch.autograd.grad((y * weights).sum(), x, create_graph=True)
        expected = matrix.T @ weights.reshape(-1, 2)
        torch.testing.assert_close(gradient.reshape(-1, 2), expected, rtol=0, atol=1e-12)
        (again,) = torch.autograd.grad(gradient.pow(2).sum(), weights)
        torch.testing.assert_close(
            again.reshape(-1, 2), 2 * matrix @ expected, rtol=1e-12, atol=1e-11
        )


def test_harmonics_of_the_reverse_direction_have_their_parity(arranged):
    _, blocks, edges = arranged
    vectors = torch.randn(len(edges), 3, dtype=torch.float64)
    slots = vectors[blocks.pair] * blocks.sign.unsqueeze(-1)
    expected = spherical_harmonics(3, slots)
    expected[blocks.sign == 0] = 0
    came = blocks.directed(spherical_harmonics(3, vectors))
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-13)


def test_edges_without_a_reverse_are_pairs_of_their_own():
    senders, receivers = torch.tensor([1, 2, 2]), torch.tensor([0, 0, 1])
    blocks, _ = neighbor_blocks(senders, receivers, torch.zeros(3, 3), 3)
    assert blocks.reverse is None
    x = torch.tensor([1.0, 10.0, 100.0])
    assert (blocks.gather(x) * blocks.sign).sum(1).tolist() == [110.0, 100.0, 0.0]
    assert blocks.collect(blocks.sign.double()).tolist() == [0.0, 1.0, 2.0]
    assert blocks.sum_pairs(torch.tensor([1.0, 2.0, 4.0])).tolist() == [3.0, 4.0, 0.0]
    assert blocks.divergence(torch.tensor([1.0, 2.0, 4.0])).tolist() == [-3.0, -3.0, 6.0]


def test_a_pair_listed_with_the_wrong_image_has_no_reverse():
    senders, receivers = torch.tensor([1, 0]), torch.tensor([0, 1])
    assert reverse_edges(senders, receivers, torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])) is None
    partner = reverse_edges(senders, receivers, torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))
    assert partner.tolist() == [1, 0]


def test_no_edges_give_rows_of_no_width():
    none = torch.zeros(0, dtype=torch.long)
    for rows in (3, 0):
        blocks, edges = neighbor_blocks(none, none, torch.zeros(0, 3), rows)
        assert blocks.pair.shape == (rows, 0)
        assert edges.shape == (0,)
        assert blocks.collect(blocks.gather(torch.ones(rows, 2))).shape == (rows, 2)
