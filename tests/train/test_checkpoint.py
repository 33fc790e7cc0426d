import random

import numpy as np
import pytest
import torch

from equiv.train.checkpoint import (
    NAME,
    PREVIOUS,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from equiv.train.randomness import own_randomness, own_settings, random_tensors, restore_random


def checkpoint(value):
    return Checkpoint(
        {"model/w": torch.full((3,), value), "random/torch": torch.arange(5, dtype=torch.uint8)},
        {"step": value},
    )


def refuse(problem):
    raise AssertionError(problem)


def test_what_is_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1.5))
    loaded = load_checkpoint(tmp_path, refuse)
    assert loaded.state == {"step": 1.5}
    assert loaded.part("model")["w"].tolist() == [1.5] * 3
    assert loaded.part("random")["torch"].dtype == torch.uint8


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path, refuse) is None


def test_two_generations_are_kept_and_nothing_else(tmp_path):
    for value in (1.0, 2.0, 3.0):
        save_checkpoint(tmp_path, checkpoint(value))
    assert read_checkpoint(tmp_path / NAME).state["step"] == 3.0
    assert read_checkpoint(tmp_path / PREVIOUS).state["step"] == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, NAME]


@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 0.99])
def test_a_flipped_bit_anywhere_is_noticed_and_the_previous_generation_is_used(tmp_path, place):
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, checkpoint(value))
    content = bytearray((tmp_path / NAME).read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / NAME).write_bytes(content)
    complaints = []
    assert load_checkpoint(tmp_path, complaints.append).state["step"] == 1.0
    assert len(complaints) == 1
    assert "checkpoint.safetensors is " in complaints[0]
    assert "continuing from the previous checkpoint" in complaints[0]


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_cut_file_is_noticed(tmp_path, length):
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, checkpoint(value))
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:length])
    complaints = []
    assert load_checkpoint(tmp_path, complaints.append).state["step"] == 1.0
    assert "damaged" in complaints[0]


def test_a_missing_newest_checkpoint_is_said(tmp_path):
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, checkpoint(value))
    (tmp_path / NAME).unlink()
    complaints = []
    assert load_checkpoint(tmp_path, complaints.append).state["step"] == 1.0
    assert "missing" in complaints[0]


def test_two_damaged_checkpoints_stop_the_run(tmp_path):
    for name in (NAME, PREVIOUS):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="delete the checkpoints"):
        load_checkpoint(tmp_path, refuse)


def test_a_newer_format_asks_for_an_upgrade(tmp_path, monkeypatch):
    monkeypatch.setattr("equiv.train.checkpoint.FORMAT_VERSION", 2)
    save_checkpoint(tmp_path, checkpoint(1.0))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="upgrade equiv"):
        read_checkpoint(tmp_path / NAME)


def draw():
    return (
        torch.rand(3).tolist(),
        np.random.normal(size=3).tolist(),  # noqa: NPY002
        random.gauss(0, 1),
        random.random(),
    )


def test_random_states_survive_the_disk(tmp_path):
    with own_randomness(5):
        np.random.normal()  # noqa: NPY002  (leaves half a pair of normal numbers behind)
        random.gauss(0, 1)
        save_checkpoint(
            tmp_path, Checkpoint({f"random/{k}": v for k, v in random_tensors().items()}, {})
        )
        expected = draw()
        draw()
        restore_random(read_checkpoint(tmp_path / NAME).part("random"))
        assert draw() == expected


def test_a_run_leaves_the_callers_random_states_and_settings_alone():
    before = random_tensors()
    threads = torch.get_num_threads()
    with own_settings(threads=threads + 1, deterministic=True), own_randomness(7):
        draw()
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    after = random_tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_generations_never_share_their_bytes_and_debris_is_removed(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))
        inodes = [path.stat().st_ino for path in tmp_path.iterdir()]
        assert len(set(inodes)) == len(inodes) == step
    (tmp_path / f".0badcafe.{NAME}").write_bytes(b"half a checkpoint")
    assert load_checkpoint(tmp_path, refuse) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, NAME]
