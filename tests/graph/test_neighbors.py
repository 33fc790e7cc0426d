import itertools

import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from equiv.errors import DataError, EquivError
from equiv.graph import neighbor_list
from equiv.graph.neighbors import _search_box, _tree_pairs

PBC = list(itertools.product([False, True], repeat=3))


def brute_force(positions, cell, pbc, cutoff):
    """Every image within reach, tried one by one; the definition and nothing else."""
    periodic = cell[pbc]
    span = np.linalg.norm(np.ptp(positions, axis=0)) if len(positions) else 0.0
    counts = np.zeros(3, dtype=int)
    if len(periodic):
        heights = 1 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)
        counts[pbc] = np.ceil((cutoff + span) / heights)
    found = []
    for shift in itertools.product(*(range(-n, n + 1) for n in counts)):
        vectors = positions[None] + np.array(shift) @ cell - positions[:, None]
        for i, j in np.argwhere(np.linalg.norm(vectors, axis=-1) < cutoff):
            if i != j or any(shift):
                found.append((i, j, *shift))
    return sorted(found)


def rows(found):
    table = np.column_stack([found.receivers, found.senders, found.shifts])
    return [tuple(row) for row in table.tolist()]


def random_structure(seed, atoms=6, spread=7.0):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) + np.diag(rng.choice([-1, 1], 3) * rng.uniform(2, 4, 3))
    return rng.uniform(-spread, spread, (atoms, 3)), cell


@pytest.mark.parametrize("pbc", PBC, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_pairs_equal_those_of_brute_force_in_any_periodicity(pbc, seed):
    positions, cell = random_structure(seed, atoms=12)
    found = neighbor_list(positions, cell, np.array(pbc), 3.7)
    assert rows(found) == brute_force(positions, cell, np.array(pbc), 3.7)
    assert len(found) > 0


@given(
    seed=st.integers(0, 2**32 - 1),
    atoms=st.integers(0, 5),
    pbc=st.sampled_from(PBC),
    cutoff=st.floats(0.5, 4.5),
    scale=st.floats(0.4, 3.0),
)
@settings(max_examples=80, deadline=None)
def test_pairs_equal_those_of_brute_force_on_random_structures(seed, atoms, pbc, cutoff, scale):
    rng = np.random.default_rng(seed)
    cell = scale * (np.eye(3)[rng.permutation(3)] + rng.uniform(-0.25, 0.25, (3, 3)))
    positions = rng.uniform(-4, 4, (atoms, 3))
    found = neighbor_list(positions, cell, np.array(pbc), cutoff)
    assert rows(found) == brute_force(positions, cell, np.array(pbc), cutoff)


@pytest.mark.parametrize("pbc", PBC, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_equal_those_of_ase(pbc, seed):
    rng = np.random.default_rng(seed)
    cell = np.diag([4.0, 5.0, 6.0]) + rng.uniform(-1, 1, (3, 3))
    positions = rng.uniform(0, 1, (30, 3)) @ cell
    found = neighbor_list(positions, cell, np.array(pbc), 4.2)
    i, j, shifts = primitive_neighbor_list("ijS", list(pbc), cell, positions, 4.2)
    theirs = sorted(tuple(row) for row in np.column_stack([i, j, shifts]).tolist())
    assert rows(found) == theirs


def test_a_cell_much_smaller_than_the_cutoff_yields_all_images_of_its_atom():
    found = neighbor_list(np.zeros((1, 3)), 0.9 * np.eye(3), np.ones(3, bool), 5.0)
    grid = itertools.product(range(-6, 7), repeat=3)
    inside = [s for s in grid if 0 < np.linalg.norm(0.9 * np.array(s)) < 5.0]
    assert sorted(map(tuple, found.shifts.tolist())) == sorted(inside)
    assert len(found) > 600


def test_left_handed_cells_give_the_same_distances_as_right_handed_ones():
    positions, cell = random_structure(5)
    mirrored = cell[[1, 0, 2]]
    first = neighbor_list(positions, cell, np.ones(3, bool), 4.0)
    second = neighbor_list(positions, mirrored, np.ones(3, bool), 4.0)
    as_first = sorted((r, s, b, a, c) for r, s, a, b, c in rows(second))
    assert rows(first) == as_first
    assert np.linalg.det(cell) * np.linalg.det(mirrored) < 0


@pytest.mark.parametrize("pbc", PBC, ids=str)
def test_what_the_file_wrote_into_unused_cell_rows_does_not_matter(pbc):
    positions, cell = random_structure(7)
    zeroed, nonsense = cell.copy(), cell.copy()
    zeroed[~np.array(pbc)] = 0
    nonsense[~np.array(pbc)] = np.nan
    expected = rows(neighbor_list(positions, cell, np.array(pbc), 4.0))
    assert rows(neighbor_list(positions, zeroed, np.array(pbc), 4.0)) == expected
    assert rows(neighbor_list(positions, nonsense, np.array(pbc), 4.0)) == expected


def test_moving_an_atom_by_lattice_vectors_moves_only_its_shifts():
    positions, cell = random_structure(9)
    there = positions.copy()
    there[2] += np.array([70000, -3, 5]) @ cell
    here = neighbor_list(positions, cell, np.ones(3, bool), 4.0)
    moved = neighbor_list(there, cell, np.ones(3, bool), 4.0)
    offset = np.zeros((6, 3), dtype=int)
    offset[2] = [70000, -3, 5]
    back = moved.shifts + offset[moved.senders] - offset[moved.receivers]
    restored = np.column_stack([moved.receivers, moved.senders, back]).tolist()
    assert sorted(map(tuple, restored)) == rows(here)


@pytest.mark.parametrize("pbc", PBC, ids=str)
def test_the_tree_search_equals_the_grid_search(pbc):
    positions, cell = random_structure(11, atoms=40)
    pbc = np.array(pbc)
    box, origin, heights = _search_box(positions, cell, pbc, 4.0)
    fractional = (positions - origin) @ np.linalg.inv(box)
    inside = positions - origin - np.where(pbc, np.floor(fractional), 0) @ box
    i, j, shifts = _tree_pairs(inside, box, pbc, heights, 4.0)
    found = neighbor_list(inside, box, pbc, 4.0)
    assert sorted(map(tuple, np.column_stack([i, j, shifts]).tolist())) == rows(found)


@pytest.mark.parametrize("far", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)], ids=str)
def test_atoms_at_astronomic_distances_are_no_problem(far, pbc):
    positions = np.array([[0, 0, 0], [1, 0, 0], [1, far, far], [2, far, far]], dtype=float)
    cell = np.diag([30.0, 2 * far, 2 * far])
    found = neighbor_list(positions, cell, np.array(pbc, dtype=bool), 5.0)
    assert rows(found) == [(0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (2, 3, 0, 0, 0), (3, 2, 0, 0, 0)]


def test_the_order_does_not_depend_on_chance():
    positions, cell = random_structure(13, atoms=25)
    first = neighbor_list(positions, cell, np.ones(3, bool), 4.0)
    for _ in range(3):
        assert rows(neighbor_list(positions, cell, np.ones(3, bool), 4.0)) == rows(first)
    assert rows(first) == sorted(rows(first))
    assert first.senders.dtype == first.receivers.dtype == first.shifts.dtype == np.int64


@pytest.mark.parametrize("pbc", PBC, ids=str)
def test_an_empty_structure_has_no_pairs(pbc):
    found = neighbor_list(np.zeros((0, 3)), np.eye(3), np.array(pbc), 5.0)
    assert found.senders.shape == (0,)
    assert found.shifts.shape == (0, 3)


def test_one_atom_alone_has_no_pairs():
    assert len(neighbor_list(np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool), 5.0)) == 0


def test_a_pair_at_exactly_the_cutoff_is_left_out():
    positions = np.array([[0.0, 0, 0], [0, 0, 2.0]])
    none = np.zeros(3, bool)
    assert len(neighbor_list(positions, np.zeros((3, 3)), none, 2.0)) == 0
    assert len(neighbor_list(positions, np.zeros((3, 3)), none, 2.0 + 1e-9)) == 2


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cutoff_that_is_no_length_is_refused(cutoff):
    with pytest.raises(EquivError, match="cutoff must be a positive number of Angstrom"):
        neighbor_list(np.zeros((1, 3)), np.eye(3), np.zeros(3, bool), cutoff)


@pytest.mark.parametrize(
    ("positions", "cell", "message"),
    [
        (
            [[0, 0, 0], [0, np.nan, 0]],
            np.eye(3),
            "positions of 1 of 2 atoms are not finite.*atom 1",
        ),
        ([[0, 0]], np.eye(3), r"positions must have shape \(atoms, 3\)"),
        ([[0, 0, 0]], np.eye(2), r"cell must have shape \(3, 3\)"),
        ([[0, 0, 0]], np.diag([1, np.inf, 1]), "cell has entries that are not finite"),
        ([[0, 0, 0]], np.diag([1, 0, 1]), "direction b is periodic but its lattice vector is zero"),
        ([[0, 0, 0]], [[1, 0, 0], [2, 0, 0], [0, 0, 1]], "linearly dependent"),
        ([[0, 0, 0]], 1e-4 * np.eye(3), "only 0.0001 Angstrom thick"),
    ],
)
def test_structures_without_meaning_are_refused_with_the_reason(positions, cell, message):
    with pytest.raises(DataError, match=message):
        neighbor_list(np.array(positions), np.array(cell), np.ones(3, bool), 5.0)


def test_more_pairs_than_fit_into_memory_are_refused_before_they_are_searched():
    positions = np.random.default_rng(0).uniform(0, 3, (40000, 3))
    with pytest.raises(DataError, match=r"40000 atoms would have about .* neighbours each"):
        neighbor_list(positions, np.zeros((3, 3)), np.zeros(3, bool), 5.0)


def test_a_large_but_ordinary_structure_is_searched():
    side = 3.0 * np.arange(30)
    positions = np.stack(np.meshgrid(side, side, side), axis=-1).reshape(-1, 3)
    found = neighbor_list(positions, 90.0 * np.eye(3), np.ones(3, bool), 3.5)
    assert len(found) == 6 * 27000


def test_a_structure_in_the_wrong_unit_is_refused_before_it_fills_the_memory():
    cell = np.eye(3) * 0.05
    with pytest.raises(ValueError, match=r"check the unit of length"):
        neighbor_list(np.zeros((1, 3)), cell, np.ones(3, dtype=bool), 5.0)
    dense = np.random.default_rng(0).uniform(0, 0.5, (3000, 3))
    with pytest.raises(ValueError, match=r"3000 atoms would have about"):
        neighbor_list(dense, np.eye(3) * 0.5, np.ones(3, dtype=bool), 5.0)
