"""What a run shows while it works.

Facts and choices come first, then one line per epoch; on a terminal a live bar shows the present
epoch and the time left.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from equiv.train.quantity import STATISTICS, Quantity

HEARTBEAT = 60.0  # seconds between signs of life within an epoch if the output is no terminal
INDENT = 11


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
        self._quantities: tuple[Quantity, ...] = ()
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

    def header(self, quantities: Sequence[Quantity]) -> None:
        """The head of the epoch table.

        Errors are those on the training batches as they went by, and on the validation set with the
        averaged weights.
        """
        self._quantities = tuple(quantities)
        units = {title: quantity.shown_unit for title, quantity, _ in self._errors()}
        self._columns = ["epoch", "time", "left", "loss", *units, "lr", ""]
        self._line(self._columns, style="bold")
        self._line([units.get(name, "") for name in self._columns], style="dim")

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
        for title, quantity, split in self._errors():
            value = row.get(f"{split}_{quantity.label}_{quantity.headline}")
            cells[title] = "-"
            if value is not None:
                cells[title] = significant(quantity.shown(value, quantity.headline))
        self._line([cells[name] for name in self._columns])
        self._last_sign = monotonic()

    def _errors(self) -> Iterator[tuple[str, Quantity, str]]:
        """Title, quantity and split of every column with errors."""
        for quantity in self._quantities:
            for split in quantity.epochs:
                yield f"{quantity.symbol} {split}", quantity, split

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

    def errors(
        self, title: str, splits: Mapping[str, Mapping[str, Any]], quantities: Sequence[Quantity]
    ) -> None:
        """The error table: a row for every split and group, or a column if that is too wide."""
        present = measured(quantities, splits)
        parts: list[tuple[str, Mapping[str, Any]]] = []
        for split, metrics in splits.items():
            groups = metrics.get("groups", {})
            parts += [(split, metrics), *((f"  {name}", part) for name, part in groups.items())]
        table = _by_part(title, present, parts)
        width = table.__rich_measure__(self.console, self.console.options).maximum
        if width > self.console.width and len(present) > len(parts):
            table = _by_quantity(title, present, parts)
        self.console.print(table)

    def _line(self, cells: Sequence[str], style: str = "") -> None:
        narrow = {"": 1, "epoch": 6}
        widths = [narrow.get(name, max(9, len(name))) for name in self._columns]
        text = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        self._print(escape(text.rstrip()), style=style)

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, highlight=False, soft_wrap=True)


def _by_part(
    title: str, quantities: Sequence[Quantity], parts: Sequence[tuple[str, Mapping[str, Any]]]
) -> Table:
    """A row for every split and group, a column for every quantity."""
    common, heads = column_heads(quantities, " ")
    table = _error_table(title, common)
    for head in ("frames", *heads):
        table.add_column(head, justify="right", no_wrap=True)
    for name, metrics in parts:
        cells = [error_cell(metrics, quantity) for quantity in quantities]
        table.add_row(escape(name), str(metrics["frames"]), *cells)
    return table


def _by_quantity(
    title: str, quantities: Sequence[Quantity], parts: Sequence[tuple[str, Mapping[str, Any]]]
) -> Table:
    """A row for every quantity, a column for every split and group."""
    table = _error_table(title, "")
    table.add_column("")
    for name, _ in parts:
        table.add_column(escape(name.strip()), justify="right", no_wrap=True)
    table.add_row("frames", "", *(str(metrics["frames"]) for _, metrics in parts))
    for quantity in quantities:
        shown = " / ".join(STATISTICS[name] for name in quantity.statistics)
        cells = [error_cell(metrics, quantity) for _, metrics in parts]
        table.add_row(escape(quantity.words), f"{shown} {quantity.shown_unit}".strip(), *cells)
    return table


def _error_table(title: str, first: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column(first, no_wrap=True)
    return table


def measured(
    quantities: Sequence[Quantity], splits: Mapping[str, Mapping[str, Any]]
) -> list[Quantity]:
    """The quantities that any of the splits has errors of."""
    return [q for q in quantities if any(q.name in metrics for metrics in splits.values())]


def column_heads(quantities: Sequence[Quantity], separator: str) -> tuple[str, list[str]]:
    """What all columns of an error table show, if it is one thing, and the head of each."""
    shown = [" / ".join(STATISTICS[name] for name in q.statistics) for q in quantities]
    common = shown[0] if len(set(shown)) == 1 else ""
    heads = []
    for quantity, statistics in zip(quantities, shown, strict=True):
        parts = [quantity.symbol, "" if common else statistics]
        heads.append(separator.join([" ".join(filter(None, parts)), quantity.shown_unit]).strip())
    return common, heads


def error_cell(metrics: Mapping[str, Any], quantity: Quantity) -> str:
    """The statistics of one quantity in its display unit: `MAE / RMSE`."""
    if quantity.name not in metrics:
        return "-"
    values = metrics[quantity.name]
    cells = []
    for name in quantity.statistics:
        shown = quantity.shown(values[name], name)
        # Of a similarity near 100 % the digits that differ from it are what is looked for.
        cells.append(f"{shown:.3f}" if name == "mean" else significant(shown))
    return " / ".join(cells)


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
    if 0 < size < 0.09995:
        digits = min(2 - math.floor(math.log10(size)), 8)
    return f"{value:.{digits}f}"
