import torch
from ase import Atoms
from ase.build import bulk, molecule

from equiv.graph import AtomGraph, collate
from equiv.graph.layout import lay_out

ELEMENTS = torch.tensor([1, 6, 8])


def laid_out(*structures, padded=False, cutoff=4.0):
    batch = collate([AtomGraph.from_atoms(atoms, cutoff) for atoms in structures])
    species = torch.searchsorted(ELEMENTS, batch.atomic_numbers)
    return batch, lay_out(batch, species, 3, padded=padded)


MIXED = [molecule("CH3CH2OH"), Atoms("H"), bulk("C") * (2, 1, 1)]


def test_rows_are_sorted_by_element_and_lead_back_to_the_atoms():
    batch, layout = laid_out(*MIXED)
    atoms = torch.cat(layout.members)
    assert torch.equal(atoms[layout.rows], torch.arange(len(atoms)))
    assert torch.equal(ELEMENTS[layout.species], batch.atomic_numbers[atoms])
    assert layout.counts == [7, 6, 1]
    assert torch.equal(layout.structures.of, batch.batch[atoms])


def test_pairs_carry_the_vectors_of_their_edges():
    for padded in (False, True):
        batch, layout = laid_out(*MIXED, padded=padded)
        vectors = layout.pair_vectors(*layout.geometry(batch), padding=9.0)
        shifts = torch.einsum("ei,eij->ej", batch.shifts, batch.cell[batch.batch[batch.receivers]])
        expected = batch.positions[batch.senders] + shifts - batch.positions[batch.receivers]
        assert len(vectors) == len(expected) / 2
        torch.testing.assert_close(vectors, expected[layout.edges], rtol=0, atol=1e-14)
    batch, layout = laid_out(Atoms("H2", [[0, 0, 0], [0, 0, 0.8]]), padded=True)
    vectors = layout.pair_vectors(*layout.geometry(batch), padding=9.0)
    assert vectors.norm(dim=1).tolist() == [0.8, 9.0]


def test_padding_leaves_no_size_of_zero_or_one():
    for structures in ([Atoms("H")], [Atoms()], MIXED, [molecule("H2O")]):
        batch, layout = laid_out(*structures, padded=True)
        assert min(layout.counts) >= 2
        assert min(*layout.neighbors.pair.shape, *layout.structures.table.shape) >= 2
        assert len(layout.neighbors.first) >= 2
        assert layout.rows.shape[0] == batch.positions.shape[0]
        _, cell = layout.geometry(batch)
        assert cell.shape[0] == batch.num_graphs + 1
        ghosts = torch.cat(layout.members) == batch.positions.shape[0]
        assert not layout.neighbors.sign[layout.neighbors.spread(ghosts)].any()
        assert (layout.structures.of[ghosts] == batch.num_graphs).all()


def test_sums_over_structures_leave_out_what_belongs_to_others():
    _, layout = laid_out(*MIXED, padded=True)
    ones = torch.ones(sum(layout.counts))
    assert layout.structures.total(ones).tolist() == [9.0, 1.0, 4.0, 1.0]


def test_crowded_atoms_among_lonely_ones_share_the_rectangle():
    batch, layout = laid_out(bulk("C", cubic=True), *[molecule("H2O")] * 20)
    assert layout.neighbors.parts is not None
    assert layout.neighbors.pair.numel() < 0.5 * len(layout.rows) * 80
    assert layout.neighbors.sign.abs().sum() == batch.num_edges
    lengths = layout.pair_vectors(*layout.geometry(batch), padding=9.0).norm(dim=-1)
    assert lengths.max() < 4.0
