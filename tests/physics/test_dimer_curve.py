"""The energy of two atoms, from the inside of the cutoff to the outside."""

import numpy as np
import pytest


def curve(predict, model, dimer, distances):
    """Energies relative to separated atoms, and forces along the bond."""
    energies, forces = [], []
    for r in distances:
        atoms = dimer(r)
        prediction = predict(model, atoms)
        bond = (atoms.positions[1] - atoms.positions[0]) / r
        energies.append(prediction.energy.item())
        forces.append(float(prediction.forces[1].numpy() @ bond))
    apart = predict(model, dimer(3 * model.cutoff)).energy.item()
    return np.array(energies) - apart, np.array(forces)


@pytest.mark.parametrize("basis", ["bessel", "chebyshev"])
def test_the_curve_is_smooth_all_the_way(build, predict, dimer, basis):
    model = build(radial_basis=basis)
    r = np.linspace(0.7, model.cutoff + 0.3, 240)
    energy, force = curve(predict, model, dimer, r)
    assert np.abs(energy).max() > 0.1
    # The trapezoidal integral of the force gives the energy back; a jump in either would not.
    step = r[1] - r[0]
    work = np.concatenate([[0.0], np.cumsum(0.5 * (force[1:] + force[:-1]) * step)])
    assert np.abs(energy[0] - work - energy).max() < 1e-2 * np.abs(energy).max()
    assert np.abs(np.diff(force)).max() < 0.15 * np.abs(force).max()


# The envelope vanishes as the cube of the distance to the cutoff; Bessel functions add one order.
@pytest.mark.parametrize(("basis", "order"), [("chebyshev", 3), ("bessel", 4)])
@pytest.mark.parametrize("power", [2, 5, 6])
def test_energy_force_and_curvature_vanish_at_the_cutoff_in_their_order(
    build, predict, dimer, power, basis, order
):
    # Without reference energies, in whose digits the last of the interaction would drown.
    model = build(
        radial_basis=basis,
        cutoff_power=power,
        reference_energies={"H": 0.0, "C": 0.0, "O": 0.0},
    )
    d = 0.01
    energy, force = curve(predict, model, dimer, model.cutoff - np.array([d, 2 * d]))
    near, nearer = (
        curve(predict, model, dimer, model.cutoff - x + np.array([-1e-4, 1e-4]))[1]
        for x in (2 * d, d)
    )
    curvature = [(f[1] - f[0]) / 2e-4 for f in (nearer, near)]
    assert energy[1] / energy[0] == pytest.approx(2**order, rel=0.1)
    assert force[1] / force[0] == pytest.approx(2 ** (order - 1), rel=0.1)
    assert curvature[1] / curvature[0] == pytest.approx(2 ** (order - 2), rel=0.1)


def test_beyond_the_cutoff_there_is_exactly_nothing(model, predict, dimer):
    energy, force = curve(predict, model, dimer, model.cutoff + np.array([0.0, 1e-9, 0.5, 5.0]))
    assert not energy.any()
    assert not force.any()
