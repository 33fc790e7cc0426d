"""The forecaster of charged particles in models/nbody beside published networks.

    equiv data make nbody -o data/cache/nbody
    python benchmarks/nbody.py [--data data/cache/nbody] [--runs RUN ...]

The number of the field is the mean square error of a coordinate, one unit of time (1000 steps of
the simulation) ahead, on the 2000 test systems. Published figures are quoted from the papers and
the repository of PONITA, not run again; "straight on" is the line x + t v with the t that is best
on the training set.

Rows ``seeds`` are training runs of the recipe in models/nbody that differ in their seed (``--runs``
names their folders; rows of earlier calls are kept). Rows ``orientations`` are the shipped model,
its forecast averaged over 1 to 8 orientations of the grid: error, error with every system turned at
random, and how much turning changes the forecast, in the root mean square and relative to what the
forecast adds to flying straight on.
Prints tables and writes ``results/nbody.json`` and
``results/nbody.png``.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
import yaml
from torch import Tensor

import equiv
from equiv.data.particles import ParticleBatch, collate_particles, read_particles
from equiv.models import Forecaster
from equiv.so3.rotations import random_rotations

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MODEL = ROOT / "models" / "nbody"
PUBLISHED = {
    "SE(3)-Transformer": 0.0244,
    "TFN": 0.0155,
    "EGNN": 0.0070,
    "SEGNN": 0.0043,
    "PONITA": 0.0043,
    "CGENN": 0.0039,
}
AT_ONCE = 250
SHOWN = 3


def batches(folder: Path, name: str) -> list[ParticleBatch]:
    systems, *_ = read_particles([folder / f"{name}.npz"])
    return [
        collate_particles(systems[start : start + AT_ONCE])
        for start in range(0, len(systems), AT_ONCE)
    ]


def straight_on(train: list[ParticleBatch], test: list[ParticleBatch]) -> float:
    """Error of the line with the best time."""

    def parts(found: list[ParticleBatch]) -> tuple[Tensor, Tensor]:
        v = torch.cat([b.velocities for b in found])
        return v, torch.cat([b.targets - b.positions for b in found])

    v, moved = parts(train)
    t = (v * moved).sum() / v.square().sum()
    v, moved = parts(test)
    return float((moved - t * v).square().mean())


@torch.no_grad()
def errors(model: Forecaster, test: list[ParticleBatch], average: int) -> dict[str, float]:
    """Of the forecast, of that for turned systems, and of one from the other."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[Tensor]] = {k: [] for k in ("error", "turned", "change", "added")}
    seconds = 0.0
    for batch in test:
        start = time.process_time()
        forecast = model(batch, average=average)
        seconds += time.process_time() - start
        turn = random_rotations(generator=generator)
        moved = replace(
            batch, positions=batch.positions @ turn.T, velocities=batch.velocities @ turn.T
        )
        back = model(moved, average=average) @ turn
        found["error"].append(forecast - batch.targets)
        found["turned"].append(back - batch.targets)
        found["change"].append(back - forecast)
        found["added"].append(forecast - batch.positions - model.horizon * batch.velocities)
    mse = {name: float(torch.cat(parts).square().mean()) for name, parts in found.items()}
    return dict(
        mse=mse["error"],
        mse_turned=mse["turned"],
        change_rms=mse["change"] ** 0.5,
        change_relative=(mse["change"] / mse["added"]) ** 0.5,
        ms_per_system=1e3 * seconds / sum(len(b.sizes) for b in test),
    )


def run_row(folder: Path) -> dict[str, Any]:
    """What a training run has stored."""
    metrics = json.loads((folder / "metrics.json").read_text())
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    splits = metrics["splits"]
    return dict(
        seed=recipe["train"]["seed"],
        test_mse=splits["test"]["positions"]["mse"],
        test_mse_turned=splits["test"]["turned"]["mse"],
        valid_mse=splits["valid"]["positions"]["mse"],
        steps=metrics["training"]["steps"],
        seconds=metrics["training"]["seconds"],
    )


def plot(stored: dict[str, Any], model: Forecaster, test: list[ParticleBatch]) -> None:
    figure = plt.figure(figsize=(12.5, 7.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    bars, turning, tail = above.subplots(1, 3, width_ratios=(1.3, 1, 1))
    ours = [row["test_mse"] for row in stored["seeds"]]
    names = [*stored["published"], "this package"]
    values = [*stored["published"].values(), statistics.fmean(ours)]
    bars.barh(names, values, color=["#bbbbbb"] * (len(names) - 1) + ["#35b779"])
    bars.plot(ours, [len(names) - 1] * len(ours), "|", ms=11, color="black")
    for place, value in enumerate(values):
        bars.annotate(f" {value:.4f}", (value, place), va="center", fontsize=8)
    bars.set_xlabel(f"test MSE of a coordinate (ours: mean of {len(ours)} seeds)")
    bars.set_xlim(right=1.15 * max(values))
    bars.invert_yaxis()
    rows = stored["orientations"]
    over = [row["average"] for row in rows]
    turning.plot(over, [100 * row["change_relative"] for row in rows], "o-", color="#31688e")
    turning.set(xscale="log", yscale="log", ylim=(1, 10))
    turning.set_xticks(over, [str(n) for n in over], minor=False)
    turning.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    turning.minorticks_off()
    turning.set_xlabel("orientations averaged over")
    turning.set_ylabel("change of the forecast by turning (%)")
    with torch.no_grad():
        forecasts = [model(b) for b in test]
    wrong = [(f - b.targets).view(-1, 5, 3) for f, b in zip(forecasts, test, strict=True)]
    of_systems = torch.cat(wrong).square().mean((1, 2)).sort().values
    share = torch.arange(1, len(of_systems) + 1) / len(of_systems)
    tail.plot(of_systems, 100 * share, color="#31688e")
    tail.set(xscale="log", xlabel="MSE of a system", ylabel="systems with less (%)")
    first, forecast = test[0], forecasts[0]
    for k, axis in enumerate(below.subplots(1, SHOWN)):
        here = first.batch == k
        start, end, guess = (x[here][:, :2] for x in (first.positions, first.targets, forecast))
        velocity, charge = first.velocities[here][:, :2], first.charges[here]
        for x, v, y, g, q in zip(start, velocity, end, guess, charge, strict=True):
            color = "#c33c54" if q > 0 else "#31688e"
            axis.plot(*zip(x, x + v, strict=True), ":", color="#999999", lw=1)
            axis.plot(*zip(x, y, strict=True), "-", color=color, lw=0.8, alpha=0.5)
            axis.plot(*x, ".", color=color, ms=5)
            axis.plot(*y, "o", color=color, ms=9, mfc="none")
            axis.plot(*g, "+", color=color, ms=9)
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_title(f"test system {k + 1}, x and y", fontsize=9)
    below.supxlabel(
        "dots: start, dotted: straight on, circles: simulated, crosses: forecast; "
        "red and blue: charges",
        fontsize=9,
    )
    for axis in figure.get_axes():
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "nbody.png", dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "cache" / "nbody")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of trainings")
    given = parser.parse_args()
    path = RESULTS / "nbody.json"
    old = json.loads(path.read_text()) if path.exists() else {"seeds": []}
    seeds = {row["seed"]: row for row in old["seeds"]}
    seeds |= {row["seed"]: row for row in map(run_row, [MODEL, *given.runs])}
    model = equiv.load_model(MODEL / "weights.safetensors").eval()
    assert isinstance(model, Forecaster)
    train, test = (batches(given.data, name) for name in ("train", "test"))
    stored: dict[str, Any] = {
        "seeds": [seeds[k] for k in sorted(seeds)],
        "mean_test_mse": statistics.fmean(row["test_mse"] for row in seeds.values()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "published": {"straight on": straight_on(train, test), **PUBLISHED},
        "orientations": [],
    }
    for row in stored["seeds"]:
        print("  ".join(f"{k} {v:.5g}" for k, v in row.items()))
    print(f"mean of the seeds {stored['mean_test_mse']:.5f}, {stored['parameters']} weights")
    print("published:", "  ".join(f"{k} {v:.4f}" for k, v in stored["published"].items()))
    for average in (1, 2, 4, 8):
        row = {"average": average, **errors(model, test, average)}
        stored["orientations"].append(row)
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
    path.write_text(json.dumps(stored, indent=1) + "\n")
    plot(stored, model, test)


if __name__ == "__main__":
    main()
