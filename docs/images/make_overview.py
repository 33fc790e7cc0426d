"""Draw docs/images/overview.png: what the two quick recipes are worth.

equiv train models/ethanol/recipe.yaml
equiv train models/silicon/recipe.yaml
python docs/images/make_overview.py
"""

from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import bulk
from matplotlib.axes import Axes

from equiv import EquivCalculator

ROOT = Path(__file__).parents[2]
BLUE, RED, GREY = "#2f6db5", "#d1495b", "#9aa0a6"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def energies(frames: list[Atoms], calculator: EquivCalculator) -> np.ndarray:
    """Return the model's energies in eV."""
    return np.array([calculator.get_potential_energy(frame) for frame in frames])


def forces_panel(axis: Axes, calculator: EquivCalculator) -> None:
    """Predicted against reference force components of structures that were not trained on."""
    limit = 0.0
    for temperature, color in (("600K", RED), ("300K", BLUE)):
        frames = ase.io.read(ROOT / f"data/ethanol/test_{temperature}.xyz", ":")
        reference = np.concatenate([frame.get_forces().ravel() for frame in frames])
        model = np.concatenate([calculator.get_forces(frame).ravel() for frame in frames])
        errors = model - reference
        rmse = 1000 * np.sqrt((errors**2).mean())
        label = f"{temperature[:3]} K, RMSE {rmse:.0f} meV/Å"
        axis.plot(reference, model, ".", ms=3, color=color, label=label)
        limit = max(limit, 1.05 * np.abs(reference).max())
    axis.plot([-limit, limit], [-limit, limit], color="k", lw=0.6, zorder=0)
    axis.set(
        xlim=(-limit, limit),
        ylim=(-limit, limit),
        xlabel="PBE (eV/Å)",
        ylabel="potential (eV/Å)",
        title="Ethanol: forces",
    )
    axis.legend(loc="upper left", markerscale=3, fontsize=8.5, handletextpad=0.1)


def torsion_panel(axis: Axes, calculator: EquivCalculator) -> None:
    """Energy along the rotation of the OH group."""
    frames = ase.io.read(ROOT / "data/ethanol/torsion.xyz", ":")
    angles = [frame.info["dihedral"] for frame in frames]
    reference = np.array([frame.get_potential_energy() for frame in frames])
    model = energies(frames, calculator)
    axis.plot(angles, 1000 * (reference - reference.min()), "o", color=GREY, ms=6, label="PBE")
    axis.plot(angles, 1000 * (model - reference.min()), color=BLUE, label="potential")
    axis.set(
        xlabel="C-C-O-H angle (°)",
        ylabel="energy (meV)",
        xticks=range(0, 181, 60),
        title="Ethanol: turning the OH group",
    )
    axis.legend(fontsize=8.5)


def equation_of_state_panel(axis: Axes, calculator: EquivCalculator) -> None:
    """Energy of silicon against volume."""
    frames = ase.io.read(ROOT / "data/silicon/test.xyz", ":")
    series = [frame for frame in frames if frame.info["config_type"] == "volume"]
    volumes = np.array([frame.get_volume() / 8 for frame in series])
    reference = np.array([frame.get_potential_energy() / 8 for frame in series])
    constants = np.linspace(*(8 * volumes[[0, -1]]) ** (1 / 3), 41)
    crystals = [bulk("Si", "diamond", constant, cubic=True) for constant in constants]
    model = energies(crystals, calculator) / 8
    lowest = model.min()
    axis.plot(volumes, 1000 * (reference - lowest), "o", color=GREY, ms=6, label="LDA")
    axis.plot(constants**3 / 8, 1000 * (model - lowest), color=BLUE, label="potential")
    axis.set(
        xlabel="volume (Å³/atom)", ylabel="energy (meV/atom)", title="Silicon: equation of state"
    )
    axis.legend(fontsize=8.5, loc="upper center")


def main() -> None:
    """Write the picture."""
    ethanol = EquivCalculator(ROOT / "runs/ethanol/model.safetensors")
    silicon = EquivCalculator(ROOT / "runs/silicon/model.safetensors")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
        forces_panel(axes[0], ethanol)
        torsion_panel(axes[1], ethanol)
        equation_of_state_panel(axes[2], silicon)
        figure.savefig(Path(__file__).with_name("overview.png"), dpi=110)


if __name__ == "__main__":
    main()
