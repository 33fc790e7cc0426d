"""Look at data files before training on them, or make some.

`equiv data check` shows what is in them, which labels would be read, in which units, and everything
that is wrong or looks wrong, with the numbers of the structures (from 0). `equiv data make
hamiltonians` draws geometries by dynamics with GFN2-xTB and computes their Fock matrices with
PySCF; interrupted, the same command goes on from there. `equiv data make nbody` regenerates the
charged particles that forecasters are compared on. Exit codes: 0 no errors, 2 errors, 75
interrupted.
"""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv.choices import choose
from equiv.cli import make_hamiltonians, make_nbody
from equiv.cli.arguments import add_labels, label_options, number
from equiv.errors import DataError, EquivError

if TYPE_CHECKING:
    from rich.console import Console

    from equiv.data import CheckReport, Dataset, ReferenceEnergies
    from equiv.data.overview import Overview

EXAMPLE = """\
examples:
  equiv data check train.xyz
  equiv data check train.xyz isolated_atoms.xyz --test test.xyz    leakage is looked for as well
  equiv data check 'runs/*/vasprun.xml'
  equiv data check molecules.npz --energy-unit kcal/mol
  equiv data check train.xyz --json                                for programs
  equiv data make hamiltonians water.xyz -o water.npz --count 500  Fock matrices for SPHNet
  equiv data make nbody -o data/nbody                              charged particles to forecast"""

MAKERS = {"hamiltonians": make_hamiltonians.run, "nbody": make_nbody.run}
"""What `equiv data make` can make."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `equiv data`."""
    parser.add_argument("action", choices=["check", "make"], help="what to do with the files")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="data files, folders or quoted patterns, taken together as one set; for make: "
        "nbody, or hamiltonians and then structures to start from",
    )
    parser.add_argument(
        "--test",
        metavar="FILE",
        action="append",
        default=[],
        help="test files: checked too, and searched for structures of the set; may be repeated",
    )
    parser.add_argument(
        "--cutoff",
        type=number(above=0),
        default=5.0,
        metavar="ANGSTROM",
        help="for the number of neighbours (default: 5)",
    )
    parser.add_argument("--group-key", metavar="KEY", help="info key that names the group")
    add_labels(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    make_hamiltonians.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check, or make; the exit code."""
    if args.action == "make":
        return choose(MAKERS, args.files[0], "equiv data make")(args)
    from equiv.data import check_leakage

    options = {**label_options(args), "group_key": args.group_key}
    main = _Survey("data", args.files, options, args.cutoff)
    tests = [_Survey(name, [name], options, args.cutoff, main.reference) for name in args.test]
    surveys = [main, *tests]
    leakage = None
    if main.dataset is not None:
        others = {Path(t.name).name: t.dataset for t in tests if t.dataset is not None}
        leakage = check_leakage(main.dataset, others)
    ok = all(survey.report.ok for survey in surveys)
    if args.json:
        document = {
            "ok": ok,
            **main.to_dict(),
            "tests": {survey.name: survey.to_dict() for survey in tests},
            "leakage": leakage.to_list() if leakage is not None else [],
        }
        print(json.dumps(_finite(document), indent=1))
        return 0 if ok else 2

    from rich.console import Console

    console = Console(highlight=False)
    for survey in surveys:
        survey.show(console)
    if tests and leakage is not None:
        _head(console, "leakage", "from the data into the test files")
        console.print(leakage)
    _conclude(console, surveys, leakage)
    return 0 if ok else 2


class _Survey:
    """One set of files: read as far as possible, with everything that was found.

    Energies of a test set are shown against the reference energies of the data.
    """

    def __init__(
        self,
        name: str,
        files: list[str],
        options: dict[str, Any],
        cutoff: float,
        reference: "ReferenceEnergies | None" = None,
    ) -> None:
        from equiv.data import CheckReport, check_frames, reference_energies
        from equiv.data import survey as read
        from equiv.data.overview import overview
        from equiv.data.report import find

        self.name = name
        self.dataset: Dataset | None = None
        self.overview: Overview | None = None
        self.is_test = reference is not None
        self.reference = reference
        self.report: CheckReport
        try:
            self.dataset = read(files, **options)
        except DataError:
            messages = _every_broken_file(files, options)
            self.report = CheckReport([find("error", "unreadable", text) for text in messages])
            return
        self.report = check_frames(self.dataset)
        if not self.report.ok:
            return
        try:
            if self.reference is None:
                self.reference = reference_energies(self.dataset)
        except DataError as error:
            self.report += CheckReport([find("error", "reference energies", str(error))])
        if not self.is_test:
            self.report += _too_few(self.dataset)
        self.overview = overview(self.dataset, self.reference, cutoff=cutoff)

    def show(self, console: "Console") -> None:
        """Print it."""
        labels = self.dataset.labels if self.dataset is not None else None
        if labels is not None:
            files = ", ".join(f"{Path(file).name} ({n})" for file, n in labels.files.items())
            if len(labels.files) > 4:
                files = f"{len(labels.files)} files"
            _head(console, "data" if self.name == "data" else "test", files)
            _head(console, "", labels.summary)
            if self.overview is not None:
                for topic, text in self.overview.facts.items():
                    _head(console, topic, text, style="")
            console.print(labels)
        if self.overview is not None and self.overview.ranges:
            console.print(self.overview.table)
        if self.reference is not None and not self.is_test:
            _head(console, "E0", str(self.reference))
        if self.overview is not None and self.overview.moments is not None:
            count = self.overview.moments.mean_neighbors
            _head(console, "neighbours", f"{count:.1f} within the cutoff on average")
        _head(console, "checks", "" if self.report.findings else "nothing to complain about")
        if self.report.findings:
            console.print(self.report)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        labels = self.dataset.labels if self.dataset is not None else None
        return {
            "data": labels.to_dict() if labels is not None else None,
            "reference_energies": self.reference.to_dict() if self.reference else None,
            "overview": self.overview.to_dict() if self.overview else None,
            "findings": self.report.to_list(),
        }


def _too_few(dataset: "Dataset") -> "CheckReport":
    """Whether there is anything to train on, and anything to hold out."""
    from equiv.data import CheckReport
    from equiv.data.report import find

    different = {frame.structure_digest() for frame in dataset.without_isolated()}
    if not different:
        text = "no structure but isolated atoms: there is nothing to train on"
        return CheckReport([find("error", "nothing to train on", text)])
    if len(different) == 1:
        text = "only one distinct structure: none can be held out, so give validation files"
        return CheckReport([find("warning", "nothing to hold out", text)])
    return CheckReport([])


def _every_broken_file(files: list[str], options: dict[str, Any]) -> list[str]:
    """The faults of all files, where reading stopped at the first."""
    from equiv.data import survey as read
    from equiv.data.files import find_files

    messages: list[str] = []
    for name in files:
        try:
            paths = find_files(name)
        except DataError as error:
            messages.append(str(error))
            continue
        for path in paths:
            try:
                read(path, **options)
            except EquivError as error:
                messages.append(str(error))
    return messages


def _head(console: "Console", topic: str, text: str, *, style: str = "bold") -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(topic, style=style), Text(text))
    console.print(grid)


def _conclude(console: "Console", surveys: list[_Survey], leakage: "CheckReport | None") -> None:
    errors = sum(len(survey.report.errors) for survey in surveys)
    warnings = sum(len(survey.report.of("warning")) for survey in surveys)
    warnings += len(leakage.of("warning")) if leakage is not None else 0
    console.print()
    if errors:
        noun = "error" if errors == 1 else "errors"
        console.print(f"[bold red]{errors} {noun}[/]: this cannot be trained on as it is")
    elif warnings:
        noun = "warning" if warnings == 1 else "warnings"
        console.print(f"[bold yellow]{warnings} {noun}[/]: look at them before training")
    else:
        console.print("[bold green]ready to train[/]")


def _finite(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
