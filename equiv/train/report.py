"""`report.html`: everything about a run in one file that needs no network and no other file."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from equiv import __version__
from equiv.atomic import write_bytes
from equiv.train.console import ERROR_COLUMNS, clock, error_cell
from equiv.train.metrics import Evaluation

SHOWN_WORST = 10

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #656d76; --line: #d8dee4; --paper: #ffffff; --band: #f6f8fa; --accent: #1a5fb4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --paper: #0d1117; --band: #161b22; --accent: #78aeed; } img { background: #fff; border-radius: 6px; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 36px 0 10px; border-bottom: 1px solid var(--line); padding-bottom: 4px; }
p.lead { color: var(--soft); margin: 0 0 18px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; } .card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 130px; }
.card b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; } .card span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; } th { color: var(--soft); font-weight: 600; font-size: 13px; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } tr.group td:first-child { padding-left: 18px; color: var(--soft); }
img { max-width: 100%; height: auto; } pre { background: var(--band); padding: 12px 16px; border-radius: 8px; overflow-x: auto; font-size: 13px; }
.warning { border-left: 4px solid #d4a017; background: var(--band); padding: 6px 12px; margin: 6px 0; } code { background: var(--band); padding: 1px 5px; border-radius: 4px; }
"""


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
    parts = [
        f"<h1>{html.escape(folder.resolve().name)}</h1>",
        f'<p class="lead">{html.escape(str(recipe["model"]["name"]))} potential, trained with equiv {__version__} '
        f"for {clock(training['seconds'])} on {html.escape(training['device'])}, {training['epochs']} epochs, "
        f"{training['steps']:,} steps; best epoch {training['best_epoch']}, stopped by {training['stopped_by']}.</p>",
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
        "<pre>from equiv import EquivCalculator\natoms.calc = EquivCalculator(&quot;model.safetensors&quot;)</pre>",
        "<h2>Recipe, every choice filled in</h2>",
        f"<pre>{html.escape(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))}</pre>",
        "<h2>Versions</h2>",
        _table(
            ["package", "version"],
            [[name, version] for name, version in training["versions"].items()],
        ),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(folder.resolve().name)} - equiv</title><style>{STYLE}</style></head>"
        f"<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )
    write_bytes(folder / "report.html", page.encode())


def _cards(split: str, metrics: Mapping[str, Any]) -> str:
    """The headline: root mean square errors of the last split."""
    cards = []
    for name, (title, factor) in ERROR_COLUMNS.items():
        if name in metrics:
            unit = title.split("\n")[1]
            label = {"E": "energy", "F": "forces", "S": "stress"}[title[0]]
            cards.append(
                f'<div class="card"><b>{metrics[name]["rmse"] * factor:.3g} {html.escape(unit)}</b>'
                f"<span>{label} RMSE, {html.escape(split)} ({metrics['frames']} structures)</span></div>"
            )
    return f'<div class="cards">{"".join(cards)}</div>'


def _errors(splits: Mapping[str, Any]) -> str:
    present = [
        name for name in ERROR_COLUMNS if any(name in metrics for metrics in splits.values())
    ]
    rows, marks = [], []
    for split, metrics in splits.items():
        rows.append(
            [split, str(metrics["frames"]), *(error_cell(metrics, name) for name in present)]
        )
        marks.append("")
        for group, part in metrics.get("groups", {}).items():
            rows.append([group, str(part["frames"]), *(error_cell(part, name) for name in present)])
            marks.append("group")
    return _table(["", "frames", *(ERROR_COLUMNS[name][0] for name in present)], rows, marks)


def _worst(evaluation: Evaluation, names: Sequence[str]) -> str:
    errors = evaluation.frame_forces
    if not np.isfinite(errors).any():
        errors = np.abs(evaluation.frame_energy)
    order = [i for i in np.argsort(-np.nan_to_num(errors, nan=-1.0)) if np.isfinite(errors[i])][
        :SHOWN_WORST
    ]
    rows = [
        [names[i], _milli(evaluation.frame_forces[i]), _milli(evaluation.frame_energy[i])]
        for i in order
    ]
    return _table(["structure", "force RMSE\nmeV/A", "energy error\nmeV/atom"], rows)


def _milli(value: float) -> str:
    return f"{1e3 * value:.2f}" if np.isfinite(value) else "-"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], marks: Sequence[str] | None = None
) -> str:
    cells = "".join(f"<th>{html.escape(name).replace(chr(10), '<br>')}</th>" for name in head)
    body = "".join(
        f'<tr class="{mark}">'
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for row, mark in zip(rows, marks or [""] * len(rows), strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _image(path: Path, alternative: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'
