"""Remembered neighbour lists: exactly what a search finds, searched less often."""

import numpy as np
import pytest

from equiv.errors import EquivError
from equiv.graph.neighbors import neighbor_list
from equiv.graph.verlet import VerletList


def test_a_remembered_list_is_what_a_search_would_find():
    rng = np.random.default_rng(0)
    cell = np.array([[4.0, 0, 0], [1.0, 3.5, 0], [0.3, -0.4, 5.0]])
    positions = rng.uniform(-1, 6, (7, 3))
    for pbc in ([True] * 3, [True, False, True], [False] * 3):
        periodic, verlet = np.array(pbc), VerletList(3.0, skin=1.0)
        for _ in range(40):
            positions = positions + rng.normal(0, 0.05, positions.shape)
            found = verlet.update(positions, cell, periodic)
            expected = neighbor_list(positions, cell, periodic, 3.0)
            for name in ("senders", "receivers", "shifts"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert 1 < verlet.searches < 40


def test_a_remembered_list_is_dropped_with_anything_it_depends_on():
    verlet = VerletList(3.0, skin=1.0)
    rng = np.random.default_rng(0)
    positions, cell, pbc = rng.uniform(0, 5, (8, 3)), 5 * np.eye(3), np.array([True] * 3)
    verlet.update(positions, cell, pbc)
    verlet.update(positions + 0.1, cell, pbc)
    assert verlet.searches == 1
    moved = positions.copy()
    moved[2, 0] += 0.501
    verlet.update(moved, cell, pbc)
    assert verlet.searches == 2
    verlet.update(moved, cell * 1.0001, pbc)
    assert verlet.searches == 3
    verlet.update(moved, cell * 1.0001, np.array([True, True, False]))
    assert verlet.searches == 4
    verlet.update(moved[:5], cell * 1.0001, np.array([True, True, False]))
    assert verlet.searches == 5


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_a_skin_that_is_no_length_is_refused(skin):
    with pytest.raises(EquivError, match="skin should be a length"):
        VerletList(3.0, skin=skin)
