import pytest
import torch

from equiv.errors import DataError, EquivError
from equiv.long_range.direct_sum import DirectSum
from equiv.long_range.pairs import Pairs
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.potential import LongRangePotential
from equiv.units import COULOMB


def cloud(atoms, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = 8 * torch.rand(atoms, 3, generator=g, dtype=torch.float64)
    return x.to(dtype), torch.randn(atoms, generator=g, dtype=torch.float64).to(dtype)


def test_two_charges_by_hand():
    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]], dtype=torch.float64)
    q = torch.tensor([2.0, -1.0], dtype=torch.float64)
    out = DirectSum().evaluate(x, q)
    assert out.energy.item() == pytest.approx(-2 * COULOMB / 5)
    assert out.potentials.tolist() == pytest.approx([-COULOMB / 5, 2 * COULOMB / 5])
    assert out.forces[0].tolist() == pytest.approx(
        [0, 2 * COULOMB / 25 * 0.6, 2 * COULOMB / 25 * 0.8]
    )
    assert torch.isnan(out.stress).all()


def test_dispersion_has_another_power():
    x = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    q = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert DirectSum(exponent=6, prefactor=-1.0)(x, q).item() == pytest.approx(-3 / 64)


@pytest.mark.parametrize("exponent", [1.0, 6.0])
def test_the_fused_sums_are_those_of_automatic_differentiation(exponent):
    x, q = cloud(40)
    q[7] = 0  # a field without a charge to feel it
    potential = DirectSum(exponent=exponent)
    system = PointCharges.checked(x, q)
    fused = potential.electrostatics(system, None)
    slow = LongRangePotential.electrostatics(potential, system, None)
    for name in ("energy", "potentials", "fields", "forces"):
        torch.testing.assert_close(
            getattr(fused, name), getattr(slow, name), rtol=1e-11, atol=1e-10
        )
    assert fused.fields[7].norm() > 1e-3
    torch.testing.assert_close(potential.potentials(x, q), fused.potentials)


def test_blocks_of_rows_cover_every_pair(monkeypatch):
    x, q = cloud(60)
    whole = DirectSum().evaluate(x, q)
    monkeypatch.setattr("equiv.long_range.direct_sum.BLOCK", 100)
    torch.testing.assert_close(DirectSum().evaluate(x, q).forces, whole.forces)


def test_a_batch_equals_its_structures():
    parts = [cloud(n, seed=n) for n in (5, 1, 12)]
    x, q = (torch.cat(column) for column in zip(*parts, strict=True))
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 1, 12]))
    together = DirectSum()(x, q, torch.zeros(3, 3, 3), torch.zeros(3, 3, dtype=torch.bool), batch)
    alone = torch.cat([DirectSum()(*part) for part in parts])
    torch.testing.assert_close(together, alone)


def test_gradients_of_both_orders():
    x, q = cloud(5)
    x.requires_grad_()
    q.requires_grad_()
    assert torch.autograd.gradcheck(DirectSum(), (x, q))
    assert torch.autograd.gradgradcheck(DirectSum(), (x, q))


def test_errors_say_what_came():
    x, q = cloud(4)
    with pytest.raises(EquivError, match="some structure is periodic; take ChebyshevTucker"):
        DirectSum()(x, q, torch.eye(3), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(DataError, match=r"charges must have shape \(4,\), one per position"):
        DirectSum()(x, q[:3])
    with pytest.raises(DataError, match="2 cells need batch"):
        DirectSum()(x, q, torch.zeros(2, 3, 3))
    with pytest.raises(DataError, match="not finite"):
        DirectSum()(x * torch.nan, q)
    with pytest.raises(EquivError, match="exponent must be positive"):
        DirectSum(exponent=0)


def test_half_of_an_edge_list():
    senders, receivers = torch.tensor([1, 0, 0, 0, 1]), torch.tensor([0, 1, 0, 0, 0])
    shifts = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, -1], [1, 0, 0]]).double()
    half = Pairs.from_edges(senders, receivers, shifts)
    assert half.first.tolist() == [0, 0, 0]
    assert half.second.tolist() == [1, 0, 1]
    assert half.shifts.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
