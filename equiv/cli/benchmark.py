"""Measure this package beside others on this machine, and print the table.

The benchmarks are scripts in the folder `benchmarks` of the repository; this runs one of them in
the same Python and passes on whatever follows its name. Each prints its table and writes
`benchmarks/results/NAME.json` and `.png`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from equiv.choices import choose
from equiv.errors import EquivError

EXAMPLE = """\
examples:
  equiv benchmark                          which benchmarks there are
  equiv benchmark tensor-products --quick
  equiv benchmark tensor-products --help   what this one takes"""

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv benchmark`."""
    parser.add_argument("name", nargs="?", help="which benchmark; without it they are listed")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="options of the benchmark, after its name"
    )


def run(args: argparse.Namespace) -> int:
    """List the benchmarks or run one; its exit code is returned."""
    available = scripts()
    if args.name is None:
        width = max(map(len, available))
        for name, script in available.items():
            print(f"{name:<{width}}  {summary(script)}")
        return 0
    script = choose(available, args.name, "benchmark")
    sys.stdout.flush()
    command = [sys.executable, str(script), *args.options]
    code = subprocess.run(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}).returncode
    return code if code >= 0 else 128 - code


def scripts() -> dict[str, Path]:
    """The benchmarks of this clone by name.

    Raises:
        EquivError: the package was installed without the repository.
    """
    found = {
        path.stem.replace("_", "-"): path
        for path in sorted(SCRIPTS.glob("*.py"))
        if "__main__" in path.read_text(encoding="utf-8")
    }
    if not found:
        raise EquivError(
            "the benchmarks are part of the repository and not of the installed package; "
            "clone it and install from there: pip install -e ."
        )
    return found


def summary(script: Path) -> str:
    """First line of a script's docstring."""
    return script.read_text(encoding="utf-8").lstrip('r"').partition("\n")[0].rstrip('"')
