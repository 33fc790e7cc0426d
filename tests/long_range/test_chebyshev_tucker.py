import pytest
import torch

from equiv.long_range.chebyshev_tucker import ChebyshevTucker
from equiv.long_range.direct_sum import DirectSum
from equiv.long_range.ewald import EwaldSum

PERIODIC = torch.ones(1, 3, dtype=torch.bool)
OBLIQUE = torch.tensor([[13.0, 0, 0], [3.5, 12.0, 0], [-2.7, 2.2, 14.0]], dtype=torch.float64)


def melt(atoms, size, seed=0, jitter=0.25):
    """Charges on a jittered lattice that fills a box (Angstrom), in random order; neutral."""
    g = torch.Generator().manual_seed(seed)
    size = torch.as_tensor(size, dtype=torch.float64)
    spacing = (size.prod() / atoms) ** (1 / 3)
    steps = (size / spacing).ceil().long()
    sites = torch.cartesian_prod(*(torch.arange(int(n)) for n in steps)).double()
    sites = sites[torch.randperm(len(sites), generator=g)[:atoms]]
    shake = torch.rand(atoms, 3, generator=g, dtype=torch.float64) - 0.5
    x = (sites + 0.5 + 2 * jitter * shake) * size / steps
    q = torch.ones(atoms, dtype=torch.float64)
    q[atoms // 2 :] = -1
    q = q[torch.randperm(atoms, generator=g)]
    return x, q - q.mean()


def error(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_finite_systems_agree_with_the_direct_sum(tolerance):
    x, q = melt(2500, (29.0, 29.0, 29.0))
    exact = DirectSum().evaluate(x, q)
    out = ChebyshevTucker(tolerance).evaluate(x, q)
    assert error(out.forces, exact.forces) < tolerance
    assert error(out.fields, exact.fields) < tolerance
    assert error(out.potentials, exact.potentials) < tolerance
    assert 1e-4 * tolerance < error(out.forces, exact.forces)  # it was not the direct sum


def _test_nine_digits():
    x, q = melt(60, (8.5, 8.5, 8.5))
    cell = 8.5 * torch.eye(3, dtype=torch.float64)
    exact = EwaldSum(1e-12).evaluate(x, q, cell, PERIODIC)
    assert error(ChebyshevTucker(1e-9).evaluate(x, q, cell, PERIODIC).forces, exact.forces) < 1e-9
    exact = DirectSum().evaluate(x, q)
    assert error(ChebyshevTucker(1e-9).evaluate(x, q).forces, exact.forces) < 1e-9


@pytest.mark.parametrize("size", [(140.0, 9.0, 9.0), (46.0, 46.0, 5.0)], ids=["rod", "sheet"])
def test_rods_and_sheets_agree_with_the_direct_sum(size):
    x, q = melt(1100, size)
    exact = DirectSum().evaluate(x, q)
    assert error(ChebyshevTucker(1e-5).evaluate(x, q).forces, exact.forces) < 1e-5


def test_far_islands_and_lonely_charges():
    x, q = melt(400, (14.0, 14.0, 14.0))
    x[200:] += torch.tensor([300.0, -150.0, 40.0])
    x[-1] = torch.tensor([-500.0, 0.0, 900.0])
    q[0] += 1  # charged as well
    exact = DirectSum().evaluate(x, q)
    out = ChebyshevTucker(1e-5).evaluate(x, q)
    assert error(out.forces, exact.forces) < 1e-5


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("atoms", [100, 500], ids=["waves", "boxes"])
def test_oblique_crystals_agree_with_ewald(tolerance, atoms):
    x, q = melt(atoms, (1.0, 1.0, 1.0))
    x = x @ OBLIQUE
    exact = EwaldSum(1e-10).evaluate(x, q, OBLIQUE, PERIODIC)
    out = ChebyshevTucker(tolerance).evaluate(x, q, OBLIQUE, PERIODIC)
    assert error(out.forces, exact.forces) < tolerance
    assert error(out.potentials, exact.potentials) < tolerance
    # The stress is a small difference; its scale is the density of the energy.
    scale = exact.energy.abs() / torch.linalg.det(OBLIQUE)
    assert (out.stress - exact.stress).abs().max() < 10 * tolerance * scale


def test_a_net_charge_has_a_background():
    x, q = melt(100, (1.0, 1.0, 1.0))
    x, q = x @ OBLIQUE, q + 0.3
    exact = EwaldSum(1e-10)(x, q, OBLIQUE, PERIODIC)
    for potential in (ChebyshevTucker(1e-6), ChebyshevTucker(1e-6, cutoff=4.5)):
        torch.testing.assert_close(potential(x, q, OBLIQUE, PERIODIC), exact, rtol=1e-6, atol=0)
