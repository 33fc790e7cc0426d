"""Clusters of ions and water: compact ones and far pairs, with and without charges.

    OMP_NUM_THREADS=1 python benchmarks/ionic_clusters.py [local learned]
        [--runs runs/ionic_clusters] [--epochs 40]

Trains models/ionic_clusters/recipe.yaml as it is and with ``model.long_range=null`` on compact
clusters (two minutes each on one core; a finished run is not repeated), and measures both on
compact clusters of other trajectories and on pairs of clusters that are 5 to 14 Angstrom apart,
where nothing of one is within the cutoff of the other. Besides errors of energies and of forces on
atoms, those of the forces on whole clusters: the sum over the atoms of the first of a pair.

Adds to results/ionic_clusters.json, prints the table, draws results/ionic_clusters.png.
"""

import argparse
import json
from pathlib import Path

import ase
import ase.io
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console

import equiv.train
from equiv import EquivCalculator

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT / "data" / "ionic_clusters"
TERMS = {"local": "null", "learned": "{charges: learned}"}
COLORS = {"local": "#d95f02", "learned": "#1f6f8b"}
SHOWN = {
    "energy_rmse_mev_per_atom": "energy RMSE (meV/atom)",
    "force_rmse_mev_per_angstrom": "RMSE of forces on atoms (meV/Å)",
    "cluster_force_rmse_mev_per_angstrom": "RMSE of forces on clusters (meV/Å)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Clusters of ions, compact and far apart.")
    parser.add_argument("terms", nargs="*", choices=[*TERMS, []], help="which to train")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ionic_clusters")
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    store = RESULTS / "ionic_clusters.json"
    content: dict = json.loads(store.read_text()) if store.exists() else {"rows": []}
    for term in arguments.terms or TERMS:
        rows = measured(term, trained(term, arguments))
        content["rows"] = [row for row in content["rows"] if row["model"] != term] + rows
        store.write_text(json.dumps(content, indent=1) + "\n")
    table(content["rows"])
    plot(content["rows"])


def trained(term: str, arguments: argparse.Namespace) -> Path:
    """The file of one model."""
    overrides = [f"model.long_range={TERMS[term]}", f"train.epochs={arguments.epochs}"]
    recipe = equiv.train.load_recipe(
        ROOT / "models" / "ionic_clusters" / "recipe.yaml",
        [*overrides, "train.compile=off"],
        output=arguments.runs / term,
    )
    return equiv.train.run(recipe, console=Console(width=110), report=False).model


def measured(term: str, model: Path) -> list[dict]:
    """Errors on compact clusters, and on pairs at each gap and together."""
    calculator = EquivCalculator(model)
    compact = list(ase.io.iread(DATA / "test_compact.xyz"))
    apart = list(ase.io.iread(DATA / "test_apart.xyz"))
    rows = [
        {"model": term, "part": "compact", **errors(compact, calculator)},
        {"model": term, "part": "apart", **errors(apart, calculator)},
    ]
    for gap in sorted({frame.info["gap"] for frame in apart}):
        chosen = [frame for frame in apart if frame.info["gap"] == gap]
        rows.append({"model": term, "part": "gap", "gap": gap, **errors(chosen, calculator)})
    return rows


def errors(frames: list[ase.Atoms], calculator: EquivCalculator) -> dict[str, float]:
    """Root mean squares, in meV and Angstrom."""
    energies, forces, pulls = [], [], []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        energies.append((atoms.get_potential_energy() - frame.get_potential_energy()) / len(atoms))
        error = atoms.get_forces() - frame.get_forces()
        forces.append(error.ravel())
        if "first_fragment" in frame.info:
            pulls.append(error[: frame.info["first_fragment"]].sum(0))
    found = [energies, np.concatenate(forces), *([np.concatenate(pulls)] if pulls else [])]
    values = (1e3 * float(np.sqrt(np.mean(np.square(values)))) for values in found)
    return dict(zip(SHOWN, values, strict=False))


def table(rows: list[dict]) -> None:
    print("RMSE: energies (meV/atom), forces on atoms and on clusters (meV/Å)")
    for row in rows:
        if row["part"] != "gap":
            values = "".join(f"{row[key]:10.1f}" for key in SHOWN if key in row)
            print(f"{row['model']:10}{row['part']:10}{values}")


def plot(rows: list[dict]) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if (row["model"], row["part"]) == (model, "gap")]
        near = next(row for row in rows if (row["model"], row["part"]) == (model, "compact"))
        for axis, key in zip(axes, SHOWN, strict=True):
            x = [row["gap"] for row in own]
            axis.plot(x, [row[key] for row in own], "o-", color=COLORS[model], label=model)
            if key in near:
                axis.plot(0, near[key], "s", color=COLORS[model], mfc="w", clip_on=False, zorder=3)
    for axis, label in zip(axes, SHOWN.values(), strict=True):
        axis.set(xlabel="gap (Å); squares: compact clusters", ylabel=label)
        axis.set(xlim=(0, None), ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, title="long-range term")
    figure.savefig(RESULTS / "ionic_clusters.png", dpi=130)


if __name__ == "__main__":
    main()
