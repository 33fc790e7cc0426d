"""Self-consistent fields from predicted Hamiltonians, beside PySCF's own start (minao).

    OMP_NUM_THREADS=1 python benchmarks/scf_starts.py NAME=MODEL.safetensors=TEST.npz [...]
        [--frames 40] [--stretched 20] [--seed 0]

For every model: test molecules, and the same molecules stretched beyond the training set (one bond
to a hydrogen atom made 10 to 60 % longer). Every SCF has PySCF's default thresholds. Counted are
iterations, Fock matrices built in all (the baseline's and the guard's too), CPU time with the
prediction, converged runs, and energies that differ from those of the usual start by more than
1e-8 Eh; and the errors of what is predicted without any SCF. Adds to results/scf_starts.json,
prints the table and draws results/scf_starts.png.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from ase.data import covalent_radii
from rich.console import Console
from rich.table import Table

from equiv.data.slices import sliced
from equiv.hamiltonian import HamiltonianFrame, read_hamiltonians
from equiv.integrations.pyscf import GuessWarning, HamiltonianCalculator
from equiv.integrations.pyscf_labels import mean_field, molecule
from equiv.units import BOHR, HARTREE

RESULTS = Path(__file__).parent / "results"
SAME = 1e-8  # Eh
COLUMNS = {
    "h_mae_uEh": "H MAE (uEh)",
    "cycles_minao": "cycles minao",
    "cycles": "cycles",
    "scf_cycles_ratio": "ratio",
    "fock_ratio": "Fock matrices",
    "scf_time_ratio": "CPU time",
    "scf_wall_ratio": "wall time",
    "scf_seconds_saved": "s saved",
    "refused": "refused",
    "converged": "converged",
    "same_energy": "same energy",
    "more_cycles": "more cycles",
}


def stretched(frame: HamiltonianFrame, factor: float, generator: np.random.Generator) -> np.ndarray:
    """Positions with one hydrogen atom farther from the atom it is bound to."""
    numbers, positions = frame.numbers.numpy(), frame.positions.numpy().copy()
    hydrogen = generator.choice(np.flatnonzero(numbers == 1))
    distances = np.linalg.norm(positions - positions[hydrogen], axis=1)
    scaled = distances / (covalent_radii[numbers] + covalent_radii[1])
    scaled[hydrogen] = np.inf
    partner = int(np.argmin(scaled))
    bond = positions[hydrogen] - positions[partner]
    positions[hydrogen] = positions[partner] + factor * bond
    return positions


def count_fock(mf: Any) -> list[int]:
    """Let a mean-field object count the matrices it builds."""
    counted = [0]
    build = mf.get_jk

    def get_jk(*args: Any, **kwargs: Any) -> Any:
        counted[0] += 1
        return build(*args, **kwargs)

    mf.get_jk = get_jk
    mf._keys = set(mf._keys) | {"get_jk"}
    return counted


def run(
    calculator: HamiltonianCalculator, numbers: torch.Tensor, positions: np.ndarray
) -> dict[str, float]:
    """Both SCFs of one molecule."""
    assert calculator.theory is not None
    found: dict[str, float] = {}
    mole = molecule(numbers, positions, calculator.basis)
    mf = mean_field(mole, calculator.theory)
    mf.verbose, built = 0, count_fock(mf)
    started, clock = time.process_time(), time.perf_counter()
    mf.kernel()
    found |= {"seconds_minao": time.process_time() - started, "fock_minao": built[0]}
    found["wall_minao"] = time.perf_counter() - clock
    found |= {"cycles_minao": mf.cycles, "energy_minao": mf.e_tot, "ok_minao": mf.converged}

    mine = mean_field(mole, calculator.theory)
    mine.verbose, built = 0, count_fock(mine)
    started, clock = time.process_time(), time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        guess = calculator.initial_guess(mine)
        mine.kernel(guess)
    found |= {"seconds": time.process_time() - started, "fock": built[0]}
    found["wall"] = time.perf_counter() - clock
    found |= {"cycles": mine.cycles, "energy": mine.e_tot, "ok": mine.converged}
    found["refused"] = any(issubclass(w.category, GuessWarning) for w in said)
    found["residual"] = guess.residual / guess.usual_residual
    return found


def errors(calculator: HamiltonianCalculator, frame: HamiltonianFrame) -> dict[str, float]:
    """What is read off the prediction without an SCF, against the converged molecule."""
    assert calculator.theory is not None
    mole = molecule(frame.numbers, frame.positions.numpy(), calculator.basis)
    mf = mean_field(mole, calculator.theory)
    mf.verbose = 0
    mf.kernel()
    predicted = calculator.properties(mole)
    occupied = predicted.occupied
    gap = mf.mo_energy[occupied] - mf.mo_energy[occupied - 1]
    eps = (predicted.orbital_energies - mf.mo_energy)[:occupied]
    gradient = mf.nuc_grad_method()
    gradient.verbose = 0
    force = predicted.forces + gradient.kernel()
    return {
        "h_mae_uEh": 1e6 * np.abs(predicted.hamiltonian - frame.hamiltonian.numpy()).mean(),
        "eps_mae_uEh": 1e6 * np.abs(eps).mean(),
        "gap_mae_meV": 1e3 * HARTREE * abs(predicted.gap - gap),
        "energy_mae_meV": 1e3 * HARTREE * abs(predicted.energy - mf.e_tot),
        "dipole_mae_au": np.abs(predicted.dipole - mf.dip_moment(unit="AU", verbose=0)).mean(),
        "force_mae_meV_per_A": 1e3 * HARTREE / BOHR * np.abs(force).mean(),
    }


def measure(name: str, model: str, data: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one model: test molecules, stretched molecules."""
    calculator = HamiltonianCalculator(model)
    file, part = sliced(data)
    frames = read_hamiltonians(file, basis=calculator.basis)[part].frames
    generator = np.random.default_rng(args.seed)
    chosen = frames[: args.frames]
    sets = {
        "test": [(frame.numbers, frame.positions.numpy()) for frame in chosen],
        "stretched": [
            (frame.numbers, stretched(frame, factor, generator))
            for frame, factor in zip(
                frames[-args.stretched :], np.linspace(1.1, 1.6, args.stretched), strict=False
            )
        ],
    }
    rows = []
    for kind, molecules in sets.items():
        runs = [run(calculator, numbers, positions) for numbers, positions in molecules]
        if not runs:
            continue
        of = {key: np.array([float(r[key]) for r in runs]) for key in runs[0]}
        both = (of["ok"] > 0) & (of["ok_minao"] > 0)
        row = {
            "model": name,
            "set": kind,
            "molecules": len(runs),
            "cycles_minao": of["cycles_minao"].mean(),
            "cycles": of["cycles"].mean(),
            "scf_cycles_ratio": of["cycles"].sum() / of["cycles_minao"].sum(),
            "fock_ratio": of["fock"].sum() / of["fock_minao"].sum(),
            "scf_time_ratio": of["seconds"].sum() / of["seconds_minao"].sum(),
            "scf_wall_ratio": of["wall"].sum() / of["wall_minao"].sum(),
            "scf_seconds_saved": (of["wall_minao"] - of["wall"]).mean(),
            "refused": int(of["refused"].sum()),
            "converged": int(of["ok"].sum()),
            "converged_minao": int(of["ok_minao"].sum()),
            "same_energy": int((np.abs(of["energy"] - of["energy_minao"])[both] < SAME).sum()),
            "largest_energy_difference_Eh": np.abs(of["energy"] - of["energy_minao"])[both].max(),
            "more_cycles": int((of["cycles"] > of["cycles_minao"]).sum()),
            "each": [[int(r["cycles_minao"]), int(r["cycles"]), r["residual"]] for r in runs],
        }
        if kind == "test":
            few = [errors(calculator, frame) for frame in chosen[: args.properties]]
            row |= {key: float(np.mean([e[key] for e in few])) for key in few[0]}
        rows.append({key: v.item() if hasattr(v, "item") else v for key, v in row.items()})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table("model", "set", *COLUMNS.values())
    for row in rows:
        cells = []
        for key in COLUMNS:
            value = row.get(key)
            text = "" if value is None else f"{value:.3g}" if isinstance(value, float) else value
            counted = key in ("refused", "converged", "same_energy", "more_cycles")
            cells.append(f"{text}/{row['molecules']}" if counted else str(text))
        table.add_row(row["model"], row["set"], *cells)
    Console(width=160).print(table)


def draw(rows: list[dict[str, Any]]) -> None:
    """Iterations from both starts, molecule by molecule."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = plt.subplots(
        1, len(models), figsize=(4.2 * len(models), 3.6), layout="constrained", squeeze=False
    )
    colors = {"test": "#1f6f8b", "stretched": "#d95f02"}
    for axis, model in zip(axes[0], models, strict=True):
        mine = [row for row in rows if row["model"] == model]
        top = max(max(e[:2]) for row in mine for e in row["each"]) + 1
        generator = np.random.default_rng(0)
        for row in mine:
            cycles = np.array([e[:2] for e in row["each"]], dtype=float)
            x, y = (cycles + generator.uniform(-0.22, 0.22, cycles.shape)).T
            label = f"{row['set']}: {row['scf_cycles_ratio']:.2f} of the iterations"
            axis.plot(x, y, "o", ms=4, alpha=0.6, color=colors[row["set"]], label=label)
        axis.plot([0, top], [0, top], color="0.6", lw=1)
        axis.set(xlim=(0, top), ylim=(0, top), title=model)
        axis.set(xlabel="iterations from minao", ylabel="from the prediction")
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "scf_starts.png", dpi=130)


def main() -> None:
    """Measure, store, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL=DATA")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--stretched", type=int, default=20)
    parser.add_argument("--properties", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    store = RESULTS / "scf_starts.json"
    rows = json.loads(store.read_text())["rows"] if store.exists() else []
    for text in args.models:
        name, model, data = text.split("=")
        rows = [row for row in rows if row["model"] != name] + measure(name, model, data, args)
        store.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    show(rows)
    draw(rows)


if __name__ == "__main__":
    main()
