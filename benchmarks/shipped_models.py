"""Errors of the trained models in models/ on test structures they have not seen.

    python benchmarks/shipped_models.py [--data ../shared/data]

Prints a table and writes results/shipped_models.json and results/shipped_models.png. The published
figures beside ours are those of the papers named there.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import equiv
from equiv.data import read_frames
from equiv.graph import AtomGraph
from equiv.train.metrics import evaluate_model

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

# model, test file, (quantity, statistic, factor, unit): ours is compared with published figures.
CASES = [
    (
        "acac",
        "acac/test_MD_300K.xyz",
        [("energy", "rmse", 1e3, "meV/molecule"), ("forces", "rmse", 1e3, "meV/Å")],
        {"MACE (Batatia et al. 2022)": (0.9, 5.1)},
    ),
    (
        "acac",
        "acac/train_600K.xyz",
        [("energy", "rmse", 1e3, "meV/molecule"), ("forces", "rmse", 1e3, "meV/Å")],
        {},
    ),
    (
        "si_mlearn",
        "mlearn/Si_test.xyz",
        [("energy_per_atom", "mae", 1e3, "meV/atom"), ("forces", "mae", 1e3, "meV/Å")],
        {"MTP (Zuo et al. 2020)": (3.0, 85.0), "GAP (Zuo et al. 2020)": (4.2, 80.0)},
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    data = parser.parse_args().data
    rows = []
    for name, file, quantities, published in CASES:
        model = equiv.load_model(ROOT / "models" / name / "weights.safetensors")
        frames = read_frames(data / file)
        graphs = [AtomGraph.from_atoms(f.atoms, model.cutoff, labels=f) for f in frames]
        metrics = evaluate_model(model, graphs)
        for column, (quantity, statistic, factor, unit) in enumerate(quantities):
            row = {
                "model": name,
                "test": file,
                "frames": len(graphs),
                "quantity": quantity,
                "statistic": statistic,
                "unit": unit,
                "equiv": factor * getattr(metrics[quantity], statistic),
            }
            row |= {who: figures[column] for who, figures in published.items()}
            rows.append(row)
            others = "".join(f", {who}: {figures[column]:g}" for who, figures in published.items())
            print(f"{name:10} {file:24} {quantity} {statistic} {row['equiv']:.2f} {unit}{others}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "shipped_models.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    plot(rows)


def plot(rows: list[dict]) -> None:
    figure, axes = plt.subplots(1, len(rows), figsize=(2.3 * len(rows), 3.2), layout="constrained")
    for axis, row in zip(axes, rows, strict=True):
        bars = {key.split(" (")[0]: row[key] for key in row if key == "equiv" or " (" in key}
        axis.bar(list(bars), list(bars.values()), color=["#1f6f8b"] + ["0.75"] * (len(bars) - 1))
        for x, value in enumerate(bars.values()):
            axis.annotate(f"{value:.3g}", (x, value), ha="center", va="bottom")
        axis.set_title(f"{Path(row['test']).stem}\n{row['quantity']} {row['statistic'].upper()}")
        axis.set_ylabel(row["unit"])
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "shipped_models.png", dpi=130)


if __name__ == "__main__":
    main()
