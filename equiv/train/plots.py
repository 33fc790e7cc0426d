"""The two pictures of a run: predictions against reference, and errors against epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from equiv.train.console import significant
from equiv.train.evaluation import Evaluation
from equiv.train.quantity import STATISTICS, Quantity

COLORS = {"train": "#a8adb4", "valid": "#3d85c6"}
CYCLE = ("#d1495b", "#2a9d8f", "#e09f3e", "#7b4ea3", "#5f9e4a")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
MOST_POINTS = 20_000  # dots of one split in one panel


def parity(
    evaluations: Mapping[str, Evaluation], path: Path | str, quantities: Sequence[Quantity]
) -> None:
    """Predicted against reference values, a column per property, and below the error itself.

    The lower row shows what the diagonal hides: errors are much smaller than the range of values.
    Values are shown relative to their mean where that is far larger than their range. Nothing is
    written if there is nothing to show.
    """
    nothing = np.empty((0, 2))
    found = {
        quantity: {
            split: pairs
            for split, item in evaluations.items()
            if len(pairs := item.pairs.get(quantity.name, nothing))
        }
        for quantity in quantities
    }
    shown = [quantity for quantity in quantities if found[quantity]]
    if not shown:
        return
    colors = split_colors(evaluations)
    width = len(shown)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * width, 5.3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, width, squeeze=False, sharex="col", height_ratios=(2.4, 1))
        for column, quantity in enumerate(shown):
            above, below = axes[0, column], axes[1, column]
            _parity_panel(above, below, quantity, found[quantity], colors)
        handles = [
            Line2D([], [], linestyle="", marker="o", markersize=5, color=colors[split], label=split)
            for split in evaluations
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5))
        figure.savefig(path, dpi=160)


def _parity_panel(
    top: Axes,
    bottom: Axes,
    quantity: Quantity,
    pairs: Mapping[str, np.ndarray],
    colors: Mapping[str, str],
) -> None:
    title = quantity.title or quantity.words.capitalize()
    unit, factor = quantity.axis_unit or quantity.unit, quantity.axis_factor
    error_unit, error_factor = quantity.shown_unit, quantity.factor
    in_units = f" ({unit})" if unit else ""
    everything = np.concatenate(list(pairs.values())) * factor
    reference = everything[:, 0]
    offset = 0.0
    if abs(reference.mean()) > 20 * (np.ptp(reference) or 1.0):
        offset = float(np.round(reference.mean(), 2))
        title += f"  (relative to {offset:g} {unit})".replace(" )", ")")
    random = np.random.default_rng(0)
    for split, all_pairs in pairs.items():
        few = len(all_pairs) <= MOST_POINTS
        rows = all_pairs if few else random.choice(all_pairs, MOST_POINTS, replace=False)
        dots = {
            "s": 8 if len(rows) < 2000 else 3,
            "alpha": float(np.clip(40 / len(rows) ** 0.5, 0.12, 0.8)),
            "color": colors[split],
            "linewidths": 0,
            "rasterized": True,
        }
        x = rows[:, 0] * factor - offset
        top.scatter(x, rows[:, 1] * factor - offset, **dots)
        bottom.scatter(x, (rows[:, 1] - rows[:, 0]) * error_factor, **dots)
    low, high = float(everything.min()) - offset, float(everything.max()) - offset
    margin = 0.04 * (high - low) or 0.05
    span = (low - margin, high + margin)
    top.plot(span, span, color="black", linewidth=0.7, zorder=3)
    top.set(xlim=span, ylim=span, title=title, ylabel=f"predicted{in_units}")
    text = ["RMSE"]
    for split, all_pairs in pairs.items():
        rmse = float(np.sqrt(np.mean(np.diff(all_pairs) ** 2)))
        text.append(f"{split}  {significant(rmse * error_factor)} {error_unit}")
    top.text(0.04, 0.97, "\n".join(text), transform=top.transAxes, va="top", fontsize=8)
    errors = np.abs(np.concatenate([np.diff(rows) for rows in pairs.values()])) * error_factor
    limit = 1.4 * float(np.quantile(errors, 0.998)) or 1.0
    bottom.axhline(0, color="black", linewidth=0.7, zorder=3)
    error_label = f"error ({error_unit})" if error_unit else "error"
    bottom.set(ylim=(-limit, limit), ylabel=error_label, xlabel=f"reference{in_units}")
    for axis in (top, bottom):
        axis.ticklabel_format(useOffset=False)
        axis.locator_params(axis="x", nbins=5)


def learning_curve(
    rows: Sequence[Mapping[str, float | None]], path: Path | str, quantities: Sequence[Quantity]
) -> None:
    """Errors and learning rate against the epoch, on logarithmic axes."""
    panels = []
    for quantity in quantities:
        statistic = quantity.headline
        name, unit = f"{quantity.label}_{statistic}", quantity.shown_unit
        title = f"{quantity.words.capitalize()} {STATISTICS[statistic]}"
        title += f" ({unit})" if unit else ""
        if any(row.get(f"{split}_{name}") for row in rows for split in quantity.epochs):
            panels.append((name, title, quantity.shown(1.0, statistic)))
    best = [int(row["epoch"] or 0) for row in rows if row.get("best")]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * (len(panels) + 1), 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
        for axis, (name, title, factor) in zip(axes, panels, strict=False):
            for split, words in (("train", "training batches"), ("valid", "validation, averaged")):
                style = {"color": COLORS[split], "label": words}
                _curve(axis, rows, f"{split}_{name}", factor, **style)
            _finish(axis, title, best)
        _curve(axes[-1], rows, "learning_rate", 1.0, color="#333333", label="learning rate")
        _finish(axes[-1], "Learning rate", [])
        axes[-1].yaxis.set_major_formatter(LogFormatterSciNotation())
        axes[0].legend(fontsize=8)
        figure.savefig(path, dpi=160)


def _curve(
    axis: Axes, rows: Sequence[Mapping[str, Any]], key: str, factor: float, **style: Any
) -> None:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        x, y = np.array(points, dtype=float).T
        marker = "o" if len(points) < 15 else None
        axis.plot(x, y * factor, linewidth=1.3, marker=marker, markersize=3, **style)


def _finish(axis: Axes, title: str, best: Sequence[int]) -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10; powers of ten say little over one decade."""
    axis.set(title=title, xlabel="epoch", yscale="log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="y", linewidth=0.4, color="#dddddd")
    if best:
        label = f"best: epoch {best[-1]}"
        axis.axvline(best[-1], color="black", linewidth=0.7, linestyle=":", label=label)


def split_colors(splits: Mapping[str, Any]) -> dict[str, str]:
    """A colour per split: grey for training, blue for validation, strong ones for the others."""
    others = [name for name in splits if name not in COLORS]
    return COLORS | {name: CYCLE[i % len(CYCLE)] for i, name in enumerate(others)}
