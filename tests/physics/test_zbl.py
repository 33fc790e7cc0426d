"""Two nuclei close to each other, as Ziegler, Biersack and Littmark (1985) tell it."""

import math

import ase
import pytest
from ase.data import atomic_numbers, covalent_radii

BOHR = 0.529177  # Angstrom
COULOMB = 14.39964  # e^2 / (4 pi eps0), eV Angstrom


def published(z1, z2, r):
    """Universal potential with the coefficients as printed in the book."""
    x = r / (0.8854 * BOHR / (z1**0.23 + z2**0.23))
    phi = (
        0.1818 * math.exp(-3.2 * x)
        + 0.5099 * math.exp(-0.9423 * x)
        + 0.2802 * math.exp(-0.4028 * x)
        + 0.02817 * math.exp(-0.2016 * x)
    )
    return COULOMB * z1 * z2 / r * phi


@pytest.mark.parametrize("symbols", ["HH", "CO", "OO", "HO"])
@pytest.mark.parametrize("r", [0.005, 0.02, 0.1])
def test_at_short_range_the_energy_is_the_published_one(build, predict, dimer, symbols, r):
    repelling, bare = build(zbl=True), build()
    atoms = dimer(r, symbols)
    zbl = (predict(repelling, atoms).energy - predict(bare, atoms).energy).item()
    z1, z2 = (atomic_numbers[s] for s in symbols)
    assert zbl == pytest.approx(published(z1, z2, r), rel=2e-3)


def test_the_limit_is_the_repulsion_of_bare_nuclei(build, predict, dimer):
    energy = predict(build(zbl=True), dimer(1e-5, "OO")).energy.item()
    assert energy * 1e-5 == pytest.approx(COULOMB * 8 * 8, rel=1e-3)


def test_it_ends_smoothly_at_the_sum_of_the_covalent_radii(build, predict, dimer):
    repelling, bare = build(zbl=True), build()
    reach = covalent_radii[6] + covalent_radii[8]

    def difference(r):
        with_zbl, without = predict(repelling, dimer(r)), predict(bare, dimer(r))
        return (
            (with_zbl.energy - without.energy).abs().item(),
            (with_zbl.forces - without.forces).abs().max().item(),
        )

    assert difference(reach) == (0.0, 0.0)
    assert difference(1.3 * reach) == (0.0, 0.0)
    (energy, force), (energy_2, force_2) = difference(reach - 0.01), difference(reach - 0.02)
    assert energy_2 / energy == pytest.approx(8, rel=0.15)
    assert force_2 / force == pytest.approx(4, rel=0.15)


def test_atoms_of_a_crystal_cannot_fall_into_each_other(build, predict):
    cell = [0.5, 0.5, 0.5]
    dense = ase.Atoms("CO", [[0, 0, 0], [0.25, 0.25, 0.25]], cell=cell, pbc=True)
    assert predict(build(zbl=True), dense).energy.item() > 1e3
