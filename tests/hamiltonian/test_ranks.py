"""Gates choose the same on every rank of a distributed run, and what one process would choose."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("ranked_training.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_ranks_choose_what_one_process_chooses(tmp_path):
    outputs = [tmp_path / name for name in ("first", "second", "alone")]
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), "2", tmp_path / "meeting", outputs[rank]],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    runpy.run_path(str(SCRIPT))["main"](0, 1, None, outputs[2])
    for process in processes:
        _, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
    first, second, alone = (json.loads(path.read_text()) for path in outputs)
    assert first == second == alone
    random, adaptive, fixed = first[:2], first[2:5], first[5:]
    assert random[0] != random[1]
    assert adaptive[0] != random[1]
    assert all(chosen == fixed[0] for chosen in fixed)
