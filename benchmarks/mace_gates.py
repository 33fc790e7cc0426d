"""MACE with sparse gates on the paths of its convolutions: error and time per step.

    OMP_NUM_THREADS=1 python benchmarks/mace_gates.py [--data FOLDER] [--epochs 5] [PART ...]

Parts, one by one or all: ``steps``, the time of a training step (energy, forces, gradients of all
weights, Adam) with the gates fixed, in turns, medians of processor time; ``train:K`` for K = 0,
0.3, 0.5 and 0.7, a MACE trained on 300 K structures of acetylacetone and tested on others, the same
number of steps for every K, its gates random for the first 10 % of them and fixed after 30 %;
``plot``. Features of degree 2 between the layers: 17 paths in the second convolution (the first,
of scalars, has one path to each degree and no choice). The data are the BOTNet data set of
acetylacetone (``acac``), which ``FOLDER`` contains. Writes results/mace_gates.json and .png.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from equiv.graph import AtomGraph, collate
from equiv.models import build_model
from equiv.models.file import load_model
from equiv.train import run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SPARSITIES = (0.0, 0.3, 0.5, 0.7)
SHAPE = {"channels": 16, "hidden_degree": 2, "edge_degree": 3, "correlation": 3}
BATCH = 5


def step_times(data: Path, channels: int) -> list[dict[str, Any]]:
    """One row per sparsity."""
    import ase.io

    structures = ase.io.read(data / "acac" / "train_300K.xyz", f":{BATCH}")
    steps, models = {}, {}
    for k in SPARSITIES:
        model = build_model(
            "mace",
            seed=0,
            dtype=torch.float32,
            elements=["H", "C", "O"],
            cutoff=5.0,
            mean_neighbors=12.0,
            reference_energies={"H": 0.0, "C": 0.0, "O": 0.0},
            **{**SHAPE, "channels": channels},
            sparsity=k,
        ).train()
        batch = collate([AtomGraph.from_atoms(a, model.cutoff) for a in structures])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

        def step(model=model, batch=batch, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            prediction = model(batch, forces=True)
            (prediction.energy.square().mean() + prediction.forces.square().mean()).backward()
            optimizer.step()

        steps[k], models[k] = step, model
    times: dict[float, list[float]] = {k: [] for k in SPARSITIES}
    for turn in range(22):
        for k, step in steps.items():
            started = time.process_time()
            step()
            if turn >= 2:  # the first build kernels
                times[k].append(1e3 * (time.process_time() - started))
    dense = statistics.median(times[0.0])
    rows = []
    for k in SPARSITIES:
        ms = statistics.median(times[k])
        gate = getattr(models[k].layers[1].thinned, "gate", None)
        share = 1.0 if gate is None else gate.cost_share()
        rows.append(
            {
                "channels": channels,
                "k": k,
                "step_ms": ms,
                "speedup": dense / ms,
                "multiply_adds_of_the_convolution": share,
            }
        )
        print(rows[-1], flush=True)
    return rows


def train(k: float, data: Path, epochs: int) -> dict[str, Any]:
    """Errors of one model, and the paths that it kept."""
    folder = data / "acac"
    structures = 475  # of 500, the others validate
    steps = epochs * -(-structures // BATCH)
    with tempfile.TemporaryDirectory() as output:
        started = time.process_time()
        result = run(
            {
                "data": {
                    "train": [str(folder / "train_300K.xyz"), str(folder / "isolated_atoms.xyz")],
                    "test": {
                        "300 K": str(folder / "test_MD_300K.xyz") + "@::4",
                        "600 K": str(folder / "train_600K.xyz") + "@::4",
                    },
                    "valid_fraction": 0.05,
                    "reference_energies": "isolated",
                },
                "model": {
                    "name": "mace",
                    "cutoff": 5.0,
                    **SHAPE,
                    "sparsity": k,
                    "random_until": round(0.1 * steps),
                    "fixed_from": round(0.3 * steps),
                },
                "train": {
                    "epochs": epochs,
                    "batch_size": BATCH,
                    "loss": "mse",
                    "energy_weight": 10.0,
                    "final_energy_weight": 100.0,
                    "forces_weight": 100.0,
                    "learning_rate": 0.01,
                    "final_learning_rate": 1e-4,
                    "ema_decay": 0.99,
                    "threads": 1,
                    "seed": 1,
                },
                "output": output,
            },
            report=False,
        )
        seconds = time.process_time() - started
        model: Any = load_model(result.model)
        steps = int(result.history[-1]["step"] or 0)
    layer = model.layers[1]
    paths = layer.convolution.paths
    kept = range(len(paths)) if layer.thinned is None else layer.thinned.gate.selection
    row: dict[str, Any] = {
        "k": k,
        "steps": steps,
        "cpu_seconds": seconds,
        "paths": f"{len(kept)} of {len(paths)}",
    }
    for split in ("300 K", "600 K"):
        metrics = result.metrics[split]
        row[f"{split} forces, meV/A"] = 1e3 * metrics["forces"]["rmse"]
        row[f"{split} energy, meV/atom"] = 1e3 * metrics["energy_per_atom"]["rmse"]
    row["kept"] = [list(paths[p]) for p in kept]
    print({key: value for key, value in row.items() if key != "kept"}, flush=True)
    return row


def plot(results: dict[str, Any], path: Path) -> None:
    """Errors and times against sparsity."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    trained = sorted(results["trained"].values(), key=lambda row: row["k"])
    for split, colour in (("300 K", "C0"), ("600 K", "C3")):
        errors = [row[f"{split} forces, meV/A"] for row in trained]
        left.plot([row["k"] for row in trained], errors, "o-", color=colour, label=f"{split} test")
    for row in trained:
        left.annotate(
            row["paths"], (row["k"], row["600 K forces, meV/A"]), fontsize=8,
            xytext=(0, 6), textcoords="offset points", ha="center",
        )  # fmt: skip
    left.set(
        xlabel="sparsity k", ylabel="force error (RMSE, meV/Å)",
        ylim=(0, 1.2 * max(row["600 K forces, meV/A"] for row in trained)),
        title=f"{trained[0]['steps']} steps, {SHAPE['channels']} channels, trained at 300 K",
    )  # fmt: skip
    left.margins(x=0.12)
    left.legend(fontsize=8)
    for channels in dict.fromkeys(row["channels"] for row in results["steps"]):
        rows = [row for row in results["steps"] if row["channels"] == channels]
        shares = [1 / row["speedup"] for row in rows]
        right.plot([row["k"] for row in rows], shares, "o-", label=f"step, {channels} channels")
    work = [row["multiply_adds_of_the_convolution"] for row in rows]
    right.plot([row["k"] for row in rows], work, "--", color="0.5", label="its multiply-adds")
    right.set(xlabel="sparsity k", ylabel="relative to dense", title="time per step")
    right.set_ylim(0, 1.1 * max(1.0, *(1 / row["speedup"] for row in results["steps"])))
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.set_xticks(SPARSITIES)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure, store, draw."""
    every = ["steps", *(f"train:{k:g}" for k in SPARSITIES), "plot"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(every))
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(every):
        parser.error(f"unknown parts {', '.join(unknown)}; there are {', '.join(every)}")
    torch.set_num_threads(1)
    path = RESULTS / "mace_gates.json"
    results = json.loads(path.read_text()) if path.exists() else {"trained": {}}
    for part in arguments.parts or every:
        if part == "steps":
            results["steps"] = [row for c in (16, 64) for row in step_times(arguments.data, c)]
        elif part != "plot":
            k = float(part.removeprefix("train:"))
            results["trained"][f"{k:g}"] = train(k, arguments.data, arguments.epochs)
        path.write_text(json.dumps(results, indent=1) + "\n")
    if results.get("steps") and results["trained"]:
        plot(results, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
