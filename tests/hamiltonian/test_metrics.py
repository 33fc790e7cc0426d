import pytest
import torch

from equiv.errors import EquivError
from equiv.hamiltonian import OrbitalBasis
from equiv.hamiltonian.eigen import density, orbitals
from equiv.hamiltonian.metrics import (
    errors_by_kind,
    errors_by_shells,
    lower_blocks,
    orbital_errors,
)

BASIS = OrbitalBasis("small", {1: (0, 1), 8: (0, 0, 1)})
NUMBERS = torch.tensor([8, 1, 1])


def matrices(n=13, seed=0):
    g = torch.Generator().manual_seed(seed)
    h, a = torch.randn(2, n, n, generator=g, dtype=torch.float64)
    return h + h.mT, a @ a.mT + n * torch.eye(n, dtype=torch.float64)


def test_orbitals_solve_the_generalised_problem():
    h, s = matrices()
    e, c = orbitals(h, s)
    torch.testing.assert_close(h @ c, s @ c @ torch.diag(e), atol=1e-12, rtol=0)
    torch.testing.assert_close(c.mT @ s @ c, torch.eye(13, dtype=torch.float64))
    assert (e.diff() >= 0).all()
    p = density(c, 5)
    assert float((p @ s).trace()) == pytest.approx(10)  # the electrons


def test_an_overlap_in_the_wrong_order_is_refused():
    h, s = matrices()
    with pytest.raises(EquivError, match="not positive definite"):
        orbitals(h, s.flip(0))


def test_errors_of_orbitals_by_hand():
    reference = torch.diag(torch.tensor([-2.0, -1.0, 1.0, 3.0], dtype=torch.float64))
    predicted = reference + torch.diag(torch.tensor([0.1, 0.2, 0.5, 9.0], dtype=torch.float64))
    found = orbital_errors(predicted, reference, torch.eye(4, dtype=torch.float64), 2)
    torch.testing.assert_close(found.occupied, torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert float(found.gap) == pytest.approx(0.3)
    torch.testing.assert_close(found.similarity, torch.ones(2, dtype=torch.float64))
    assert float(found.overlap) == pytest.approx(1)


def test_an_orbital_that_comes_too_low_shows_in_the_overlap_of_spaces():
    reference = torch.diag(torch.tensor([-2.0, -1.0, 1.0, 3.0], dtype=torch.float64))
    predicted = reference.clone()
    predicted[3, 3] = -1.5
    found = orbital_errors(predicted, reference, torch.eye(4, dtype=torch.float64), 2)
    assert float(found.overlap) == pytest.approx(0.5)


def test_batches_give_the_same_as_molecules():
    pairs = [matrices(seed=n) for n in range(3)]
    h, s = (torch.stack(x) for x in zip(*pairs, strict=True))
    together = orbital_errors(h + 0.01 * s, h, s, 5)
    alone = orbital_errors(h[1] + 0.01 * s[1], h[1], s[1], 5)
    torch.testing.assert_close(together.occupied[1], alone.occupied)
    torch.testing.assert_close(together.overlap[1], alone.overlap)
    # adding a multiple of the overlap shifts every energy
    expected = torch.full((3, 5), 0.01, dtype=torch.float64)
    torch.testing.assert_close(together.occupied, expected, atol=1e-10, rtol=0)


def test_every_entry_is_of_one_kind():
    error, _ = matrices()
    for parts in (errors_by_kind, errors_by_shells):
        found = parts(error, BASIS, NUMBERS)
        assert sum(x.numel() for x in found.values()) == error.numel()
        total = sum(float(x.sum()) for x in found.values())
        assert total == pytest.approx(float(error.sum()))


def test_kinds_are_where_they_should_be():
    error = torch.zeros(13, 13)
    error[0, 0], error[0, 5], error[5, 9], error[6, 6] = 1, 2, 3, 4
    kinds = errors_by_kind(error, BASIS, NUMBERS)
    names = ["H", "O", "H-H", "H-O"]
    assert {name: float(kinds[name].sum()) for name in names} == {
        "H": 4, "O": 1, "H-H": 3, "H-O": 2,
    }  # fmt: skip
    assert kinds["H-O"].numel() == 4 * 4 * 5
    shells = errors_by_shells(error, BASIS, NUMBERS)
    assert float(shells["pp"].sum()) == 4
    assert float(shells["ss off"].sum()) == 5


def test_sphnet_counts_diagonal_blocks_fully_and_pairs_once():
    mask = lower_blocks(BASIS, NUMBERS)
    assert int(mask.sum()) == 5 * 5 + 2 * 4 * 4 + 2 * 4 * 5 + 4 * 4
    assert mask[0, 4]
    assert not mask[0, 5]
