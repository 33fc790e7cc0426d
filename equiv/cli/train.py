"""Train a potential from a recipe, or straight from a file of labelled structures.

Run the same command again to continue an interrupted run. Exit codes: 0 finished, 2 recipe or data
that cannot be used, 70 the loss was no longer a number, 75 stopped by a signal with everything
saved.
"""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLE = """\
examples:
  equiv train train.xyz                                     everything chosen, every choice printed
  equiv train recipe.yaml
  equiv train recipe.yaml --set train.learning_rate=1e-3 --set model.channels=32
  equiv train recipe.yaml --check                           only check the recipe

Paths in a recipe start at the folder of the recipe; paths on the command line at the working
directory."""

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: run again
DIVERGED = 70


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `equiv train`."""
    parser.add_argument(
        "source", metavar="RECIPE.yaml|DATA", help="a recipe, or a file of labelled structures"
    )
    parser.add_argument(
        "--set",
        "-s",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key of the recipe, for example train.max_time=30m; may be repeated",
    )
    parser.add_argument(
        "--output", "-o", metavar="FOLDER", help="folder of the run (default: runs/<name>)"
    )
    parser.add_argument(
        "--check", action="store_true", help="check the recipe, print it in full and stop"
    )
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        help="compile the training step, as `--set train.compile=...` does",
    )
    parser.add_argument("--no-report", action="store_true", help="make no plots and no report.html")
    parser.add_argument("--quiet", "-q", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Train; the exit code."""
    from equiv.train.recipe_load import load_recipe

    chosen = [] if args.compile is None else [f"train.compile={args.compile}"]
    recipe = load_recipe(args.source, [*args.overrides, *chosen], output=args.output)
    if args.check:
        import yaml

        print(yaml.safe_dump(recipe.to_dict(), sort_keys=False), end="")
        return 0

    from equiv.train.job import TrainingDiverged
    from equiv.train.job import run as train
    from equiv.train.memory import keep_memory

    keep_memory()
    try:
        result = train(
            recipe, console=None if args.quiet else _console(), report=not args.no_report
        )
    except TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        return DIVERGED
    return 0 if result.finished else INTERRUPTED


def _console() -> "Console":
    """The terminal, or a file of a width that tables fit into."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)
