"""The two pictures of a run: predictions against reference, and errors against epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.units
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from equiv.train.metrics import Evaluation

GPA = 1 / ase.units.GPa
COLORS = {"train": "#9aa0a6", "valid": "#4285c4", "test": "#d1495b"}
CYCLE = ("#d1495b", "#2a9d8f", "#edae49", "#7b4ea3", "#66a182")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
# property -> (title, unit of the axes, factor, unit of the error, factor)
PANELS = {
    "energy_per_atom": ("Energy", "eV/atom", 1.0, "meV/atom", 1e3),
    "forces": ("Force components", "eV/Å", 1.0, "meV/Å", 1e3),
    "stress": ("Stress components", "GPa", GPA, "GPa", GPA),
}
MOST_POINTS = 40_000


def parity(evaluations: Mapping[str, Evaluation], path: Path) -> None:
    """Predicted against reference values, a column per property; the error itself against the reference below.

    The lower row shows what the diagonal hides: errors are thousands of times smaller than the range of the values.
    """
    shown = [
        name
        for name in PANELS
        if any(len(evaluation.pairs[name]) for evaluation in evaluations.values())
    ]
    colors = split_colors(evaluations)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * max(len(shown), 1), 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(
            2, max(len(shown), 1), squeeze=False, sharex="col", height_ratios=(2.4, 1)
        )
        for column, name in enumerate(shown):
            _parity_panel(axes[0, column], axes[1, column], name, evaluations, colors)
        if shown:
            handles, labels = axes[0, 0].get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="outside upper center", ncols=len(labels), markerscale=2.5
            )
        figure.savefig(path, dpi=160)


def _parity_panel(
    top: Axes,
    bottom: Axes,
    name: str,
    evaluations: Mapping[str, Evaluation],
    colors: Mapping[str, str],
) -> None:
    title, unit, factor, error_unit, error_factor = PANELS[name]
    random = np.random.default_rng(0)
    lines, spread, reach = [], [], []
    for split, evaluation in evaluations.items():
        pairs = evaluation.pairs[name]
        if not len(pairs):
            continue
        rmse = float(np.sqrt(np.mean((pairs[:, 1] - pairs[:, 0]) ** 2)))
        lines.append(f"{split}  {rmse * error_factor:.3g} {error_unit}")
        spread.append(np.abs(pairs[:, 1] - pairs[:, 0]) * error_factor)
        reach.append(pairs * factor)
        chosen = (
            pairs
            if len(pairs) <= MOST_POINTS
            else pairs[random.choice(len(pairs), MOST_POINTS, replace=False)]
        )
        dots = {
            "s": 7 if len(chosen) < 2000 else 2.5,
            "alpha": float(np.clip(60 / len(chosen) ** 0.5, 0.08, 0.8)),
            "color": colors[split],
            "linewidths": 0,
            "rasterized": True,
        }
        top.scatter(chosen[:, 0] * factor, chosen[:, 1] * factor, label=split, **dots)
        bottom.scatter(chosen[:, 0] * factor, (chosen[:, 1] - chosen[:, 0]) * error_factor, **dots)
    values = np.concatenate([pairs.ravel() for pairs in reach])
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.05
    top.plot(
        [low - margin, high + margin],
        [low - margin, high + margin],
        color="black",
        linewidth=0.7,
        zorder=3,
    )
    top.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), title=title)
    top.set_ylabel(f"predicted ({unit})")
    top.text(0.04, 0.96, "RMSE\n" + "\n".join(lines), transform=top.transAxes, va="top", fontsize=8)
    bottom.axhline(0, color="black", linewidth=0.7, zorder=3)
    limit = 1.3 * float(np.quantile(np.concatenate(spread), 0.995)) or 1.0
    bottom.set(ylim=(-limit, limit))
    bottom.set_xlabel(f"reference ({unit})")
    bottom.set_ylabel(f"error ({error_unit})")
    for axis in (top, bottom):
        axis.ticklabel_format(useOffset=False)
        axis.locator_params(axis="x", nbins=5)
    # Legends show the colour of a split, not the transparency of its points.
    for handle in top.collections:
        handle.set_label(handle.get_label())


def learning_curve(rows: Sequence[Mapping[str, float | None]], path: Path) -> None:
    """Errors and learning rate against the epoch, on logarithmic axes."""
    panels = [
        ("energy", "Energy RMSE (meV/atom)", 1e3),
        ("forces", "Force RMSE (meV/Å)", 1e3),
        ("stress", "Stress RMSE (GPa)", GPA),
    ]
    panels = [
        panel
        for panel in panels
        if any(
            row.get(f"valid_{panel[0]}_rmse") or row.get(f"train_{panel[0]}_rmse") for row in rows
        )
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * (len(panels) + 1), 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
        best = [int(row["epoch"] or 0) for row in rows if row.get("best")]
        for axis, (name, label, factor) in zip(axes, panels, strict=False):
            for split, title in (
                ("train", "train (running)"),
                ("valid", "valid (averaged weights)"),
            ):
                _curve(axis, rows, f"{split}_{name}_rmse", factor, color=COLORS[split], label=title)
            axis.set(title=label, xlabel="epoch", yscale="log")
            if best:
                axis.axvline(
                    best[-1],
                    color="black",
                    linewidth=0.7,
                    linestyle=":",
                    label=f"best, epoch {best[-1]}",
                )
            _plain_ticks(axis)
        axes[0].legend(fontsize=8)
        last = axes[-1]
        _curve(last, rows, "learning_rate", 1.0, color="#333333", label="learning rate")
        last.set(title="Learning rate", xlabel="epoch", yscale="log")
        figure.savefig(path, dpi=160)


def _curve(
    axis: Axes, rows: Sequence[Mapping[str, float | None]], key: str, factor: float, **style: Any
) -> None:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        x, y = np.array(points, dtype=float).T
        axis.plot(
            x,
            y * factor,
            linewidth=1.2,
            marker="o" if len(points) < 15 else None,
            markersize=3,
            **style,
        )


def _plain_ticks(axis: Axes) -> None:
    """1, 2, 5, 10 rather than powers of ten, which say little over one decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def split_colors(splits: Mapping[str, Any]) -> dict[str, str]:
    """A colour per split: grey for training, blue for validation, strong ones for the tests."""
    rest = iter(CYCLE * (1 + len(splits) // len(CYCLE)))
    return {name: COLORS[name] if name in ("train", "valid") else next(rest) for name in splits}
