"""Pairs of organic ions: trained when close, tested farther apart, with and without charges.

    OMP_NUM_THREADS=1 python benchmarks/charged_dimers.py [local learned equilibrated]
        [--data ../shared/data] [--runs runs/charged_dimers] [--epochs 250]

Ten pairs of a positive and a negative ion at eight separations each (DFT; Grisafi et al., Chem.
Sci. 12, 2078 (2021)). All models are equal but for ``long_range`` and see the same structures:

    near        separations 0, 1, 3 and 4 of each pair, for training
    between     separation 2, for choosing the epoch: never trained on
    far         the three longest, 5 to 7

Trains what is named (default: all three), about two minutes each on one core, and adds it to
results/charged_dimers.json; prints the table and draws results/charged_dimers.png.
"""

import argparse
import json
from pathlib import Path

import ase.io
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from ase.neighborlist import natural_cutoffs, neighbor_list
from rich.console import Console

import equiv.train
from equiv import EquivCalculator

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STEPS = {"near": (0, 1, 3, 4), "between": (2,), "far": (5, 6, 7)}
TERMS = {
    "local": None,
    "learned": {"charges": "learned"},
    "equilibrated": {"charges": "equilibrated"},
}
COLORS = {"local": "#d95f02", "learned": "#1f6f8b", "equilibrated": "#1b9e77"}
SHOWN = {
    "energy_mae_mev": "energy MAE (meV)",
    "force_rmse_mev_per_angstrom": "RMSE of forces on atoms (meV/Å)",
    "ion_force_rmse_mev_per_angstrom": "RMSE of forces on ions (meV/Å)",
}
# In 2 structures of 50 in `near` and `between`, and 11 of 30 in `far`, the ions are farther apart
# than the cutoff.
MODEL = {
    "cutoff": 3.0,
    "channels": 32,
    "hidden_degree": 1,
    "edge_degree": 2,
    "correlation": 2,
    "shift": 0.0,
}
TRAIN = {
    "batch_size": 4,
    "learning_rate": 0.01,
    "energy_weight": 100.0,
    "final_energy_weight": 1000.0,
    "forces_weight": 100.0,
    "threads": 1,
    "seed": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Pairs of organic ions, close and distant.")
    parser.add_argument("terms", nargs="*", choices=[*TERMS, []], help="which to train")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "charged_dimers")
    parser.add_argument("--epochs", type=int, default=250)
    arguments = parser.parse_args()
    frames = list(ase.io.iread(arguments.data / "charged_dimers" / "cc_near_train.xyz"))
    arguments.runs.mkdir(parents=True, exist_ok=True)
    for part, steps in STEPS.items():
        chosen = [frame for frame in frames if frame.info["step"] in steps]
        ase.io.write(arguments.runs / f"{part}.xyz", chosen)
    store = RESULTS / "charged_dimers.json"
    content = json.loads(store.read_text()) if store.exists() else {"rows": []}
    for term in arguments.terms or TERMS:
        rows = measured(term, frames, arguments)
        content["rows"] = [row for row in content["rows"] if row["model"] != term] + rows
        store.write_text(json.dumps(content, indent=1) + "\n")
    table(content["rows"])
    plot(content["rows"])


def measured(term: str, frames: list[ase.Atoms], arguments: argparse.Namespace) -> list[dict]:
    """Train one model; its errors at each separation."""
    folder = arguments.runs.resolve()
    recipe = {
        "data": {
            "train": str(folder / "near.xyz"),
            "valid": str(folder / "between.xyz"),
            "test": {"far": str(folder / "far.xyz")},
            # Energies are counted from the ions far apart.
            "labels": {"energy": "interaction"},
            "reference_energies": dict.fromkeys("HCNO", 0.0),
        },
        "model": {**MODEL, "long_range": TERMS[term]},
        "train": {**TRAIN, "epochs": arguments.epochs},
        "output": str(folder / term),
    }
    result = equiv.train.run(recipe, console=Console(width=100), report=False)
    calculator = EquivCalculator(result.model)
    first = {frame.info["pair"]: one_ion(frame) for frame in frames if frame.info["step"] == 7}
    errors: dict[int, list] = {}
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        energy = atoms.get_potential_energy() - frame.info["interaction"]
        forces = atoms.get_forces() - frame.get_forces()
        pull = forces[first[frame.info["pair"]]].sum(0)
        errors.setdefault(int(frame.info["step"]), []).append(
            (energy, np.sum(forces**2), forces.size, np.sum(pull**2), frame.info["distance"])
        )
    rows = []
    for step, values in sorted(errors.items()):
        energies, squares, components, pulls, distances = np.array(values).T
        rows.append(
            {
                "model": term,
                "epochs": arguments.epochs,
                "step": step,
                "part": next(part for part, steps in STEPS.items() if step in steps),
                "distance": distances.mean(),
                "energy_mae_mev": 1e3 * np.abs(energies).mean(),
                "force_rmse_mev_per_angstrom": 1e3 * np.sqrt(squares.sum() / components.sum()),
                "ion_force_rmse_mev_per_angstrom": 1e3 * np.sqrt(pulls.mean() / 3),
            }
        )
    return rows


def one_ion(frame: ase.Atoms) -> np.ndarray:
    """Which atoms are bonded to the first one, directly or through others."""
    senders, receivers = neighbor_list("ij", frame, natural_cutoffs(frame, mult=1.2))  # pyright: ignore
    reached = np.arange(len(frame)) == 0
    for _ in range(len(frame)):
        reached[receivers[reached[senders]]] = True
    return reached


def summary(rows: list[dict], model: str) -> dict[str, tuple[float, float, float]]:
    """Energy MAE, and RMSE of forces on atoms and on ions, of each part."""
    result = {}
    for part in STEPS:
        chosen = [row for row in rows if row["model"] == model and row["part"] == part]
        energy = np.mean([row["energy_mae_mev"] for row in chosen])
        forces = [row["force_rmse_mev_per_angstrom"] for row in chosen]
        pulls = [row["ion_force_rmse_mev_per_angstrom"] for row in chosen]
        squares = (np.mean(np.square(errors)) for errors in (forces, pulls))
        result[part] = (float(energy), *(float(np.sqrt(square)) for square in squares))
    return result


def table(rows: list[dict]) -> None:
    print("energy MAE (meV); force RMSE (meV/Å) on atoms and on whole ions")
    print(f"{'':14}" + "".join(f"{part:>24}" for part in STEPS))
    for model in dict.fromkeys(row["model"] for row in rows):
        found = summary(rows, model)
        cells = "".join(f"{e:10.0f}{f:7.0f}{p:7.0f}" for e, f, p in found.values())
        ratio = found["far"][1] / found["near"][1]
        print(f"{model:14}{cells}   forces far / near {ratio:.2f}")


def plot(rows: list[dict]) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        x = [row["distance"] for row in own]
        for axis, key in zip(axes, SHOWN, strict=True):
            axis.plot(x, [row[key] for row in own], "o-", color=COLORS[model], label=model)
    start = min(row["distance"] for row in rows if row["part"] == "far")
    for axis, label in zip(axes, SHOWN.values(), strict=True):
        axis.axvspan(start - 0.12, start + 0.62, color="0.93", zorder=0)
        axis.set(xlabel="mean separation (Å), grey: never seen", ylabel=label)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, title="long-range term")
    figure.savefig(RESULTS / "charged_dimers.png", dpi=130)


if __name__ == "__main__":
    main()
