from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equiv.errors import EquivError
from equiv.train.sampler import EdgeBudgetSampler, automatic_edge_budget

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=60)


@settings(deadline=None)
@given(
    counts=COUNTS,
    budget=st.integers(50, 200),
    most=st.integers(1, 9),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_every_structure_is_in_exactly_one_batch_and_no_batch_breaks_a_limit(
    counts, budget, most, seed, epoch
):
    sampler = EdgeBudgetSampler(counts, max_edges=budget, max_structures=most, seed=seed)
    batches = sampler.batches(epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(counts)))
    for batch in batches:
        assert 1 <= len(batch) <= most
        assert sum(counts[i] for i in batch) <= budget


@settings(deadline=None)
@given(counts=COUNTS, budget=st.integers(50, 200), most=st.integers(1, 9), epoch=st.integers(0, 5))
def test_no_batch_is_closed_while_the_next_structure_would_fit(counts, budget, most, epoch):
    batches = EdgeBudgetSampler(counts, max_edges=budget, max_structures=most, seed=0).batches(
        epoch
    )
    for batch, following in pairwise(batches):
        full = len(batch) == most
        assert full or sum(counts[i] for i in batch) + counts[following[0]] > budget


@settings(deadline=None)
@given(counts=COUNTS, budget=st.integers(50, 200), most=st.integers(1, 9), epoch=st.integers(0, 20))
def test_no_epoch_draws_a_batch_with_more_edges_than_the_largest(counts, budget, most, epoch):
    sampler = EdgeBudgetSampler(counts, max_edges=budget, max_structures=1, seed=0)
    largest = sum(counts[i] for i in sampler.largest())
    assert all(sum(counts[i] for i in batch) <= largest for batch in sampler.batches(epoch))


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = EdgeBudgetSampler([1] * 40, max_edges=4, max_structures=4, seed=seed)
        sampler.batches(99)
        return sampler.batches(epoch)

    assert order(1, 3) == order(1, 3)
    assert order(1, 3) != order(1, 4)
    assert order(1, 3) != order(2, 3)


def test_a_structure_beyond_the_budget_is_named():
    with pytest.raises(
        EquivError,
        match=r"batch_edges = 10 is less than the 30 edges of the largest structure \(number 1\)",
    ):
        EdgeBudgetSampler([5, 30, 7], max_edges=10, max_structures=4, seed=0)


def test_no_structure_is_an_error():
    with pytest.raises(EquivError, match="no structure"):
        EdgeBudgetSampler([], max_edges=10, max_structures=4, seed=0)


@given(counts=COUNTS, most=st.integers(1, 9))
def test_the_automatic_budget_admits_every_structure(counts, most):
    budget = automatic_edge_budget(counts, most)
    assert budget >= max(counts)
    EdgeBudgetSampler(counts, max_edges=budget, max_structures=most, seed=0)


def test_equal_structures_fill_batches_to_the_requested_size():
    budget = automatic_edge_budget([100] * 10, 4)
    batches = EdgeBudgetSampler([100] * 10, max_edges=budget, max_structures=4, seed=0).batches(0)
    assert sorted(map(len, batches)) == [2, 4, 4]
    assert np.concatenate(batches).shape == (10,)
