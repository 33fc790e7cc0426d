"""Madelung constants of ionic crystals.

The constants of NaCl, CsCl and zinc blende to many digits: Crandall and Buhler, J. Phys. A 20, 5497
(1987); Sakamoto, J. Chem. Phys. 28, 164 (1958). Fluorite (per formula unit and shortest distance,
charges 2 and -1): Johnson and Templeton, J. Chem. Phys. 34, 2004 (1961), who also give wurtzite at
the ideal axial ratio and cuprite. torch-pme tests against the same crystals (its tests/helpers.py,
which gives them per lattice constant and cites doi:10.1021/ic2023852). The three Wigner crystals,
point charges in a uniform background, in units of the radius of the sphere that holds one:
Coldwell-Horsfall and Maradudin, J. Math. Phys. 1, 395 (1960), equation A21 (seven digits; the last
of the face-centred one is not right).
All belong to infinite crystals without a surface dipole.
"""

import numpy as np
import pytest
import torch

from equiv.long_range import ChebyshevTucker, EwaldSum
from equiv.units import COULOMB

FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
WURTZITE = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, (8 / 3) ** 0.5]])
BCC = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.5]])
U = 3 / 8
RADIUS = (3 / (4 * np.pi)) ** (1 / 3)

# lattice vectors, fractional positions, charges, shortest distance, formula units, constant, digits
CRYSTALS = {
    "NaCl": (FCC, [[0, 0, 0], [0.5] * 3], [1, -1], 0.5, 1, 1.7475645946331822, 1e-10),
    "CsCl": (np.eye(3), [[0, 0, 0], [0.5] * 3], [1, -1], 0.75**0.5, 1, 1.7626747730709884, 1e-10),
    "zinc blende": (
        FCC,
        [[0, 0, 0], [0.25] * 3],
        [1, -1],
        3**0.5 / 4,
        1,
        1.6380550533888790,
        1e-10,
    ),
    "wurtzite": (
        WURTZITE,
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, U], [2 / 3, 1 / 3, 0.5 + U]],
        [1, 1, -1, -1],
        U * (8 / 3) ** 0.5,
        2,
        1.64132162737,
        1e-9,
    ),
    "fluorite": (
        FCC,
        [[0, 0, 0], [0.25] * 3, [0.75] * 3],
        [2, -1, -1],
        3**0.5 / 4,
        1,
        5.03878488,
        1e-8,
    ),
    "cuprite": (
        np.eye(3),
        [
            [0.25, 0.25, 0.25],
            [0.75, 0.75, 0.25],
            [0.75, 0.25, 0.75],
            [0.25, 0.75, 0.75],
            [0, 0, 0],
            [0.5, 0.5, 0.5],
        ],
        [1, 1, 1, 1, -2, -2],
        3**0.5 / 4,
        2,
        4.44247526,
        1e-8,
    ),
    # Half of the constant for each ion: the background is not an ion.
    "Wigner, simple cubic": (np.eye(3), [[0, 0, 0]], [1], RADIUS, 0.5, 1.7601188, 5e-8),
    "Wigner, body-centred": (BCC, [[0, 0, 0]], [1], RADIUS / 2 ** (1 / 3), 0.5, 1.791860, 5e-7),
    "Wigner, face-centred": (FCC, [[0, 0, 0]], [1], RADIUS / 4 ** (1 / 3), 0.5, 1.791753, 2e-6),
}


def crystal(name, repeat=1, scale=3.0):
    cell, fractions, charges, distance, units, constant, digits = CRYSTALS[name]
    shifts = np.array(list(np.ndindex(repeat, repeat, repeat)))
    x = ((np.array(fractions)[None] + shifts[:, None]).reshape(-1, 3) @ cell) * scale
    q = np.tile(np.array(charges, dtype=float), len(shifts))
    reference = -COULOMB * constant / (distance * scale) * units * len(shifts)
    # Not at the corners of any box.
    x = torch.from_numpy(x) + torch.tensor([0.123, 0.456, 0.789])
    return x, torch.from_numpy(q), torch.from_numpy(cell * repeat * scale), reference, digits


@pytest.mark.parametrize("name", CRYSTALS)
def test_the_sum_of_ewald(name):
    x, q, cell, reference, digits = crystal(name)
    energy = EwaldSum(1e-12)(x, q, cell, torch.ones(1, 3, dtype=torch.bool)).item()
    assert energy == pytest.approx(reference, rel=2 * digits)


@pytest.mark.parametrize("repeat", [1, 6], ids=["waves", "boxes"])
@pytest.mark.parametrize("name", CRYSTALS)
def test_chebyshev_tucker_to_six_digits(name, repeat):
    x, q, cell, reference, digits = crystal(name, repeat)
    out = ChebyshevTucker(1e-7).evaluate(x, q, cell, torch.ones(1, 3, dtype=torch.bool))
    assert out.energy.item() == pytest.approx(reference, rel=max(1e-6, 2 * digits))
    # Every ion of these crystals is at rest.
    if name != "wurtzite":
        assert out.forces.norm(dim=1).max() < 1e-5
    # The energy goes as 1 / length: the trace of the stress times the volume is minus it.
    trace = torch.einsum("gaa->g", out.stress) * torch.linalg.det(cell).abs()
    assert trace.item() == pytest.approx(-reference, rel=1e-5)


def test_a_sheet_of_rock_salt():
    """The Madelung constant of one infinite (100) layer, from the sum in the plane.

    -1.61554262671282: Borwein, Glasser, McPhedran, Wan and Zucker, "Lattice Sums Then and Now",
    Cambridge 2013.
    """
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=torch.float64) * 2.8
    q = torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)
    cell = torch.diag(torch.tensor([5.6, 5.6, 0.0], dtype=torch.float64))
    energy = ChebyshevTucker(1e-7)(x, q, cell, torch.tensor([[True, True, False]])).item()
    assert energy == pytest.approx(-2 * 1.61554262671282 * COULOMB / 2.8, rel=1e-6)


def test_a_chain_of_ions():
    """The Madelung constant of an alternating chain is 2 ln 2."""
    x = torch.tensor([[0.0, 0, 0], [0, 0, 2.5]], dtype=torch.float64)
    q = torch.tensor([1.0, -1.0], dtype=torch.float64)
    cell = torch.diag(torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64))
    energy = ChebyshevTucker(1e-7)(x, q, cell, torch.tensor([[False, False, True]])).item()
    assert energy == pytest.approx(-2 * np.log(2) * COULOMB / 2.5, rel=1e-6)
