"""A small molten salt keeps its energy as well as with the sum of Ewald."""

import numpy as np
import pytest
import torch

from equiv.long_range import ChebyshevTucker, EwaldSum

LENGTH, IONS, STEP, STEPS = 11.6, 64, 1.0, 150  # Angstrom, number, fs
PERIODIC = torch.ones(1, 3, dtype=torch.bool)
CELL = LENGTH * torch.eye(3, dtype=torch.float64)
SITES = torch.cartesian_prod(*[torch.arange(4)] * 3)
CHARGES = torch.where(SITES.sum(1) % 2 == 0, 1.0, -1.0).double()
MASSES = torch.where(CHARGES > 0, 22.99, 35.45) * 103.6427  # eV fs^2 / Angstrom^2
FIRST, SECOND = torch.triu_indices(IONS, IONS, 1)


def repulsion(x):
    """Born-Mayer with the nearest images, smoothly switched off at 5.5 Angstrom."""
    d = x[SECOND] - x[FIRST]
    r = (d - LENGTH * torch.round(d.detach() / LENGTH)).norm(dim=1)
    s = ((r - 4.0) / 1.5).clamp(0, 1)
    return (1200 * torch.exp(-r / 0.32) * (1 - s**3 * (10 - 15 * s + 6 * s**2))).sum()


def wandering(potential):
    """Standard deviation and slope of the total energy, meV per ion and meV per ion and ps."""
    g = torch.Generator().manual_seed(3)
    x = SITES.double() * LENGTH / 4
    v = torch.randn(IONS, 3, generator=g, dtype=torch.float64)
    v = v * (8.617e-5 * 2500 / MASSES)[:, None].sqrt()
    v = v - (v * MASSES[:, None]).sum(0) / MASSES.sum()

    def forces(x):
        x = x.clone().requires_grad_()
        energy = potential(x, CHARGES, CELL, PERIODIC).sum() + repulsion(x)
        return energy.item(), -torch.autograd.grad(energy, x)[0]

    totals = []
    _, f = forces(x)
    for _ in range(STEPS):
        v = v + 0.5 * STEP * f / MASSES[:, None]
        x = x + STEP * v
        energy, f = forces(x)
        v = v + 0.5 * STEP * f / MASSES[:, None]
        totals.append(energy + 0.5 * float((MASSES[:, None] * v.square()).sum()))
    e = 1e3 * np.array(totals[20:]) / IONS
    slope = np.polyfit(1e-3 * STEP * np.arange(len(e)), e, 1)[0]
    return e.std(), abs(slope)


@pytest.mark.parametrize("waves", [True, False], ids=["waves", "boxes"])
def test_the_energy_wanders_no_more_than_with_ewald(waves, monkeypatch):
    reference, slope = wandering(EwaldSum(1e-3))
    if not waves:
        monkeypatch.setattr("equiv.long_range.chebyshev_tucker.WAVE_ATOMS", 0)
    fluctuation, drift = wandering(ChebyshevTucker(1e-3, cutoff=5.5))
    assert fluctuation < max(1.2 * reference, 0.01)
    assert drift < slope + 0.1
    assert fluctuation > 1e-5  # the integrator leaves its trace in any honest run
