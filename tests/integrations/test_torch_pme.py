import pytest
import torch

from equiv.errors import EquivError
from equiv.integrations.torch_pme import TorchPME
from equiv.long_range import EwaldSum


class HalfOfEwald(torch.nn.Module):
    """What torch-pme returns: half of the potential in units without k_e."""

    full_neighbor_list = False

    def forward(self, charges, cell, positions, neighbor_indices, neighbor_distances):
        from equiv.units import COULOMB

        assert neighbor_indices.shape == (len(neighbor_distances), 2)
        pbc = torch.ones(1, 3, dtype=torch.bool)
        potentials = EwaldSum(1e-8).potentials(positions, charges[:, 0], cell[None], pbc)
        return potentials[:, None] / (2 * COULOMB)


def system():
    g = torch.Generator().manual_seed(0)
    cell = torch.tensor([[8.0, 0, 0], [1, 9, 0], [0, 2, 8]], dtype=torch.float64)
    x = torch.rand(20, 3, generator=g, dtype=torch.float64) @ cell
    q = torch.randn(20, generator=g, dtype=torch.float64)
    return x, q - q.mean(), cell, torch.ones(1, 3, dtype=torch.bool)


def test_conventions_of_units_and_halves():
    x, q, cell, pbc = system()
    energy = TorchPME(HalfOfEwald(), cutoff=4.0)(x, q, cell, pbc)
    torch.testing.assert_close(energy, EwaldSum(1e-8)(x, q, cell, pbc))


def test_the_calculator_itself():
    torchpme = pytest.importorskip("torchpme")
    x, q, cell, pbc = system()
    calculator = torchpme.EwaldCalculator(
        torchpme.CoulombPotential(smearing=0.7), lr_wavelength=0.4
    )
    out = TorchPME(calculator.double(), cutoff=4.0).evaluate(x, q, cell, pbc)
    exact = EwaldSum(1e-10).evaluate(x, q, cell, pbc)
    assert (out.forces - exact.forces).norm() < 1e-4 * exact.forces.norm()
    torch.testing.assert_close(out.energy, exact.energy, rtol=1e-4, atol=0)


def test_finite_structures_are_sent_elsewhere():
    x, q, cell, _ = system()
    with pytest.raises(EquivError, match="some structure has fewer; take equiv"):
        TorchPME(HalfOfEwald(), cutoff=4.0)(x, q, cell)
