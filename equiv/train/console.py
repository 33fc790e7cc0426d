"""What a run shows while it works: facts and choices first, then one line per epoch, and a live bar with the time left."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import ase.units
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

GPA = 1 / ase.units.GPa  # eV/A^3 in GPa
HEARTBEAT = 60.0  # seconds between signs of life within an epoch when the output is not a terminal


class RunConsole:
    """Talks to the user: a terminal gets a live bar, a file gets plain lines.

    Args:
        console: a rich console; None is silent.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console if console is not None else Console(quiet=True)
        self.progress: Progress | None = None
        self.warnings: list[str] = []
        self._columns: list[str] = []
        self._last_sign = monotonic()

    def fact(self, topic: str, text: str) -> None:
        """One line about what was found or chosen."""
        first, *rest = text.split("\n")
        self.console.print(f"[bold]{topic:<10}[/]{escape(first)}", highlight=False, soft_wrap=True)
        for line in rest:
            self.console.print(f"{'':<10}{escape(line)}", highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Something the user should know, visibly."""
        self.warnings.append(text)
        self.console.print(
            f"[bold yellow]warning[/]   {escape(text)}", highlight=False, soft_wrap=True
        )

    def header(self, *, energy: bool, forces: bool, stress: bool) -> None:
        """The head of the epoch table."""
        self._columns = ["epoch", "time", "left", "loss"]
        self._columns += (
            ["E train", "E valid"] * energy + ["F train", "F valid"] * forces + ["S valid"] * stress
        )
        self._columns += ["lr", ""]
        units = {"E": "meV/atom", "F": "meV/A", "S": "GPa"}
        self._line(self._columns, style="bold")
        self._line(
            [units.get(name[:1], "") if " " in name else "" for name in self._columns], style="dim"
        )

    def row(self, row: Mapping[str, Any], *, left: float | None, best: bool) -> None:
        """One epoch: root mean square errors on the training batches as they went by, and on the validation set."""
        cells = {
            "epoch": f"{row['epoch']}",
            "time": clock(row["time_s"]),
            "left": "" if left is None else clock(left),
            "loss": f"{row['loss']:.3g}",
            "E train": _milli(row.get("train_energy_rmse")),
            "E valid": _milli(row.get("valid_energy_rmse")),
            "F train": _milli(row.get("train_forces_rmse")),
            "F valid": _milli(row.get("valid_forces_rmse")),
            "S valid": _gpa(row.get("valid_stress_rmse")),
            "lr": f"{row['learning_rate']:.1e}",
            "": "*" if best else "",
        }
        self._line([cells[name] for name in self._columns])

    def _line(self, cells: Sequence[str], style: str = "") -> None:
        widths = [1 if name == "" else 6 if name == "epoch" else 9 for name in self._columns]
        text = " ".join(
            f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
        ).rstrip()
        self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)

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
        with Progress(*columns, console=self.console, transient=True) as self.progress:
            self._task = self.progress.add_task("", total=1, note="")
            try:
                yield
            finally:
                self.progress = None

    def step(
        self, epoch: int, done: int, total: int, *, speed: float | None, left: float | None
    ) -> None:
        """Move the bar, or in a file print a sign of life now and then."""
        note = ("" if speed is None else f"{speed:.3g} s/step") + (
            "" if left is None else f"   {clock(left)} left"
        )
        if self.progress is not None:
            self.progress.update(
                self._task, description=f"epoch {epoch}", completed=done, total=total, note=note
            )
        elif monotonic() - self._last_sign > HEARTBEAT:
            self.console.print(
                f"  epoch {epoch}: step {done} of {total}, {note}", highlight=False, soft_wrap=True
            )
            self._last_sign = monotonic()

    def sign_given(self) -> None:
        """A line was just printed: the next sign of life can wait."""
        self._last_sign = monotonic()

    def errors(self, title: str, splits: Mapping[str, Mapping[str, Any]]) -> None:
        """The error table of all splits and groups."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        table.add_column("")
        table.add_column("frames", justify="right")
        present = [
            name for name in ERROR_COLUMNS if any(name in metrics for metrics in splits.values())
        ]
        for name in present:
            table.add_column(ERROR_COLUMNS[name][0], justify="right")
        for split, metrics in splits.items():
            for label, part in [
                (split, metrics),
                *((f"  {g}", m) for g, m in metrics.get("groups", {}).items()),
            ]:
                table.add_row(
                    label, str(part["frames"]), *(error_cell(part, name) for name in present)
                )
        self.console.print(table)


ERROR_COLUMNS = {
    "energy_per_atom": ("E  MAE / RMSE\nmeV/atom", 1e3),
    "energy": ("E  MAE / RMSE\nmeV/structure", 1e3),
    "forces": ("F  MAE / RMSE\nmeV/A", 1e3),
    "stress": ("S  MAE / RMSE\nGPa", GPA),
}


def error_cell(metrics: Mapping[str, Any], name: str) -> str:
    """`MAE / RMSE` of one property in its display unit."""
    if name not in metrics:
        return "-"
    factor = ERROR_COLUMNS[name][1]
    return f"{_significant(metrics[name]['mae'] * factor)} / {_significant(metrics[name]['rmse'] * factor)}"


def clock(seconds: float) -> str:
    """`0:07`, `12:34` or `1:02:03`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _significant(value: float) -> str:
    """Three significant digits without an exponent where that reads well."""
    if value != value:
        return "-"
    magnitude = abs(value)
    return (
        f"{value:.0f}"
        if magnitude >= 100
        else f"{value:.1f}"
        if magnitude >= 10
        else f"{value:.3g}"
    )


def _milli(value: float | None) -> str:
    return "-" if value is None else _significant(1e3 * value)


def _gpa(value: float | None) -> str:
    return "-" if value is None else _significant(GPA * value)
