import pytest
import torch

from equiv.errors import EquivError
from equiv.long_range.charges import (
    EquilibratedCharges,
    FixedCharges,
    LearnedCharges,
    LearnedCoefficients,
    Sites,
    dipole_moments,
    shifted_to_total,
)
from equiv.long_range.direct_sum import DirectSum
from equiv.long_range.equilibration import ChargeEquilibration

BATCH = torch.tensor([0, 0, 0, 1, 1])
SPECIES = torch.tensor([0, 1, 1, 0, 1])
TOTAL = torch.tensor([1.0, -2.0])


def models():
    torch.manual_seed(0)
    equilibration = ChargeEquilibration(DirectSum())
    return {
        "fixed": FixedCharges(torch.tensor([0.8, -0.4])),
        "learned": LearnedCharges(6, 2),
        "equilibrated": EquilibratedCharges(6, 2, equilibration, hardness=30.0),
    }


def inputs():
    g = torch.Generator().manual_seed(0)
    features, positions = torch.randn(5, 6, generator=g), 3 * torch.randn(5, 3, generator=g)
    cell, pbc = torch.zeros(2, 3, 3), torch.zeros(2, 3, dtype=torch.bool)
    return features, SPECIES, TOTAL, Sites(positions, cell, pbc, BATCH)


@pytest.mark.parametrize("name", ["fixed", "learned", "equilibrated"])
def test_every_structure_has_its_total_charge(name):
    result = models()[name](*inputs())
    sums = torch.zeros(2).index_add(0, BATCH, result.charges)
    torch.testing.assert_close(sums, TOTAL, atol=2e-6, rtol=0)
    assert result.energies.shape == (5,)


@pytest.mark.parametrize("name", ["learned", "equilibrated"])
def test_weights_and_features_receive_gradients(name):
    model = models()[name]
    features, *rest = inputs()
    features.requires_grad_()
    result = model(features, *rest)
    loss = (result.charges**2).sum() + result.energies.sum()
    loss.backward()
    assert float(features.grad.abs().max()) > 0
    assert all(
        p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters()
    )


def test_charges_at_birth_are_small_but_not_zero():
    torch.manual_seed(1)
    charges = LearnedCharges(6, 2)(
        torch.randn(4000, 6),
        torch.zeros(4000, dtype=torch.long),
        torch.zeros(1),
        Sites(torch.zeros(4000, 3)),
    ).charges
    assert 0.05 < float(charges.detach().std()) < 0.2


def test_energy_of_equilibrated_charges_is_the_minimum():
    model = models()["equilibrated"]
    given = inputs()
    result = model(*given)
    potential = model.equilibration.potential
    chi = model.offsets[SPECIES] + model.electronegativity(given[0])
    h = torch.nn.functional.softplus(model.hardnesses[SPECIES] + model.hardness(given[0]))

    def energy(q):
        pairwise = given[3].energy(potential, q).sum()
        return float((pairwise + (chi * q + h * q**2 / 2).sum()).detach())

    best = energy(result.charges)
    shift = 0.05 * torch.tensor([1.0, -1.0, 0.0, 0.5, -0.5])
    assert best < min(energy(result.charges + shift), energy(result.charges - shift))


def test_hardness_at_birth_is_the_one_asked_for():
    model = EquilibratedCharges(3, 2, ChargeEquilibration(DirectSum()), hardness=0.5)
    torch.testing.assert_close(
        torch.nn.functional.softplus(model.hardnesses), torch.full((2,), 0.5)
    )
    with pytest.raises(EquivError, match="hardness and self_interaction"):
        EquilibratedCharges(3, 2, ChargeEquilibration(DirectSum()), hardness=0.0)


def test_coefficients_are_positive():
    torch.manual_seed(0)
    assert (LearnedCoefficients(6, 2)(5 * torch.randn(5, 6), SPECIES) > 0).all()


def test_shares_divide_what_is_missing():
    shifted = shifted_to_total(
        torch.zeros(3), torch.tensor([2.0]), None, torch.tensor([1.0, 1.0, 2.0])
    )
    torch.testing.assert_close(shifted, torch.tensor([0.5, 0.5, 1.0]))


def test_an_empty_structure_is_no_error():
    shifted = shifted_to_total(torch.zeros(2), torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 1]))
    torch.testing.assert_close(shifted, torch.tensor([0.0, 1.0]))


def test_dipole_of_a_pair_and_of_a_moved_ion():
    r = torch.tensor([[0.0, 0, 0], [0, 0, 2], [5, 5, 5]])
    q = torch.tensor([-0.5, 0.5, 1.0])
    moments = dipole_moments(r, q, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(moments, torch.tensor([[0.0, 0, 1.0], [0, 0, 0]]))
