import subprocess
import sys


def test_a_process_can_be_told_to_keep_its_memory_and_goes_on():
    code = (
        "from equiv.train.memory import keep_memory; import torch; told = keep_memory();"
        "print(type(told).__name__, float(torch.ones(10**6).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "bool 1000000.0\n"
