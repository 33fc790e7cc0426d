"""Importing is quick and leaves no trace; neither is physics, and both are laws of nature here."""

import os
import subprocess
import sys

import pytest

MODULES = (
    "equiv",
    "equiv.models",
    "equiv.nn",
    "equiv.message_passing",
    "equiv.tensor_products",
    "equiv.so3",
    "equiv.graph",
    "equiv.data",
    "equiv.testing",
    "equiv.integrations.ase",
    "equiv.integrations.mace_torch",
    "equiv.cli.main",
)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


STATE = """
import os, random, sys, warnings
import numpy as np
import torch
{prelude}
def state():
    return dict(
        dtype=torch.get_default_dtype(),
        device=str(torch.get_default_device()),
        torch_random=torch.random.get_rng_state().sum().item(),
        numpy_random=hash(np.random.get_state()[1].tobytes()),
        python_random=hash(random.getstate()),
        threads=(torch.get_num_threads(), torch.get_num_interop_threads()),
        precision=torch.get_float32_matmul_precision(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        grad=torch.is_grad_enabled(),
        anomaly=torch.is_anomaly_enabled(),
        numpy_errors=np.geterr(),
        filters=[str(f) for f in warnings.filters],
        environment=dict(os.environ),
        hooks=(sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__),
        recursion=sys.getrecursionlimit(),
    )
torch.manual_seed(123)
before = state()
{imports}
after = state()
for key in before:
    if before[key] != after[key]:
        print(key, before[key], after[key])
"""


def test_importing_changes_no_global_state():
    # What other libraries do to the process is theirs to answer for; they come first.
    others = (
        "ase.calculators.calculator",
        "e3nn.o3",
        "safetensors.torch",
        "scipy.sparse",
        "scipy.special",
        "torch_geometric.data",
        "vesin",
    )
    prelude = "\n".join(f"import {name}" for name in others)
    imports = "\n".join(f"import {name}" for name in MODULES)
    assert run(STATE.format(prelude=prelude, imports=imports)) == ""


def test_the_test_above_can_fail():
    changed = run(STATE.format(prelude="", imports="torch.set_default_dtype(torch.float64)"))
    assert changed.startswith("dtype")


def test_importing_the_package_is_quick_and_does_not_need_torch():
    out = run(
        "import time, sys; t = time.process_time(); import equiv; "
        "print(time.process_time() - t, 'torch' in sys.modules)"
    )
    seconds, torch_came_along = out.split()
    assert float(seconds) < 1.0
    assert torch_came_along == "False"


def cpu_seconds(command):
    """CPU time of a command: unlike its wall time, hardly longer on a busy machine."""
    before = os.times()
    subprocess.run(command, capture_output=True, check=True)
    after = os.times()
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


@pytest.mark.skipif(not hasattr(os, "times"), reason="needs os.times")
def test_the_help_text_comes_at_once():
    command = [sys.executable, "-m", "equiv.cli.main", "--help"]
    assert min(cpu_seconds(command) for _ in range(3)) < 0.5


def test_the_help_text_does_not_load_torch_or_ase():
    out = run(
        "import sys\nfrom equiv.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('loaded:', [m for m in ('torch', 'ase', 'e3nn') if m in sys.modules])"
    )
    assert out.splitlines()[-1] == "loaded: []"


def test_layers_on_positions_and_orientations_need_no_more_than_torch():
    out = run(
        "import sys, equiv.position_orientation\n"
        "heavy = ('e3nn', 'scipy', 'sympy', 'torch_geometric', 'torch._dynamo', 'vesin')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert out == "[]"
