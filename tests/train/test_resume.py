"""A run that was stopped and continued is the same run, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import ase.io
import pytest
import safetensors.torch
import torch
import yaml

from equiv.errors import RecipeError
from equiv.train import run
from equiv.train.checkpoint import NAME, PREVIOUS, CheckpointError, read_checkpoint

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from equiv.cli.main import main; sys.exit(main(sys.argv[1:]))",
    "train",
    "--no-report",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(recipe):
    return subprocess.Popen(
        [*COMMAND, str(recipe)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def numbers(folder):
    """The log without wall-clock times."""
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    clock = rows[0].index("time_s")
    return [[cell for i, cell in enumerate(row) if i != clock] for row in rows]


def wait_for_step(folder, step, process, seconds=120):
    """Wait until a checkpoint at or behind `step` is on the disk."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, process.stdout.read()
        try:
            if read_checkpoint(folder / NAME).state["position"]["step"] >= step:
                return
        except CheckpointError:  # not written yet, or changing names this very moment
            pass
        time.sleep(0.02)
    raise AssertionError("the run never came so far")


@pytest.fixture
def recipes(tiny, tmp_path):
    """Two equal recipes with folders `whole` and `cut`, checkpointing after every step."""

    def write(**train):
        paths = []
        for name in ("whole", "cut"):
            content = tiny(checkpoint_interval=0, **train) | {"output": str(tmp_path / name)}
            paths.append(tmp_path / f"{name}.yaml")
            paths[-1].write_text(yaml.safe_dump(content))
        return paths

    return write


def test_killed_in_the_middle_of_an_epoch_and_run_again_gives_the_same_bits(recipes, tmp_path):
    whole, cut = recipes(epochs=6, schedule="plateau", plateau_patience=1)
    run(whole, report=False)
    process = start(cut)
    wait_for_step(tmp_path / "cut", 12, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stopped = read_checkpoint(tmp_path / "cut" / NAME).state["position"]
    assert stopped["finished"] is None, "the run was over before it could be killed"
    result = run(cut, report=False)
    assert result.finished
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    one, two = (read_checkpoint(tmp_path / name / NAME) for name in ("whole", "cut"))
    assert same(one.tensors, two.tensors)
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")
    events = [
        json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()
    ]
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == list(range(6))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_75_and_running_again_finishes(recipes, tmp_path, number):
    whole, cut = recipes(epochs=6)
    process = start(cut)
    wait_for_step(tmp_path / "cut", 5, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert f"interrupted by {number.name}; everything is saved" in output
    assert (tmp_path / "cut" / "model.safetensors").exists()
    run(whole, report=False)
    result = run(cut, report=False)
    assert (result.finished, result.reason) == (True, "epochs")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_second_ctrl_c_exits_at_once(recipes, tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "from equiv.train.interrupt import Interruption\n"
        # A shell that starts tests in the background ignores SIGINT, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "stop = Interruption()\n"
        "with stop.watched():\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.05)\n"
        "    print(stop.name, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\n"
        "    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "SIGINT\n"
    assert "KeyboardInterrupt" in done.stderr


def test_signal_handlers_are_put_back(tiny):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run(tiny(epochs=1), report=False)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_damaged_checkpoint_costs_one_interval_and_no_accuracy(recipes, tmp_path):
    whole, cut = recipes(epochs=6)
    run(whole, report=False)
    process = start(cut)
    wait_for_step(tmp_path / "cut", 12, process)
    process.send_signal(signal.SIGTERM)  # a kill may hit the moment between two names
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    newest = tmp_path / "cut" / NAME
    content = bytearray(newest.read_bytes())
    content[-10] ^= 255
    newest.write_bytes(content)
    before = read_checkpoint(tmp_path / "cut" / PREVIOUS).state["position"]["step"]
    result = run(cut, report=False)
    assert any(
        "damaged" in warning and "previous checkpoint" in warning for warning in result.warnings
    )
    assert before >= 10
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")


def test_a_finished_run_shows_its_results_and_changes_nothing(tiny, tmp_path):
    first = run(tiny(), report=False)
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    again = run(tiny(), report=False)
    assert again.finished
    assert again.metrics == json.loads(json.dumps(first.metrics))
    after = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    assert [name for name in before if before[name] != after[name]] == []
    assert before.keys() == after.keys()


def test_a_new_test_set_for_a_finished_run_is_evaluated(tiny, emt_file):
    run(tiny(epochs=1), report=False)
    recipe = tiny(epochs=1)
    recipe["data"]["test"] = {"again": str(emt_file.with_name("valid.xyz"))}
    result = run(recipe, report=False)
    assert result.metrics["again"] == result.metrics["valid"]
    assert len(result.history) == 1


def test_more_epochs_continue_a_finished_run(tiny):
    run(tiny(epochs=2), report=False)
    result = run(tiny(epochs=4), report=False)
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3]
    assert result.finished


def test_another_recipe_is_refused_with_the_difference_and_the_remedy(tiny):
    run(tiny(epochs=1), report=False)
    changed = tiny(epochs=1, learning_rate=0.003)
    with pytest.raises(RecipeError) as caught:
        run(changed, report=False)
    assert "train.learning_rate: 0.01 -> 0.003" in str(caught.value)
    assert "give another output folder (--output)" in str(caught.value)


def test_other_data_are_refused(tiny, emt_file, tmp_path, emt_structures):

    file = tmp_path / "data.xyz"
    ase.io.write(file, emt_structures(), format="extxyz")
    recipe = tiny(epochs=1)
    recipe["data"]["train"] = str(file)
    run(recipe, report=False)
    structures = emt_structures()
    structures[3].info["energy"] += 1e-3
    ase.io.write(file, structures, format="extxyz")
    with pytest.raises(RecipeError, match="other data"):
        run(recipe, report=False)


def test_the_same_data_under_another_name_are_the_same_data(tiny, emt_file, tmp_path):
    run(tiny(epochs=1), report=False)
    copy = tmp_path / "copy.xyz"
    copy.write_bytes(emt_file.read_bytes())
    moved = tiny(epochs=1)
    moved["data"]["train"] = str(copy)
    assert run(moved, report=False).finished


def test_two_processes_cannot_train_in_one_folder(tiny, tmp_path):
    import fcntl

    folder = tmp_path / "run"
    folder.mkdir()
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is training in"):
            run(tiny(), report=False)
