"""Ionic crystals with and without charges beyond the cutoff: errors, and long waves.

    OMP_NUM_THREADS=1 python benchmarks/ionic_crystals.py [local learned fixed]
        [--data ../shared/data] [--runs runs/ionic_crystals] [--epochs 40]

Trains models/ionic_crystals/recipe.yaml as it is and with ``model.long_range=null`` (five minutes
each on one core; a finished run is not repeated) on cells of 64 atoms, and measures

- the errors on the test set of NaCl, and on each crystal of the structures held out,
- the frequencies of optical phonons along [100], at wavelengths from one to ten cells. Where the
  wave is long, a longitudinal one carries an electric field through the whole crystal, and

      omega_LO^2 - omega_TO^2 = 4 pi k_e Z^2 / (eps_inf Omega mu)        (q to 0)

  with the Born charge Z and the dielectric constant eps_inf, which are known from perturbation
  theory (phonopy). No local model can have this splitting; one with learned charges has it only if
  its cells were large enough to ask for it; one with fixed charges is given it.

Adds to results/ionic_crystals.json, prints tables, draws results/ionic_crystals.png.
"""

import argparse
import json
from pathlib import Path

import ase
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from rich.console import Console

import equiv.train
from equiv import EquivCalculator
from equiv.data import read_frames, split_frames
from equiv.data.options import LabelChoice
from equiv.units import COULOMB

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Fixed charges are Z / eps_inf^(1/2), those that give the splitting.
FIXED = {"Na": 0.68, "K": 0.73, "Mg": 1.10, "Cl": -0.71, "O": -1.10}
TERMS = {
    "local": "null",
    "learned": "{charges: learned}",
    "fixed": json.dumps({"charges": "fixed", "fixed_charges": FIXED}),
}
COLORS = {"local": "#d95f02", "learned": "#1f6f8b", "fixed": "#1b9e77"}
CRYSTALS = {"NaCl": ("Na", "Cl"), "KCl": ("K", "Cl"), "MgO": ("Mg", "O")}
LENGTHS = (2, 3, 4, 6, 8, 10)  # cells in one wave
STEP = 0.01  # Angstrom
TERAHERTZ = 15.633302  # of one (eV / Angstrom^2 / u)^(1/2), as a frequency and not an angular one


def main() -> None:
    parser = argparse.ArgumentParser(description="Ionic crystals and their long waves.")
    parser.add_argument("terms", nargs="*", choices=[*TERMS, []], help="which to train")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ionic_crystals")
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    folder = arguments.data / "ionic_crystals"
    store = RESULTS / "ionic_crystals.json"
    content = json.loads(store.read_text()) if store.exists() else {"rows": [], "phonons": []}
    for term in arguments.terms or TERMS:
        model = trained(term, folder, arguments)
        for key, rows in (
            ("rows", errors(term, model, folder)),
            ("phonons", phonons(term, model, folder)),
        ):
            content[key] = [row for row in content[key] if row["model"] != term] + rows
        store.write_text(json.dumps(content, indent=1) + "\n")
    table(content)
    plot(content)


def files(folder: Path, part: str) -> list[Path]:
    return [path for name in CRYSTALS if (path := folder / f"{name}_{part}.xyz").exists()]


def trained(term: str, folder: Path, arguments: argparse.Namespace) -> Path:
    """The file of one model."""
    recipe = equiv.train.load_recipe(
        ROOT / "models" / "ionic_crystals" / "recipe.yaml",
        [
            f"model.long_range={TERMS[term]}",
            f"data.train={json.dumps([str(path) for path in files(folder, 'train')])}",
            f"data.test={json.dumps({'NaCl': str(folder / 'NaCl_test.xyz')})}",
            f"train.epochs={arguments.epochs}",
            "train.compile=off",
        ],
        output=arguments.runs / term,
    )
    return equiv.train.run(recipe, console=Console(width=110), report=False).model


def errors(term: str, model: Path, folder: Path) -> list[dict]:
    """Of every crystal in the structures held out, and in the test sets."""
    data = read_frames(files(folder, "train"), labels=LabelChoice(allow_missing=["stress"]))
    held_out = split_frames(data, 0.1, seed=1)[1]
    tests = read_frames(files(folder, "test"), labels=LabelChoice(allow_missing=["stress"]))
    calculator = EquivCalculator(model)
    rows = []
    for part, frames in (("held out", held_out), ("test", tests)):
        for name in CRYSTALS:
            energies, forces = [], []
            for frame in frames:
                if set(frame.atoms.symbols) == set(CRYSTALS[name]):
                    atoms = frame.atoms.copy()
                    atoms.calc = calculator
                    energies.append((atoms.get_potential_energy() - frame.energy) / len(atoms))
                    forces.append(atoms.get_forces() - frame.forces)
            if energies:
                rows.append(
                    {
                        "model": term,
                        "part": part,
                        "crystal": name,
                        "structures": len(energies),
                        "energy_rmse_mev_per_atom": 1e3 * np.sqrt(np.mean(np.square(energies))),
                        "force_rmse_mev_per_angstrom": 1e3 * np.sqrt(np.mean(np.square(forces))),
                    }
                )
    return rows


def phonons(term: str, model: Path, folder: Path) -> list[dict]:
    """Optical frequencies at wavelengths of some cells, and the splitting of infinite ones."""
    known = json.loads((folder / "nac_born_epsilon.json").read_text())
    calculator = EquivCalculator(model)
    rows = []
    for name, (cation, anion) in CRYSTALS.items():
        lattice = np.array(known[name]["lattice"])
        edge = 2 * float(np.abs(lattice).max())
        born, dielectric = known[name]["born"][0][0][0], known[name]["epsilon_inf"][0][0]
        masses = ase.Atoms(cation + anion).get_masses()
        strength = 4 * np.pi * COULOMB * born**2 / dielectric
        splitting = strength / (abs(np.linalg.det(lattice)) * masses.prod() / masses.sum())
        for cells in LENGTHS:
            crystal = bulk(name, "rocksalt", a=edge, cubic=True).repeat((cells, 1, 1))
            crystal.calc = calculator
            longitudinal, transverse = (optical(crystal, edge, axis) for axis in (0, 1))
            rows.append(
                {
                    "model": term,
                    "crystal": name,
                    "cells": cells,
                    "longitudinal_thz": frequency(longitudinal),
                    "transverse_thz": frequency(transverse),
                    "longitudinal_of_long_waves_thz": frequency(transverse + splitting),
                }
            )
    return rows


def optical(crystal: ase.Atoms, edge: float, axis: int) -> float:
    """The largest squared frequency of a wave along x through the whole cell, eV/Angstrom^2/u."""
    kinds = [crystal.numbers == z for z in dict.fromkeys(crystal.numbers)]
    still = crystal.positions.copy()
    wave = np.cos(2 * np.pi * still[:, 0] / (len(crystal) / 8 * edge))
    masses = [crystal.get_masses()[kind][0] for kind in kinds]
    matrix = np.zeros((2, 2))
    for moved, kind in enumerate(kinds):
        force = 0.0
        for sign in (1, -1):
            crystal.positions = still
            crystal.positions[kind, axis] += sign * STEP * wave[kind]
            force = force + sign * crystal.get_forces()[:, axis] / (2 * STEP)
        for felt, other in enumerate(kinds):
            constant = -np.sum(force[other] * wave[other]) / np.sum(wave[other] ** 2)
            matrix[felt, moved] = constant / np.sqrt(masses[felt] * masses[moved])
    crystal.positions = still
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])


def frequency(square: float) -> float:
    """THz; negative if unstable."""
    return float(TERAHERTZ * np.sign(square) * np.sqrt(abs(square)))


def table(content: dict) -> None:
    models = list(dict.fromkeys(row["model"] for row in content["rows"]))
    print("RMSE of energies (meV/atom) and forces (meV/Å)")
    print(f"{'':18}" + "".join(f"{model:>18}" for model in models))
    for part, name in dict.fromkeys((row["part"], row["crystal"]) for row in content["rows"]):
        cells = [
            f"{row['energy_rmse_mev_per_atom']:10.3f}{row['force_rmse_mev_per_angstrom']:8.2f}"
            for model in models
            for row in content["rows"]
            if (row["part"], row["crystal"], row["model"]) == (part, name, model)
        ]
        print(f"{name + ', ' + part:18}" + "".join(cells))
    print("longitudinal optical frequency (THz) of a wave of n cells; * reference for long waves")
    for row in content["phonons"]:
        if row["cells"] == LENGTHS[0]:
            same = [
                r for r in content["phonons"] if all(r[k] == row[k] for k in ("model", "crystal"))
            ]
            waves = "".join(f"{r['longitudinal_thz']:8.2f}" for r in same)
            print(f"{row['crystal']:6}{row['model']:10}{waves}   *{limit(same):6.2f}")
    print("n" + " " * 15 + "".join(f"{cells:8}" for cells in LENGTHS))


def limit(rows: list[dict]) -> float:
    """The longitudinal frequency of infinite waves, from the longest transverse one."""
    return max(rows, key=lambda row: row["cells"])["longitudinal_of_long_waves_thz"]


def plot(content: dict) -> None:
    figure, axes = plt.subplots(1, len(CRYSTALS), figsize=(11, 3.4), layout="constrained")
    for axis, name in zip(axes, CRYSTALS, strict=True):
        for model in dict.fromkeys(row["model"] for row in content["phonons"]):
            rows = [
                row for row in content["phonons"] if (row["model"], row["crystal"]) == (model, name)
            ]
            q = [1 / row["cells"] for row in rows]
            color = COLORS[model]
            high = [row["longitudinal_thz"] for row in rows]
            low = [row["transverse_thz"] for row in rows]
            axis.plot(q, high, "o-", color=color, label=f"{model}, longitudinal")
            axis.plot(q, low, "s--", color=color, mfc="w", label=f"{model}, transverse")
            axis.plot(0, limit(rows), "*", color=color, ms=13, clip_on=False, zorder=3)
        axis.set(title=name, xlabel="q (2π/a along [100])", xlim=(0, None), ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("optical phonons (THz)")
    axes[-1].plot([], [], "k*", ms=11, label="transverse + splitting\nof long waves, DFT")
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside right center", fontsize=9)
    figure.savefig(RESULTS / "ionic_crystals.png", dpi=130)


if __name__ == "__main__":
    main()
