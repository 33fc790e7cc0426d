import math

import pytest
import torch

from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.radial import RADIAL_BASES, BesselBasis


def test_bessel_value_by_hand():
    basis = BesselBasis(2, 4.0, PolynomialCutoff(5)).double()
    u = 0.25
    envelope = 1 - 21 * u**5 + 35 * u**6 - 15 * u**7
    expected = math.sqrt(0.5) * math.sin(2 * math.pi * u) / 1.0 * envelope
    assert basis(torch.tensor([1.0], dtype=torch.float64))[0, 1].item() == pytest.approx(expected)


def test_chebyshev_functions_are_cosines():
    basis = RADIAL_BASES["chebyshev"](3, 2.0, PolynomialCutoff(6)).double()
    r = torch.linspace(0.1, 1.9, 7, dtype=torch.float64)
    angle = torch.arccos(r - 1)
    expected = torch.stack([torch.cos(n * angle) for n in (1, 2, 3)], -1)
    torch.testing.assert_close(basis(r), expected * PolynomialCutoff(6)(r / 2)[:, None])


@pytest.mark.parametrize("name", RADIAL_BASES)
def test_basis_is_exactly_zero_at_and_beyond_the_cutoff(name):
    basis = RADIAL_BASES[name](4, 3.0, PolynomialCutoff(5))
    assert basis(torch.tensor([3.0, 3.5, 6.0])).abs().max() == 0


@pytest.mark.parametrize("power", [3, 5, 6])
def test_envelope_ends_with_vanishing_slope_and_curvature(power):
    u = torch.tensor(1 - 1e-7, dtype=torch.float64, requires_grad=True)
    value = PolynomialCutoff(power)(u)
    (slope,) = torch.autograd.grad(value, u, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, u)
    assert abs(value) < 1e-12
    assert abs(slope) < 1e-10
    assert abs(curvature) < 1e-3


def test_cutoff_power_that_breaks_forces_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        PolynomialCutoff(1)
