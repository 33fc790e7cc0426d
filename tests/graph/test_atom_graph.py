from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equiv.errors import DataError, EquivError
from equiv.graph import AtomGraph, collate, neighbor_list

CUTOFF = 4.5


@dataclass
class Labelled:
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    weight: float = 1.0
    index: int = 0


def structures():
    wire = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.8]], cell=[0, 0, 2.5], pbc=[0, 0, 1])
    return [
        bulk("Cu"),
        molecule("CH3CH2OH"),
        Atoms("H"),
        Atoms(),
        wire,
        bulk("NaCl", "rocksalt", 5.6),
    ]


def vectors(graph):
    cell = graph.cell[graph.batch[graph.receivers]] if "batch" in graph else graph.cell
    shift = (graph.shifts[:, None] @ cell)[:, 0]
    return graph.positions[graph.senders] + shift - graph.positions[graph.receivers]


def test_a_graph_holds_the_structure_and_its_neighbour_list():
    atoms = bulk("NaCl", "rocksalt", 5.6)
    graph = AtomGraph.from_atoms(atoms, CUTOFF)
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    assert graph.positions.dtype == torch.float64
    assert graph.shifts.dtype == torch.float64
    assert graph.atomic_numbers.tolist() == [11, 17]
    assert torch.equal(graph.cell[0], torch.tensor(atoms.cell.array))
    assert graph.pbc.tolist() == [[True, True, True]]
    assert graph.senders.tolist() == found.senders.tolist()
    assert graph.shifts.tolist() == found.shifts.tolist()
    assert graph.num_nodes == 2
    assert graph.num_edges == len(found)


def test_a_graph_does_not_share_memory_with_its_atoms():
    atoms = molecule("H2O")
    graph = AtomGraph.from_atoms(atoms, CUTOFF)
    before = graph.positions.clone()
    atoms.positions += 1
    atoms.numbers[:] = 1
    assert torch.equal(graph.positions, before)
    assert graph.atomic_numbers.tolist() == [8, 1, 1]


def test_labels_are_kept_and_missing_ones_are_nan_and_masked():
    forces = np.arange(9.0).reshape(3, 3)
    labels = Labelled(energy=-3.5, forces=forces, weight=2.0, index=17)
    graph = AtomGraph.from_atoms(molecule("H2O"), CUTOFF, labels=labels)
    assert graph.energy.tolist() == [-3.5]
    assert torch.equal(graph.forces, torch.tensor(forces))
    assert graph.stress.shape == (1, 3, 3)
    assert graph.stress.isnan().all()
    assert (graph.has_energy.item(), graph.has_forces.item(), graph.has_stress.item()) == (1, 1, 0)
    assert graph.weight.tolist() == [2.0]
    assert graph.frame_index.tolist() == [17]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Labelled(forces=np.zeros((2, 3))), r"forces must have shape \(3, 3\).*got \(2, 3\)"),
        (Labelled(stress=np.zeros(6)), r"stress must have shape \(3, 3\).*got \(6,\)"),
    ],
)
def test_labels_of_the_wrong_shape_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        AtomGraph.from_atoms(molecule("H2O"), CUTOFF, labels=labels)


def test_ghost_atoms_are_refused():
    with pytest.raises(DataError, match=r"atom 1 has atomic number 0.*ghost"):
        AtomGraph.from_atoms(Atoms("HX", positions=np.eye(3)[:2]), CUTOFF)


def test_a_batch_holds_its_graphs_side_by_side():
    graphs = [
        AtomGraph.from_atoms(atoms, CUTOFF, labels=Labelled(energy=float(k), index=10 * k))
        for k, atoms in enumerate(structures())
    ]
    batch = collate(graphs)
    sizes = [len(atoms) for atoms in structures()]
    assert isinstance(batch, AtomGraph)
    assert batch.num_graphs == len(graphs)
    assert batch.num_nodes == sum(sizes)
    assert batch.num_edges == sum(graph.num_edges for graph in graphs)
    assert torch.bincount(batch.batch, minlength=len(graphs)).tolist() == sizes
    assert batch.ptr.tolist() == np.cumsum([0, *sizes]).tolist()
    assert batch.cell.shape == (len(graphs), 3, 3)
    assert batch.pbc.shape == (len(graphs), 3)
    assert batch.energy.tolist() == [0.0, 1, 2, 3, 4, 5]
    assert batch.frame_index.tolist() == [0, 10, 20, 30, 40, 50]
    assert (batch.batch[batch.senders] == batch.batch[batch.receivers]).all()
    assert (batch.receivers.diff() >= 0).all()
    assert torch.equal(vectors(batch), torch.cat([vectors(graph) for graph in graphs]))
    assert (vectors(batch).norm(dim=1) < CUTOFF).all()


def test_a_batch_comes_apart_into_what_it_was_made_of():
    graphs = [AtomGraph.from_atoms(atoms, CUTOFF) for atoms in structures()]
    for graph, again in zip(graphs, collate(graphs).to_data_list(), strict=True):
        for name in (
            "positions",
            "atomic_numbers",
            "cell",
            "pbc",
            "senders",
            "receivers",
            "shifts",
        ):
            assert torch.equal(graph[name], again[name]), name


@pytest.mark.parametrize("atoms", structures(), ids=lambda atoms: str(atoms.symbols) or "nothing")
def test_a_batch_of_one_works(atoms):
    graph = AtomGraph.from_atoms(atoms, CUTOFF)
    batch = collate([graph])
    assert batch.num_graphs == 1
    assert batch.batch.tolist() == [0] * len(atoms)
    assert torch.equal(batch.senders, graph.senders)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(EquivError, match="at least one graph"):
        collate([])
