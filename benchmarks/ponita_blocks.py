"""Blocks and kernels of a Ponita at equal processor time.

    python benchmarks/ponita_blocks.py [--data ../shared/data] [--seconds 40] [--variants NAME ...]

Each variant learns ethanol of rMD17 (the 1000 training structures of the first split) for the same
processor time on one thread, without compilation: Adam, a learning rate that falls along a cosine
of the time used, averaged weights. All have 3 layers of 64 channels, cutoff 5 Angstrom. Errors are
those on 200 test structures; under rotations, on 10 of them in 4 random rotations each: forces and
net torque relative to their size, energies relative to their spread. That is far from the end of a
training, and the same for all. Prints a table and writes ``results/ponita_blocks.json`` (rows of
variants that are not asked for are kept) and ``results/ponita_blocks.png``.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import matplotlib
import torch

from equiv.data import read_frames
from equiv.data.options import UnitChoice
from equiv.graph import AtomGraph, collate
from equiv.models import build_model
from equiv.models.interface import Model
from equiv.position_orientation import (
    Channels,
    OrientationNetwork,
    PolynomialKernel,
    orientation_grid,
)
from equiv.train.metrics import evaluate_model

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CUTOFF, CHANNELS, LAYERS, BATCH = 5.0, 64, 3, 5
DECAY = 0.99
VARIANTS: dict[str, dict[str, Any]] = {
    "band limited": {},
    "band limited, Clebsch-Gordan": {"product": "clebsch_gordan"},
    "ConvNeXt": {"block": "convnext"},
    "ConvNeXt, turned every step": {"block": "convnext", "orientation": "random_per_step"},
    "ConvNeXt, icosahedron": {"block": "convnext", "grid": "icosahedron"},
    "ConvNeXt, published kernel": {"block": "convnext"},
}


def build(name: str, graphs: list[AtomGraph]) -> Model:
    """A fresh model, with energies and forces of unit size."""
    numbers = graphs[0].atomic_numbers
    mean = float(torch.cat([g.energy for g in graphs]).mean()) / len(numbers)
    forces = torch.cat([g.forces for g in graphs])
    neighbors = sum(g.num_edges for g in graphs) / len(forces)
    model = build_model(
        "ponita",
        seed=0,
        elements=["H", "C", "O"],
        cutoff=CUTOFF,
        channels=CHANNELS,
        layers=LAYERS,
        mean_neighbors=neighbors,
        reference_energies=dict.fromkeys(("H", "C", "O"), mean),
        scale=float(forces.square().mean().sqrt()),
        **VARIANTS[name],
    )
    if name.endswith("published kernel"):  # which is no choice of the potential: forces jump
        model.network.network = OrientationNetwork(
            grid=orientation_grid("pentakis32"),
            kernel=PolynomialKernel(64, 64, cutoff=CUTOFF),
            inputs=Channels(scalars=3),
            outputs=Channels(scalars=1),
            channels=CHANNELS,
            layers=LAYERS,
            mean_neighbors=neighbors,
        )
    return model


def learn(model: Model, graphs: list[AtomGraph], seconds: float) -> int:
    """Train for a processor time; returns the number of steps."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    weights = list(model.parameters())
    averaged = [w.detach().clone() for w in weights]
    steps, start = 0, time.process_time()
    order: list[int] = []
    while (used := (time.process_time() - start) / seconds) < 1:
        rate = 5e-3 * min(1.0, (steps + 1) / 20) * (0.01 + 0.99 * math.cos(0.5 * math.pi * used))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if len(order) < BATCH:
            order = torch.randperm(len(graphs), generator=generator).tolist()
        batch = collate([graphs[order.pop()] for _ in range(BATCH)])
        model.train()
        if hasattr(model, "advance"):
            model.advance(steps + 1)
        found = model(batch)
        size = torch.bincount(batch.batch)
        loss = 10 * ((found.energy - batch.energy) / size).square().mean()
        loss = loss + (found.forces - batch.forces).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        steps += 1
        with torch.no_grad():
            decay = min(DECAY, steps / (steps + 10))
            torch._foreach_lerp_(averaged, weights, 1 - decay)
    with torch.no_grad():
        for weight, value in zip(weights, averaged, strict=True):
            weight.copy_(value)
    model.eval()
    return steps


def measure(name: str, data: Path, seconds: float) -> dict[str, Any]:
    units = UnitChoice(energy="kcal/mol")
    frames = {
        part: read_frames(data / "rmd17" / f"rmd17_ethanol_{part}_01.npz", units=units)
        for part in ("train", "test")
    }
    graphs = {
        part: [AtomGraph.from_atoms(f.atoms, CUTOFF, labels=f) for f in found]
        for part, found in (("train", frames["train"]), ("test", frames["test"][::5]))
    }
    model = build(name, graphs["train"])
    steps = learn(model, graphs["train"], seconds)
    metrics = evaluate_model(model, graphs["test"])
    turned = model.equivariance_error([f.atoms for f in frames["test"][::100]], rotations=4)
    return dict(
        variant=name,
        seconds=seconds,
        steps=steps,
        parameters=sum(p.numel() for p in model.parameters()),
        energy_mae_mev=1e3 * metrics["energy"].mae,
        forces_mae_mev=1e3 * metrics["forces"].mae,
        turned_energy=turned.energy_relative,
        turned_forces=turned.forces_relative,
        torque=turned.torque_relative,
    )


def plot(rows: list[dict[str, Any]]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
    names = [row["variant"] for row in rows]
    colors = ["#35b779" if "band" in name else "#31688e" for name in names]
    left.barh(names, [row["forces_mae_mev"] for row in rows], color=colors)
    left.set_xlabel(f"test forces, MAE (meV/Å) after {rows[0]['seconds']:g} s of one core")
    left.invert_yaxis()
    for marker, key, label in (("o", "turned_forces", "forces"), ("x", "torque", "net torque")):
        right.plot([100 * row[key] for row in rows], names, marker, color="#444444", label=label)
    right.axvline(1, color="#c33c54", lw=0.8)
    right.set_xscale("log")
    right.set_xlabel("error under rotations (%)")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / "ponita_blocks.png", dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "ponita_blocks.json"
    stored = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = {row["variant"]: row for row in stored}
    for name in given.variants:
        rows[name] = measure(name, given.data, given.seconds)
        words = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in rows[name].values())
        print("  ".join(words), flush=True)
        ordered = [rows[k] for k in VARIANTS if k in rows]
        path.write_text(json.dumps({"rows": ordered}, indent=1) + "\n")
        plot(ordered)


if __name__ == "__main__":
    main()
