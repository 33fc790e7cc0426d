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
from equiv.train.console import ERROR_COLUMNS, clock, error_cell, significant
from equiv.train.metrics import Evaluation
from equiv.train.state import REASONS

SHOWN_WORST = 10
USE = """from equiv import EquivCalculator
atoms.calc = EquivCalculator("model.safetensors")"""


def write_report(
    folder: Path,
    *,
    document: Mapping[str, Any],
    recipe: Mapping[str, Any],
    evaluations: Mapping[str, Evaluation],
    names: Mapping[str, Sequence[str]],
    warnings: Sequence[str],
) -> None:
    """Write `report.html` into the folder of a finished run; the two pictures are taken from there.

    Args:
        folder: the folder of the run.
        document: content of `metrics.json`.
        recipe: the recipe as resolved.
        evaluations: what the model says about each split.
        names: for each split, where every structure came from.
        warnings: what the run complained about.
    """
    splits, training = document["splits"], document["training"]
    last = list(splits)[-1]
    title = html.escape(folder.resolve().name)
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{html.escape(_summary(str(recipe["model"]["name"]), training))}</p>',
        _cards(last, splits[last]),
        *(f'<p class="warning">{html.escape(warning)}</p>' for warning in warnings),
        "<h2>Errors</h2>",
        _errors(splits),
        "<h2>Predicted against reference</h2>",
        _image(folder / "parity.png", "predicted against reference values"),
        "<h2>Learning curves</h2>",
        _image(folder / "learning_curve.png", "errors against epochs"),
        f"<h2>Worst structures of {html.escape(last)}</h2>",
        _worst(evaluations[last], names[last]),
        "<h2>Use it</h2>",
        f"<pre>{html.escape(USE)}</pre>",
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
        f"{model} potential, trained with equiv {__version__} for {clock(training['seconds'])} on "
        f"{training['device']}: {training['epochs']} epochs, {training['steps']:,} steps, best "
        f"epoch {training['best_epoch']}; {REASONS[training['stopped_by']]}."
    )


def _cards(split: str, metrics: Mapping[str, Any]) -> str:
    """The headline: root mean square errors of the last split."""
    cards = []
    for name, column in ERROR_COLUMNS.items():
        if name in metrics:
            value = (
                f"{significant(metrics[name]['rmse'] * column.factor)} {html.escape(column.unit)}"
            )
            label = f"{column.words} RMSE, {html.escape(split)} ({metrics['frames']} structures)"
            cards.append(f'<div class="card"><b>{value}</b><span>{label}</span></div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _errors(splits: Mapping[str, Any]) -> str:
    """The error table of all splits and groups."""
    present = [n for n in ERROR_COLUMNS if any(n in metrics for metrics in splits.values())]
    columns = [ERROR_COLUMNS[name] for name in present]
    rows, marks = [], []
    for split, metrics in splits.items():
        groups = metrics.get("groups", {})
        for name, part, mark in [
            (split, metrics, ""),
            *((g, m, "group") for g, m in groups.items()),
        ]:
            cells = [error_cell(part, name) for name in present]
            rows.append([name, str(part["frames"]), *cells])
            marks.append(mark)
    heads = [f"{column.symbol} MAE / RMSE\n{column.unit}" for column in columns]
    return _table(["", "frames", *heads], rows, marks)


def _worst(evaluation: Evaluation, names: Sequence[str]) -> str:
    rows = [
        [
            names[i],
            _milli(float(evaluation.frame_forces[i])),
            _milli(float(evaluation.frame_energy[i])),
        ]
        for i in evaluation.worst(SHOWN_WORST)
    ]
    return _table(["structure", "force RMSE\nmeV/Å", "energy error\nmeV/atom"], rows)


def _milli(value: float) -> str:
    return f"{1e3 * value:.2f}" if np.isfinite(value) else "-"


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
