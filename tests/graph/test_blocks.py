import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equiv.graph import AtomGraph, collate
from equiv.graph.blocks import NeighborBlocks, neighbor_blocks, reverse_edges


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


def dense(blocks: NeighborBlocks, rows: int):
    """The matrix from rows to slots that gather stands for, and the receiver of each slot."""
    sent = torch.nn.functional.one_hot(blocks.senders.flatten(), rows).double()
    receivers = torch.arange(rows) if blocks.parts is None else blocks.parts.of
    return sent, receivers.repeat_interleave(blocks.senders.shape[1])


def test_every_edge_has_one_slot_in_a_block_of_its_receiver(arranged):
    (senders, receivers, _), blocks, edge = arranged
    rows = len(blocks.senders) if blocks.parts is None else len(blocks.parts.table)
    assert torch.equal(edge[blocks.mask].sort().values, torch.arange(len(senders)))
    assert (edge[~blocks.mask] == len(senders)).all()
    _, of_slot = dense(blocks, rows)
    assert torch.equal(of_slot.view_as(edge)[blocks.mask], receivers[edge[blocks.mask]])
    assert torch.equal(blocks.senders[blocks.mask], senders[edge[blocks.mask]])


def test_slots_come_in_pairs(arranged):
    (senders, receivers, shifts), blocks, edge = arranged
    reverse = blocks.reverse.flatten()
    slots = torch.arange(len(reverse))
    assert torch.equal(reverse[reverse], slots)
    assert torch.equal(reverse[~blocks.mask.flatten()], slots[~blocks.mask.flatten()])
    one = edge.flatten()[blocks.mask.flatten()]
    other = edge.flatten()[reverse[blocks.mask.flatten()]]
    assert torch.equal(senders[one], receivers[other])
    assert torch.equal(shifts[one], -shifts[other])


def test_crowded_rows_are_split_and_even_ones_are_not():
    even = edges_of(bulk("Si", cubic=True) * 2, 5.0)
    assert neighbor_blocks(*even, 64)[0].parts is None
    edges = edges_of(uneven())
    blocks, _ = neighbor_blocks(*edges, 171)
    assert blocks.parts is not None
    assert blocks.senders.numel() < 0.6 * 171 * 40


def test_gather_and_collect_are_adjoint_and_differentiable_twice(arranged):
    _, blocks, _ = arranged
    rows = len(blocks.senders) if blocks.parts is None else len(blocks.parts.table)
    sent, of_slot = dense(blocks, rows)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 2, dtype=torch.float64, generator=generator).requires_grad_()
    y = torch.randn(*blocks.senders.shape, 2, dtype=torch.float64, generator=generator)
    y.requires_grad_()
    torch.testing.assert_close(blocks.gather(x).flatten(0, 1), sent @ x, rtol=0, atol=0)
    torch.testing.assert_close(blocks.collect(y), sent.T @ y.flatten(0, 1), rtol=0, atol=1e-13)
    if rows < 10:
        assert torch.autograd.gradcheck(blocks.gather, x)
        assert torch.autograd.gradcheck(blocks.collect, y)
        assert torch.autograd.gradgradcheck(lambda x: blocks.gather(x**2), x)
        assert torch.autograd.gradgradcheck(lambda y: blocks.collect(y**2), y)
    (gradient,) = torch.autograd.grad((blocks.gather(x) * y).sum(), x)
    torch.testing.assert_close(gradient, sent.T @ y.flatten(0, 1), rtol=0, atol=1e-13)
    totals = blocks.total(y.sum(1))
    expected = torch.zeros_like(x).index_add(0, of_slot, y.flatten(0, 1))
    torch.testing.assert_close(totals, expected, rtol=0, atol=1e-13)


def test_edges_without_a_reverse_are_gathered_and_collected_all_the_same():
    senders, receivers = torch.tensor([1, 2, 2]), torch.tensor([0, 0, 1])
    blocks, _ = neighbor_blocks(senders, receivers, torch.zeros(3, 3), 3)
    assert blocks.reverse is None
    x = torch.tensor([1.0, 10.0, 100.0])
    assert (blocks.gather(x) * blocks.mask).sum(1).tolist() == [110.0, 100.0, 0.0]
    assert blocks.collect(blocks.mask.double()).tolist() == [0.0, 1.0, 2.0]


def test_a_pair_listed_with_the_wrong_image_has_no_reverse():
    senders, receivers = torch.tensor([1, 0]), torch.tensor([0, 1])
    assert reverse_edges(senders, receivers, torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])) is None
    partner = reverse_edges(senders, receivers, torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))
    assert partner.tolist() == [1, 0]


def test_no_edges_give_rows_of_no_width():
    none = torch.zeros(0, dtype=torch.long)
    for rows in (3, 0):
        blocks, edge = neighbor_blocks(none, none, torch.zeros(0, 3), rows)
        assert edge.shape == (rows, 0)
        assert blocks.collect(blocks.gather(torch.ones(rows, 2))).shape == (rows, 2)
