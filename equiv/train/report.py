"""`report.html`: everything about a run in one file that needs no network and no other file."""

import base64
import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from equiv import __version__
from equiv.atomic import write_bytes
from equiv.train.console import clock, column_heads, error_cell, measured, significant
from equiv.train.evaluation import Evaluation
from equiv.train.quantity import STATISTICS
from equiv.train.state import REASONS
from equiv.train.task import Task

SHOWN_WORST = 10


def write_report(
    folder: Path,
    *,
    task: Task[Any],
    document: Mapping[str, Any],
    recipe: Mapping[str, Any],
    evaluations: Mapping[str, Evaluation],
    warnings: Sequence[str],
) -> None:
    """Write `report.html` into the folder of a finished run; the two pictures are taken from there.

    Args:
        folder: the folder of the run.
        task: what was learned.
        document: content of `metrics.json`.
        recipe: the recipe as resolved.
        evaluations: what the model says about each split.
        warnings: what the run complained about.
    """
    splits, training = document["splits"], document["training"]
    last = list(splits)[-1]
    parity, name = folder / "parity.png", f"{recipe['model']['name']} {task.noun}"
    title = html.escape(folder.resolve().name)
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{html.escape(_summary(name, training))}</p>',
        _cards(task, last, splits[last]),
        *(f'<p class="warning">{html.escape(warning)}</p>' for warning in warnings),
        "<h2>Errors</h2>",
        _errors(task, splits),
        *(_parity(parity) if any(item.pairs for item in evaluations.values()) else ()),
        "<h2>Learning curves</h2>",
        _image(folder / "learning_curve.png", "errors against epochs"),
        f"<h2>Worst {task.samples} of {html.escape(last)}</h2>",
        _worst(task, evaluations[last], task.splits[-1].names),
        "<h2>Use it</h2>",
        f"<pre>{html.escape(task.usage)}</pre>",
        "<h2>Recipe, every choice filled in</h2>",
        f"<pre>{html.escape(yaml.safe_dump(dict(recipe), sort_keys=False))}</pre>",
        "<h2>Versions</h2>",
        _table(["package", "version"], [list(item) for item in training["versions"].items()]),
    ]
    style = files("equiv.train").joinpath("report.css").read_text(encoding="utf-8")
    page = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title} - equiv</title>",
        f"<style>\n{style}</style></head>",
        "<body><main>",
        *parts,
        "</main></body></html>",
    ]
    write_bytes(folder / "report.html", ("\n".join(page) + "\n").encode())


def _summary(model: str, training: Mapping[str, Any]) -> str:
    return (
        f"{model}, trained with equiv {__version__} for {clock(training['seconds'])} on "
        f"{training['device']}: {training['epochs']} epochs, {training['steps']:,} steps, best "
        f"epoch {training['best_epoch']}; {REASONS[training['stopped_by']]}."
    )


def _cards(task: Task[Any], split: str, metrics: Mapping[str, Any]) -> str:
    """The headline: one statistic of every quantity on the last split."""
    cards = []
    for quantity in task.quantities:
        if quantity.name in metrics:
            name = quantity.headline
            value = significant(quantity.shown(metrics[quantity.name][name], name))
            unit = html.escape(quantity.shown_unit)
            label = (
                f"{html.escape(quantity.words)} {STATISTICS[name]}, {html.escape(split)} "
                f"({metrics['frames']} {task.samples})"
            )
            cards.append(f'<div class="card"><b>{value} {unit}</b><span>{label}</span></div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _errors(task: Task[Any], splits: Mapping[str, Any]) -> str:
    """The error table of all splits and groups."""
    present = measured(task.quantities, splits)
    common, heads = column_heads(present, "\n")
    rows, marks = [], []
    for split, metrics in splits.items():
        groups = metrics.get("groups", {})
        for name, part, mark in [
            (split, metrics, ""),
            *((g, m, "group") for g, m in groups.items()),
        ]:
            cells = [error_cell(part, quantity) for quantity in present]
            rows.append([name, str(part["frames"]), *cells])
            marks.append(mark)
    return _table([common, "frames", *heads], rows, marks)


def _parity(path: Path) -> tuple[str, str]:
    heading = "<h2>Predicted against reference</h2>"
    return heading, _image(path, "predicted against reference values")


def _worst(task: Task[Any], evaluation: Evaluation, names: Sequence[str]) -> str:
    """The samples with the largest errors, and those errors."""
    ranking = task.ranking()
    shown = [
        quantity
        for name in ranking
        for quantity in task.quantities
        if quantity.name == name and name in evaluation.of_samples
    ]
    heads = [f"{quantity.words} error\n{quantity.shown_unit}".strip() for quantity in shown]
    rows = [
        [names[i], *(_shown(q.factor * evaluation.of_samples[q.name][i]) for q in shown)]
        for i in evaluation.worst(SHOWN_WORST, ranking)
    ]
    return _table([task.samples.rstrip("s"), *heads], rows)


def _shown(value: float) -> str:
    return significant(float(value)) if np.isfinite(value) else "-"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], marks: Sequence[str] | None = None
) -> str:
    cells = "".join(f"<th>{html.escape(name).replace(chr(10), '<br>')}</th>" for name in head)
    body = []
    for row, mark in zip(rows, marks or [""] * len(rows), strict=True):
        attribute = f' class="{mark}"' if mark else ""
        columns = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        body.append(f"<tr{attribute}>{columns}</tr>")
    inner = f"<thead><tr>{cells}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody>"
    return f'<div class="scroll"><table>{inner}</table></div>'


def _image(path: Path, alternative: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'
