import pytest
import torch

from equiv.errors import EquivError
from equiv.long_range.chebyshev_tucker import ChebyshevTucker
from equiv.long_range.direct_sum import DirectSum
from equiv.long_range.equilibration import ChargeEquilibration
from equiv.units import COULOMB

BATCH = torch.tensor([0, 0, 0, 0, 1, 1, 1])
CELL = torch.zeros(2, 3, 3, dtype=torch.float64)


def problem(seed=0):
    g = torch.Generator().manual_seed(seed)
    positions = 3.0 * torch.randn(7, 3, generator=g, dtype=torch.float64)
    chi = torch.randn(7, generator=g, dtype=torch.float64)
    h = 30 + 5 * torch.rand(7, generator=g, dtype=torch.float64)
    return chi, h, torch.tensor([1.0, -0.5], dtype=torch.float64), positions


def solved_densely(chi, h, total, positions):
    """The bordered linear system of one structure."""
    n = len(chi)
    far = torch.eye(n, dtype=torch.float64) * 1e60
    K = COULOMB / (((positions[:, None] - positions[None]) ** 2).sum(-1) + far).sqrt()
    A = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    A[:n, :n] = K + torch.diag(h)
    A[n, :n] = A[:n, n] = 1
    return torch.linalg.solve(A, torch.cat([-chi, total[None]]))[:n]


def test_charges_solve_the_linear_equations_of_every_structure():
    chi, h, total, positions = problem()
    q = ChargeEquilibration(DirectSum(), tolerance=1e-12)(
        chi, h, total, positions, CELL, None, BATCH
    )
    for graph in range(2):
        mine = graph == BATCH
        expected = solved_densely(chi[mine], h[mine], total[graph], positions[mine])
        torch.testing.assert_close(q[mine], expected, rtol=1e-10, atol=1e-11)
        assert float(q[mine].sum()) == pytest.approx(float(total[graph]), abs=1e-13)


def test_charges_have_the_derivatives_of_the_dense_solution_twice():
    chi, h, total, positions = (t[:4] if len(t) == 7 else t[0] for t in problem())
    given = [t.clone().requires_grad_() for t in (chi, h, total, positions)]
    equilibration = ChargeEquilibration(DirectSum(), tolerance=1e-13)

    def iterated(chi, h, total, positions):
        return equilibration(chi, h, total[None], positions)

    weights = torch.linspace(-1, 2, 4, dtype=torch.float64)
    derivatives = []
    for solve in (iterated, solved_densely):
        first = torch.autograd.grad((weights * solve(*given) ** 2).sum(), given, create_graph=True)
        second = torch.autograd.grad(sum((f * f.detach().cos()).sum() for f in first), given)
        derivatives.append((*first, *second))
    for one, two in zip(*derivatives, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-10)


def test_forces_are_those_of_fixed_charges_at_the_minimum():
    chi, h, total, positions = problem()
    positions.requires_grad_()
    potential = DirectSum()
    q = ChargeEquilibration(potential, tolerance=1e-12)(chi, h, total, positions, CELL, None, BATCH)

    def energy(q):
        return potential(positions, q, CELL, None, BATCH).sum() + (chi * q + h * q**2 / 2).sum()

    (whole,) = torch.autograd.grad(energy(q), positions, retain_graph=True)
    (fixed,) = torch.autograd.grad(energy(q.detach()), positions)
    torch.testing.assert_close(whole, fixed, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("periodic", [False, True])
def test_chebyshev_tucker_without_its_short_range_is_always_solvable(periodic):
    # The smallest hardness is the self-interaction k_e K_L(0), even for ions on top of each other.
    g = torch.Generator().manual_seed(1)
    positions = 9 * torch.rand(60, 3, generator=g, dtype=torch.float64)
    chi = 5 * torch.randn(60, generator=g, dtype=torch.float64)
    potential = ChebyshevTucker(tolerance=1e-5, cutoff=4.0, short_range=False)
    cell = 9 * torch.eye(3, dtype=torch.float64)[None]
    pbc = torch.full((1, 3), periodic)
    h = torch.full_like(chi, 1.2 * COULOMB * 2.0 / 4.0 * 1.5)
    total = torch.zeros(1, dtype=torch.float64)
    q = ChargeEquilibration(potential, tolerance=1e-8)(chi, h, total, positions, cell, pbc)
    residual = chi + h * q + potential.potentials(positions, q, cell, pbc)
    assert float(residual.max() - residual.min()) < 1e-5
    assert abs(float(q.sum())) < 1e-12


def test_float32_is_as_good_as_it_can_be():
    chi, h, total, positions = problem()
    exact = ChargeEquilibration(DirectSum())(chi, h, total, positions, CELL, None, BATCH)
    single = ChargeEquilibration(DirectSum())(
        chi.float(), h.float(), total.float(), positions.float(), CELL.float(), None, BATCH
    )
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-6)


def test_too_soft_atoms_are_refused():
    chi, h, total, positions = problem()
    with pytest.raises(EquivError, match="no minimum: opposite charges gain more by growing"):
        ChargeEquilibration(DirectSum())(chi, h * 0.01, total, positions, CELL, None, BATCH)
    with pytest.raises(EquivError, match="hardnesses: expected positive"):
        ChargeEquilibration(DirectSum())(chi, -h, total, positions, CELL, None, BATCH)
    with pytest.raises(EquivError, match="did not converge in 1 iterations"):
        ChargeEquilibration(DirectSum(), max_iterations=1)(
            chi, h, total, positions, CELL, None, BATCH
        )
