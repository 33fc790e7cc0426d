import numpy as np
import pytest
from ase import Atoms

from equiv.data import Dataset, Frame, split_frames
from equiv.errors import DataError


def frame(k, **info):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 1e-3 * k]], info=info)
    return Frame(atoms, float(k), None, None, "a.xyz", k)


def numbers(dataset):
    return [int(f.energy) for f in dataset]


@pytest.fixture
def data():
    return Dataset([frame(k) for k in range(400)])


def test_the_parts_are_disjoint_complete_and_of_the_right_size(data):
    train, valid = split_frames(data, 0.1, seed=0)
    assert sorted(numbers(train) + numbers(valid)) == list(range(400))
    assert 22 <= len(valid) <= 58  # three standard deviations of a binomial
    assert numbers(train) == sorted(numbers(train))


def test_the_split_is_known(data):
    _, valid = split_frames(data, 0.02, seed=0)
    assert numbers(valid) == numbers(split_frames(data, 0.02, seed=0)[1])
    assert numbers(valid) != numbers(split_frames(data, 0.02, seed=1)[1])


def test_the_order_and_the_labels_do_not_matter(data):
    _, valid = split_frames(data, 0.1, seed=0)
    order = np.random.default_rng(0).permutation(400)
    shuffled = data.subset(order)
    for f in shuffled:
        f.source, f.index = "b.xyz", 0
    assert sorted(numbers(split_frames(shuffled, 0.1, seed=0)[1])) == numbers(valid)


def test_appended_structures_leave_the_others_where_they_were(data):
    _, valid = split_frames(data, 0.1, seed=0)
    more = Dataset(data.frames + [frame(k) for k in range(400, 600)])
    _, later = split_frames(more, 0.1, seed=0)
    assert [k for k in numbers(later) if k < 400] == numbers(valid)


def test_equal_structures_stay_together(data):
    twice = Dataset(data.frames + [frame(k) for k in range(400)])
    train, valid = split_frames(twice, 0.3, seed=0)
    assert not set(numbers(train)) & set(numbers(valid))


def test_groups_stay_together():
    data = Dataset([frame(k, run=k // 10) for k in range(400)])
    train, valid = split_frames(data, 0.2, seed=0, group_key="run")
    runs = [{f.atoms.info["run"] for f in part} for part in (train, valid)]
    assert not runs[0] & runs[1]
    assert len(valid) % 10 == 0
    assert len(valid) > 0


def test_neither_part_is_ever_empty():
    for seed in range(30):
        train, valid = split_frames(Dataset([frame(0), frame(1)]), 0.01, seed=seed)
        assert (len(train), len(valid)) == (1, 1)
        train, valid = split_frames(Dataset([frame(0), frame(1)]), 0.99, seed=seed)
        assert (len(train), len(valid)) == (1, 1)


def test_nothing_held_out_is_possible(data):
    train, valid = split_frames(data, 0.0, seed=0)
    assert (len(train), len(valid)) == (400, 0)


def test_what_cannot_be_split_is_an_error():
    with pytest.raises(DataError, match="1 distinct structure"):
        split_frames(Dataset([frame(0), frame(0)]), 0.1, seed=0)
    with pytest.raises(DataError, match=r"1 distinct group \(run\)"):
        split_frames(Dataset([frame(k, run=1) for k in range(9)]), 0.1, seed=0, group_key="run")
    with pytest.raises(DataError, match=r"a.xyz:1 has no 'run'"):
        split_frames(Dataset([frame(0, run=1), frame(1)]), 0.1, seed=0, group_key="run")
    with pytest.raises(DataError, match="valid_fraction"):
        split_frames(Dataset([frame(0)]), 1.0, seed=0)
