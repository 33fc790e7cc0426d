"""What a run shows while it works.

Facts and choices come first, then one line per epoch; on a terminal a live bar shows the present
epoch and the time left.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import ase.units
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

GPA = 1 / ase.units.GPa  # eV/Angstrom^3 in GPa
HEARTBEAT = 60.0  # seconds between signs of life within an epoch if the output is no terminal
INDENT = 11


@dataclass(frozen=True)
class ErrorColumn:
    """How errors of one property are shown."""

    symbol: str
    words: str
    unit: str
    factor: float


ERROR_COLUMNS = {
    "energy_per_atom": ErrorColumn("E", "energy", "meV/atom", 1e3),
    "energy": ErrorColumn("E", "energy", "meV/structure", 1e3),
    "forces": ErrorColumn("F", "force", "meV/Å", 1e3),
    "stress": ErrorColumn("S", "stress", "GPa", GPA),
}
# The columns of the epoch table: what they show, their unit, the entry of the log row.
EPOCH_COLUMNS = {
    "E train": ("meV/atom", "train_energy_rmse", 1e3),
    "E valid": ("meV/atom", "valid_energy_rmse", 1e3),
    "F train": ("meV/Å", "train_forces_rmse", 1e3),
    "F valid": ("meV/Å", "valid_forces_rmse", 1e3),
    "S valid": ("GPa", "valid_stress_rmse", GPA),
}


class RunConsole:
    """Talks to the user: a terminal gets a live bar, a file gets plain lines.

    Args:
        console: a rich console; None is silent.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console if console is not None else Console(quiet=True)
        self.warnings: list[str] = []
        self._bar: tuple[Progress, TaskID] | None = None
        self._columns: list[str] = []
        self._last_sign = monotonic()

    def fact(self, topic: str, text: str, *, style: str = "bold") -> None:
        """A topic and what was found or chosen; further lines are indented below the first."""
        first, *rest = text.split("\n")
        self._print(f"[{style}]{topic:<{INDENT - 1}}[/] {escape(first)}")
        for line in rest:
            self._print(" " * INDENT + escape(line))

    def warn(self, text: str) -> None:
        """Something the user should know, visibly."""
        self.warnings.append(text)
        self.fact("warning", text, style="bold yellow")

    def header(self, *, energy: bool, forces: bool, stress: bool) -> None:
        """The head of the epoch table.

        Errors are root mean squares, on the training batches as they went by, and on the validation
        set with the averaged weights.
        """
        shown = {"E": energy, "F": forces, "S": stress}
        errors = [name for name in EPOCH_COLUMNS if shown[name[0]]]
        self._columns = ["epoch", "time", "left", "loss", *errors, "lr", ""]
        self._line(self._columns, style="bold")
        self._line([EPOCH_COLUMNS.get(name, ("",))[0] for name in self._columns], style="dim")

    def row(self, row: Mapping[str, Any], *, left: float | None, best: bool) -> None:
        """One epoch of the table; the star marks the best so far."""
        cells = {
            "epoch": f"{row['epoch']}",
            "time": clock(row["time_s"]),
            "left": "" if left is None else clock(left),
            "loss": f"{row['loss']:.3g}",
            "lr": f"{row['learning_rate']:.1e}",
            "": "*" if best else "",
        }
        for name, (_, key, factor) in EPOCH_COLUMNS.items():
            value = row.get(key)
            cells[name] = "-" if value is None else significant(factor * value)
        self._line([cells[name] for name in self._columns])
        self._last_sign = monotonic()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show a bar for the present epoch below the table for as long as the context lasts."""
        if not self.console.is_terminal or self.console.quiet:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            self._bar = (progress, progress.add_task("", total=1, note=""))
            try:
                yield
            finally:
                self._bar = None

    def step(
        self, epoch: int, done: int, total: int, *, speed: float | None, left: float | None
    ) -> None:
        """Move the bar, or in a file give a sign of life now and then."""
        now = monotonic()
        if self._bar is None and now - self._last_sign < HEARTBEAT:
            return
        note = "" if speed is None else f"{1e3 * speed:.0f} ms/step"
        note += "" if left is None else f", {clock(left)} left"
        if self._bar is not None:
            progress, task = self._bar
            label = f"epoch {epoch}"
            progress.update(task, description=label, completed=done, total=total, note=note)
        else:
            self._print(f"  epoch {epoch}: step {done} of {total}, {note}")
            self._last_sign = now

    def errors(self, title: str, splits: Mapping[str, Mapping[str, Any]]) -> None:
        """The error table of all splits and groups."""
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("MAE / RMSE", no_wrap=True)
        table.add_column("frames", justify="right", no_wrap=True)
        present = [n for n in ERROR_COLUMNS if any(n in metrics for metrics in splits.values())]
        for name in present:
            column = ERROR_COLUMNS[name]
            table.add_column(f"{column.symbol} {column.unit}", justify="right", no_wrap=True)
        for split, metrics in splits.items():
            groups = metrics.get("groups", {})
            for label, part in [(split, metrics), *((f"  {g}", m) for g, m in groups.items())]:
                cells = [error_cell(part, name) for name in present]
                table.add_row(escape(label), str(part["frames"]), *cells)
        self.console.print(table)

    def _line(self, cells: Sequence[str], style: str = "") -> None:
        widths = [1 if name == "" else 6 if name == "epoch" else 9 for name in self._columns]
        text = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        self._print(escape(text.rstrip()), style=style)

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, highlight=False, soft_wrap=True)


def error_cell(metrics: Mapping[str, Any], name: str) -> str:
    """`MAE / RMSE` of one property in its display unit."""
    if name not in metrics:
        return "-"
    factor = ERROR_COLUMNS[name].factor
    both = (metrics[name]["mae"] * factor, metrics[name]["rmse"] * factor)
    return " / ".join(map(significant, both))


def clock(seconds: float) -> str:
    """`0:07`, `12:34` or `1:02:03`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def significant(value: float) -> str:
    """Three significant digits, without an exponent."""
    size = abs(value)
    if size != size or size == float("inf"):
        return str(value)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:.{digits}f}"
