"""Dynamics of a molten salt: how well each long-range method keeps the energy.

512 ions, Coulomb forces and a repulsion that is switched off smoothly, half a femtosecond a step;
potentials of this package beside torch-pme's Ewald and P3M with the parameters of its own tuner,
all at a requested relative force error of 1e-3. Pairs are searched in every step and end at 6
Angstrom. The drift is the slope of the total energy after the first sixth of the run.

    pip install torch-pme==0.5.0
    OMP_NUM_THREADS=1 python benchmarks/molten_salt.py
"""

import argparse
import importlib.util
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equiv.integrations.torch_pme import TorchPME
from equiv.long_range import ChebyshevTucker, EwaldSum, LongRangePotential, Pairs, PointCharges
from equiv.units import COULOMB

RESULTS = Path(__file__).parent / "results" / "molten_salt.json"
BOLTZMANN = 8.617333e-5  # eV/K
TOLERANCE, CUTOFF = 1e-3, 6.0  # of forces, relative; Angstrom
LENGTH, TIME_STEP = 23.2, 0.5  # Angstrom, fs
SITES = torch.cartesian_prod(*[torch.arange(8)] * 3)
CHARGES = torch.where(SITES.sum(1) % 2 == 0, 1.0, -1.0).double()
MASSES = torch.where(CHARGES > 0, 22.99, 35.45)[:, None] * 103.6427  # eV fs^2 / Angstrom^2
CELL = LENGTH * torch.eye(3, dtype=torch.float64)
PERIODIC = torch.ones(1, 3, dtype=torch.bool)


def near(x: Tensor) -> Pairs:
    return Pairs.search(PointCharges.checked(x.detach(), CHARGES, CELL, PERIODIC), CUTOFF)


def normal(seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(len(SITES), 3, generator=g, dtype=torch.float64)


def beginning() -> Tensor:
    """A crystal with much disorder."""
    return (SITES.double() + 0.5) * LENGTH / 8 + 0.25 * normal(3)


def repulsion(x: Tensor, pairs: Pairs) -> Tensor:
    """Born and Mayer, switched off between 4 and 5.5 Angstrom."""
    assert pairs.shifts is not None
    r = (x[pairs.second] - x[pairs.first] + pairs.shifts.double() @ CELL).norm(dim=1)
    s = ((r - 4.0) / 1.5).clamp(0, 1)
    return (1200 * torch.exp(-r / 0.32) * (1 - s**3 * (10 - 15 * s + 6 * s**2))).sum()


def tuned(name: str) -> TorchPME:
    """A calculator of torch-pme with what its tuner chooses for the first configuration."""
    import torchpme
    import torchpme.tuning

    x, pairs = beginning(), near(beginning())
    assert pairs.shifts is not None
    steps = x[pairs.second] - x[pairs.first] + pairs.shifts.double() @ CELL
    forces = EwaldSum(1e-9).evaluate(x, CHARGES, CELL, PERIODIC).forces
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smearing, options, _ = getattr(torchpme.tuning, f"tune_{name.lower()}")(
            CHARGES[:, None],
            CELL,
            x,
            CUTOFF,
            torch.stack([pairs.first, pairs.second], 1),
            steps.norm(dim=1),
            accuracy=TOLERANCE * float(forces.square().mean().sqrt()) / COULOMB,
        )
    kernel = torchpme.CoulombPotential(smearing=smearing)
    calculator = getattr(torchpme, f"{name}Calculator")(kernel, full_neighbor_list=False, **options)
    return TorchPME(calculator.to(torch.float64), cutoff=CUTOFF)


def error(potential: LongRangePotential, x: Tensor) -> float:
    """Of the Coulomb forces, relative."""
    exact = EwaldSum(1e-9).evaluate(x, CHARGES, CELL, PERIODIC).forces
    forces = potential.evaluate(x, CHARGES, CELL, PERIODIC).forces
    return float((forces - exact).norm() / exact.norm())


def run(potential: LongRangePotential, steps: int) -> dict[str, float]:
    """Drift and deviation of the total energy, time of a step, force error in the final melt."""
    x = beginning()
    v = normal(5) * (BOLTZMANN * 2000 / MASSES).sqrt()
    v = v - (v * MASSES).sum(0) / MASSES.sum()

    def forces(x: Tensor) -> tuple[float, Tensor]:
        x, pairs = x.clone().requires_grad_(), near(x)
        total = potential(x, CHARGES, CELL, PERIODIC, pairs=pairs).sum() + repulsion(x, pairs)
        return total.item(), -torch.autograd.grad(total, x)[0]

    totals, start = [], time.process_time()
    _, f = forces(x)
    for _ in range(steps):
        v = v + 0.5 * TIME_STEP * f / MASSES
        x = x + TIME_STEP * v
        energy, f = forces(x)
        v = v + 0.5 * TIME_STEP * f / MASSES
        totals.append(energy + 0.5 * float((MASSES * v.square()).sum()))
    seconds = time.process_time() - start
    e = 1e3 * np.array(totals[steps // 6 :]) / len(x)
    picoseconds = 1e-3 * TIME_STEP * np.arange(len(e))
    return {
        "drift_mev_per_ion_and_ps": float(np.polyfit(picoseconds, e, 1)[0]),
        "deviation_mev_per_ion": float(e.std()),
        "ms_per_step": 1e3 * seconds / steps,
        "rel_force_error": error(potential, x),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2400)
    options = parser.parse_args()
    if importlib.util.find_spec("torchpme") is None:
        parser.error("torch-pme is measured too: pip install torch-pme==0.5.0")
    torch.set_num_threads(1)
    methods = {
        "equiv": ChebyshevTucker(TOLERANCE, cutoff=CUTOFF),
        "equiv, smooth": ChebyshevTucker(TOLERANCE, cutoff=CUTOFF, smooth=True),
        "torch-pme Ewald": tuned("Ewald"),
        "torch-pme P3M": tuned("P3M"),
    }
    rows = []
    for name, potential in methods.items():
        row = {"method": name, **run(potential, options.steps)}
        rows.append(row)
        print(
            f"{name:16s} force error {row['rel_force_error']:.1e}, "
            f"drift {row['drift_mev_per_ion_and_ps']:+.4f} meV/ion/ps, "
            f"deviation {row['deviation_mev_per_ion']:.4f} meV/ion, "
            f"{row['ms_per_step']:.1f} ms a step",
            flush=True,
        )
    RESULTS.write_text(json.dumps({"steps": options.steps, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
