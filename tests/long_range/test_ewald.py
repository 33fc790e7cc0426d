import pytest
import torch

from equiv.errors import EquivError
from equiv.long_range.ewald import EwaldSum, ScreenedCoulomb

CELL = torch.tensor([[7.0, 0, 0], [2.5, 6.0, 0], [-1.7, 2.2, 8.0]], dtype=torch.float64)
PERIODIC = torch.ones(3, dtype=torch.bool)


def ions(atoms=12, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(atoms, 3, generator=g, dtype=torch.float64) @ CELL
    return x, torch.randn(atoms, generator=g, dtype=torch.float64)


def test_tighter_tolerances_agree():
    x, q = ions()
    tight = EwaldSum(1e-12).evaluate(x, q, CELL, PERIODIC)
    for tolerance in (1e-4, 1e-8):
        out = EwaldSum(tolerance).evaluate(x, q, CELL, PERIODIC)
        assert (out.forces - tight.forces).norm() < tolerance * tight.forces.norm()
        assert abs(out.energy - tight.energy) < tolerance * abs(tight.energy)


def test_a_supercell_has_twice_the_energy():
    x, q = ions()
    double = CELL * torch.tensor([2.0, 1.0, 1.0])[:, None]
    energy = EwaldSum(1e-10)(x, q, CELL, PERIODIC)
    twice = EwaldSum(1e-10)(torch.cat([x, x + CELL[0]]), torch.cat([q, q]), double, PERIODIC)
    torch.testing.assert_close(twice, 2 * energy, rtol=1e-10, atol=1e-9)


def test_derivatives_of_the_screened_coulomb_kernel():
    kernel, s = ScreenedCoulomb(0.4), torch.linspace(0.5, 9.0, 7, dtype=torch.float64)
    for order in (0, 1, 2):
        step = 1e-4
        slope = kernel.derivative(s + step, order) - kernel.derivative(s - step, order)
        torch.testing.assert_close(
            slope / (2 * step), kernel.derivative(s, order + 1), rtol=1e-6, atol=1e-8
        )


def test_it_is_for_crystals():
    x, q = ions()
    with pytest.raises(EquivError, match="repeat in three directions; take ChebyshevTucker"):
        EwaldSum()(x, q)
