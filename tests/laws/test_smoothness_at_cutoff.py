"""Nothing jumps when a pair comes into reach."""

import math

import pytest
import torch

from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.radial import BesselBasis, ChebyshevBasis
from equiv.testing import check_model

CUTOFF = 3.0
RADIAL = {
    f"{kind.__name__}, power {power}": kind(6, CUTOFF, PolynomialCutoff(power)).double()
    for kind in (BesselBasis, ChebyshevBasis)
    for power in (2, 5, 6)
}


@pytest.mark.parametrize("basis", RADIAL.values(), ids=RADIAL)
def test_radial_functions_vanish_with_two_derivatives_at_the_cutoff(basis):
    r = torch.tensor([CUTOFF * (1 - 1e-7)], dtype=torch.float64, requires_grad=True)
    value = basis(r)
    jacobian = torch.stack(
        [torch.autograd.grad(v, r, create_graph=True)[0].squeeze() for v in value.flatten()]
    )
    second = torch.stack([torch.autograd.grad(d, r, retain_graph=True)[0] for d in jacobian])
    assert value.abs().max() < 1e-13
    assert jacobian.abs().max() < 1e-9
    assert second.abs().max() < 1e-3  # falls as the distance to the cutoff; its slope is some 1e3


@pytest.mark.parametrize("basis", RADIAL.values(), ids=RADIAL)
def test_radial_functions_and_their_slopes_are_exactly_zero_from_the_cutoff_on(basis):
    r = torch.tensor(
        [CUTOFF, CUTOFF + 1e-9, 2 * CUTOFF, 50.0], dtype=torch.float64, requires_grad=True
    )
    value = basis(r)
    assert torch.equal(value, torch.zeros_like(value))
    (slope,) = torch.autograd.grad(value.sum(), r)
    assert torch.equal(slope, torch.zeros_like(slope))


@pytest.mark.parametrize("power", [2, 3, 5, 6, 10])
def test_the_envelope_is_one_at_the_origin_and_falls_monotonically(power):
    envelope = PolynomialCutoff(power)
    u = torch.linspace(0, 1, 201, dtype=torch.float64)
    f = envelope(u)
    assert math.isclose(f[0].item(), 1.0)
    assert (f.diff() <= 1e-15).all()


def test_energy_and_forces_do_not_jump(model):
    check_model(model, laws=["smoothness_at_cutoff"])
