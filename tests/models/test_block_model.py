import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch.fx.experimental.proxy_tensor import make_fx

from equiv.graph import AtomGraph, collate
from equiv.graph.blocks import NeighborBlocks
from equiv.graph.groups import Groups
from equiv.graph.layout import Layout
from equiv.models import build_model
from equiv.models.block_model import in_batch_order

FIELDS = ("energy", "energies", "forces", "stress", "virials", "atomic_virials")


@pytest.fixture(scope="module")
def model():
    model = build_model(
        "mace",
        seed=0,
        dtype=torch.float64,
        elements=["H", "C", "O"],
        cutoff=4.0,
        channels=4,
        edge_degree=2,
        correlation=2,
        radial_hidden=[8],
        mean_neighbors=8.0,
        reference_energies={"H": -13.6, "C": -1029.3, "O": -2041.7},
        shift=0.3,
    )
    return model.eval().requires_grad_(False)


def batch_of(*structures):
    return collate([AtomGraph.from_atoms(atoms, 4.0) for atoms in structures])


STRUCTURES = {
    "one atom": [Atoms("H")],
    "two atoms": [Atoms("OH", [[0, 0, 0], [0, 0, 1.0]])],
    "molecules": [molecule("CH3CH2OH"), molecule("H2O"), Atoms("C")],
    "crystal among molecules": [bulk("C", cubic=True), *[molecule("CH4")] * 12],
}


@pytest.mark.parametrize("structures", STRUCTURES, ids=str)
def test_ghosts_change_nothing(model, structures):
    batch = batch_of(*STRUCTURES[structures])
    expected = model(batch, stress=True, atomic_virials=True)
    layout = model.layout(batch, padded=True)
    prediction = model.evaluate(*layout.geometry(batch), layout, stress=True, atomic_virials=True)
    prediction = in_batch_order(prediction, layout, batch.num_graphs)
    for name in FIELDS:
        ours, theirs = getattr(prediction, name), getattr(expected, name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11, equal_nan=True)


def leaves(layout):
    """The tensors of a layout, and how to put them together again."""
    neighbors, structures = layout.neighbors, layout.structures
    return [
        *layout.members,
        layout.species,
        layout.rows,
        structures.of,
        structures.table,
        *(getattr(neighbors, name) for name in PAIRED),
        layout.edges,
        layout.shifts,
    ]


PAIRED = ("first", "second", "pair", "sign", "senders", "slots", "reverse")


def joined(tensors, num_elements=3):
    members, rest = tensors[:num_elements], iter(tensors[num_elements:])
    species, rows = next(rest), next(rest)
    structures = Groups(next(rest), next(rest))
    neighbors = NeighborBlocks(**{name: next(rest) for name in PAIRED})
    return Layout(tuple(members), species, rows, structures, neighbors, next(rest), next(rest))


def test_one_traced_graph_serves_structures_of_all_sizes(model):
    def function(positions, cell, *tensors):
        prediction = model.evaluate(positions, cell, joined(tensors), stress=True)
        return prediction.energy, prediction.forces, prediction.virials

    def arguments(*structures):
        batch = batch_of(*structures)
        layout = model.layout(batch, padded=True)
        return batch, layout, [*layout.geometry(batch), *leaves(layout)]

    _, _, traced_on = arguments(molecule("CH3CH2OH"), molecule("H2O"))
    graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*traced_on)
    for structures in ([molecule("C6H6")], [molecule("CO")] * 7, [bulk("C", cubic=True)]):
        batch, layout, given = arguments(*structures)
        energy, forces, virials = graph(*given)
        expected = model(batch, stress=True)
        n = batch.num_graphs
        torch.testing.assert_close(energy[:n], expected.energy, rtol=0, atol=1e-10)
        torch.testing.assert_close(forces[layout.rows], expected.forces, rtol=0, atol=1e-11)
        torch.testing.assert_close(virials[:n], expected.virials, rtol=0, atol=1e-11)


def test_nothing_in_it_scatters(model):
    """Sums over atoms and their gradients are gathers: the same order on every device."""

    def loss(positions, cell, *tensors):
        prediction = model.evaluate(positions, cell, joined(tensors), differentiable=True)
        return prediction.energy.sum() + (prediction.forces**2).sum()

    batch = batch_of(molecule("CH3CH2OH"), molecule("H2O"))
    model(batch)  # constants are made at the first evaluation
    layout = model.layout(batch, padded=True)
    given = [*layout.geometry(batch), *leaves(layout)]
    graph = make_fx(loss, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*given)
    for node in graph.graph.nodes:
        name = str(node.target)
        over_atoms = "index_add" in name and node.args[1] == 0
        accumulates = "index_put" in name and len(node.args) > 3 and node.args[3]
        scatters = over_atoms or accumulates or "scatter_add" in name
        assert not scatters, f"{name} of {node.args}"


def test_flat_edges_give_the_same_energies(model):
    batch = batch_of(molecule("CH3CH2OH"), molecule("H2O"))
    vectors = batch.positions[batch.senders] - batch.positions[batch.receivers]
    energies = model.atomic_energies(batch, vectors, model.species(batch.atomic_numbers))
    torch.testing.assert_close(energies, model(batch).energies, rtol=0, atol=1e-11)


def test_forces_of_the_hessian_are_differentiated_through_the_positions(model):
    batch = batch_of(molecule("H2O"))
    hessian = model.hessian(batch)
    translation = torch.ones(3, 1, dtype=torch.float64)
    rows = hessian.view(9, 3, 3)  # moving all atoms alike changes no force
    assert (rows.transpose(1, 2) @ translation).abs().max() < 1e-10
    assert hessian.abs().max() > 1e-3
