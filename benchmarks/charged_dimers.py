"""Pairs of organic ions: trained when close, tested farther apart, with and without charges.

    OMP_NUM_THREADS=1 python benchmarks/charged_dimers.py [local learned equilibrated]
        [--data ../shared/data] [--runs runs/charged_dimers] [--epochs 300]

Ten pairs of a positive and a negative ion at eight separations each (DFT; Grisafi et al., Chem.
Sci. 12, 2078 (2021)). All models are equal but for ``long_range`` and see the same structures:

    near        separations 0, 1, 2, 4 and 5 of each pair, and single ions, for training
    between     separation 3, for choosing the epoch: never trained on
    far         the longest, 6 and 7 (and more where the folder of the data has them)

The single ions have no forces in the data; their energy is zero by definition, because
energies are counted from there. In `far` nothing of one ion is within the cutoff of the other: any
local model, trained or not, has no force between them, and `no force` in the table is its error.
Trains what is named (default: all three), three minutes each on
one core, and adds it to results/charged_dimers.json; prints the table and draws
results/charged_dimers.png.
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
STEPS = {"near": (0, 1, 2, 4, 5), "between": (3,), "far": tuple(range(6, 13))}
LONGEST = 7  # here the two ions of every pair are told apart
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
MODEL = {
    "cutoff": 2.5,
    "channels": 32,
    "hidden_degree": 1,
    "edge_degree": 2,
    "correlation": 2,
    "num_radial": 6,
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
    parser.add_argument("--epochs", type=int, default=300)
    arguments = parser.parse_args()
    files = sorted((arguments.data / "charged_dimers").glob("cc_*.xyz"))
    frames = [frame for file in files for frame in ase.io.iread(file)]
    arguments.runs.mkdir(parents=True, exist_ok=True)
    for part, steps in STEPS.items():
        chosen = [frame for frame in frames if frame.info["step"] in steps]
        if part == "near":
            chosen += single_ions(frames)
        ase.io.write(arguments.runs / f"{part}.xyz", chosen)
    store = RESULTS / "charged_dimers.json"
    content: dict = json.loads(store.read_text()) if store.exists() else {"rows": []}
    for term in arguments.terms or TERMS:
        rows = measured(term, trained(term, arguments), frames, arguments.epochs)
        content["rows"] = [row for row in content["rows"] if row["model"] != term] + rows
        content["summary"] = {
            model: summary(content["rows"], model)
            for model in dict.fromkeys(row["model"] for row in content["rows"])
        }
        store.write_text(json.dumps(content, indent=1) + "\n")
    content["no_force_between_ions_mev_per_angstrom"] = without_attraction(frames)
    store.write_text(json.dumps(content, indent=1) + "\n")
    table(content["rows"])
    missing = content["no_force_between_ions_mev_per_angstrom"]
    print(f"no force: {missing:.0f} meV/Å on whole ions in `far`")
    plot(content["rows"], missing)


def trained(term: str, arguments: argparse.Namespace) -> Path:
    """The file of one model."""
    folder = arguments.runs.resolve()
    recipe = {
        "data": {
            "train": str(folder / "near.xyz"),
            "valid": str(folder / "between.xyz"),
            "test": {"far": str(folder / "far.xyz")},
            # Energies are counted from the ions far apart.
            "labels": {"energy": "interaction", "allow_missing": ["forces"]},
            "reference_energies": dict.fromkeys("HCNO", 0.0),
        },
        "model": {**MODEL, "long_range": TERMS[term]},
        "train": {**TRAIN, "epochs": arguments.epochs},
        "output": str(folder / term),
    }
    return equiv.train.run(recipe, console=Console(width=100), report=False).model


def measured(term: str, model: Path, frames: list[ase.Atoms], epochs: int) -> list[dict]:
    """The errors of a model at each separation."""
    calculator = EquivCalculator(model)
    first = first_ions(frames)
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
                "epochs": epochs,
                "step": step,
                "part": next(part for part, steps in STEPS.items() if step in steps),
                "distance": distances.mean(),
                "energy_mae_mev": 1e3 * np.abs(energies).mean(),
                "force_rmse_mev_per_angstrom": 1e3 * np.sqrt(squares.sum() / components.sum()),
                "ion_force_rmse_mev_per_angstrom": 1e3 * np.sqrt(pulls.mean() / 3),
            }
        )
    return rows


def without_attraction(frames: list[ase.Atoms]) -> float:
    """Root mean square force on whole distant ions, meV/Angstrom."""
    first = first_ions(frames)
    pulls = [
        frame.get_forces()[first[frame.info["pair"]]].sum(0)
        for frame in frames
        if frame.info["step"] in STEPS["far"]
    ]
    return 1e3 * float(np.sqrt(np.mean(np.square(pulls))))


def first_ions(frames: list[ase.Atoms]) -> dict[int, np.ndarray]:
    """Which atoms of each pair belong to its first ion."""
    return {frame.info["pair"]: one_ion(frame) for frame in frames if frame.info["step"] == LONGEST}


def single_ions(frames: list[ase.Atoms]) -> list[ase.Atoms]:
    """Each kind of ion by itself, with its charge; told apart by their energies."""
    ions: dict[float, ase.Atoms] = {}
    first = first_ions(frames)
    for frame in frames:
        if frame.info["step"] == LONGEST:
            mask = first[frame.info["pair"]]
            for name, chosen in (("A", mask), ("B", ~mask)):
                ion = ase.Atoms(frame.numbers[chosen], frame.positions[chosen])
                ion.info.update(charge=int(frame.info[f"charge{name}"]), interaction=0.0)
                ions.setdefault(round(frame.info[f"energy{name}"], 4), ion)
    return list(ions.values())


def one_ion(frame: ase.Atoms) -> np.ndarray:
    """Which atoms are bonded to the first one, directly or through others."""
    senders, receivers = neighbor_list("ij", frame, natural_cutoffs(frame, mult=1.2))  # pyright: ignore
    reached = np.arange(len(frame)) == 0
    for _ in range(len(frame)):
        reached[receivers[reached[senders]]] = True
    return reached


def summary(rows: list[dict], model: str) -> dict[str, dict[str, float]]:
    """Errors of each part: means of the energy errors, root mean squares of the force errors."""
    result: dict[str, dict[str, float]] = {}
    for part in STEPS:
        chosen = [row for row in rows if row["model"] == model and row["part"] == part]
        energy, *forces = ([row[key] for row in chosen] for key in SHOWN)
        means = [np.mean(energy), *(np.sqrt(np.mean(np.square(errors))) for errors in forces)]
        result[part] = {key: float(mean) for key, mean in zip(SHOWN, means, strict=True)}
    atoms = "force_rmse_mev_per_angstrom"
    result["ratios"] = {"forces, far / near": result["far"][atoms] / result["near"][atoms]}
    return result


def table(rows: list[dict]) -> None:
    print("energy MAE (meV); force RMSE (meV/Å) on atoms and on whole ions")
    print(f"{'':14}" + "".join(f"{part:>24}" for part in STEPS))
    for model in dict.fromkeys(row["model"] for row in rows):
        found = summary(rows, model)
        ratio = found.pop("ratios")["forces, far / near"]
        values = (part.values() for part in found.values())
        cells = "".join(f"{e:10.0f}{f:7.0f}{p:7.0f}" for e, f, p in values)
        print(f"{model:14}{cells}   forces far / near {ratio:.2f}")


def plot(rows: list[dict], missing: float) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        x = [row["distance"] for row in own]
        for axis, key in zip(axes, SHOWN, strict=True):
            axis.plot(x, [row[key] for row in own], "o-", color=COLORS[model], label=model)
    far = [row["distance"] for row in rows if row["part"] == "far"]
    axes[2].plot([min(far), max(far)], [missing] * 2, "k--", label="no force")
    axes[2].legend(frameon=False)
    for axis, label in zip(axes, SHOWN.values(), strict=True):
        axis.axvspan(min(far) - 0.12, max(far) + 0.12, color="0.93", zorder=0)
        axis.set(xlabel="mean separation (Å), grey: never seen", ylabel=label)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, title="long-range term")
    figure.savefig(RESULTS / "charged_dimers.png", dpi=130)


if __name__ == "__main__":
    main()
