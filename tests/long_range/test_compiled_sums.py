"""Compiled kernels beside the forms that can be read."""

import pytest
import torch

from equiv.long_range import box_transfer, pair_kernels
from equiv.long_range.box_transfer import CompiledTransfer
from equiv.long_range.boxes import Boxes, BoxTransfer
from equiv.long_range.changes import changes_by_gradient
from equiv.long_range.chebyshev_tucker import ChebyshevTucker
from equiv.long_range.direct_sum import direct_changes, direct_energy, direct_sums
from equiv.long_range.pairs import InversePower, Pairs, pair_changes, pair_energies, pair_sums
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.splitting import LongRange

pytestmark = pytest.mark.skipif(
    pair_kernels.library() is None, reason="there is no compiler for the kernels"
)

POTENTIAL = ChebyshevTucker(1e-4, cutoff=4.0)
SHORT = POTENTIAL.splitting().short
MANY_TERMS = ChebyshevTucker(1e-9, cutoff=6.0).splitting().short
CELL = torch.tensor([[7.0, 0, 0], [1.5, 6.0, 0], [-0.7, 1.2, 8.0]], dtype=torch.float64)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_structures(periodic=True):
    """A crystal and a cluster in one batch; one charge is zero."""
    g = torch.Generator().manual_seed(2)
    x = torch.rand(70, 3, generator=g, dtype=torch.float64) @ CELL
    q = rand(70, seed=3)
    q[5] = 0
    batch = torch.arange(70) // 40
    pbc = torch.tensor([[periodic] * 3, [False] * 3])
    return PointCharges.checked(x, q, torch.stack([CELL, CELL]), pbc, batch)


@pytest.fixture
def readable(monkeypatch):
    """Calls a function without kernels."""

    def without(function):
        with monkeypatch.context() as m:
            m.setattr(pair_kernels, "is_compiled", lambda like: False)
            m.setattr(box_transfer, "is_compiled", lambda like: False)
            return function()

    return without


FUNCTIONS = {
    "short range": SHORT,
    "of many terms": MANY_TERMS,
    "long range": LongRange(SHORT),
    "1/r": InversePower(1),
    "1/r^6": InversePower(6),
    "1/r^2.5": InversePower(2.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sums_over_pairs(name, readable):
    system, function = two_structures(), FUNCTIONS[name]
    pairs = Pairs.search(system, 5.5)
    assert pairs.rows(70).starts[-1] == len(pairs)
    fast = pair_sums(function, system, pairs)
    slow = readable(lambda: pair_sums(function, system, pairs))
    for part in ("potentials", "fields", "forces", "virials"):
        torch.testing.assert_close(getattr(fast, part), getattr(slow, part), rtol=1e-10, atol=1e-9)


def test_sums_over_pairs_in_single_precision():
    system = two_structures()
    pairs = Pairs.search(system, 4.0)
    exact = pair_sums(SHORT, system, pairs)
    single = PointCharges(
        system.positions, system.charges.float(), system.cell, system.pbc, system.batch
    )
    out = pair_sums(SHORT, single, pairs)
    assert out.forces.dtype == torch.float32
    torch.testing.assert_close(out.forces.double(), exact.forces, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_changes_of_sums_over_pairs(name):
    system, function = two_structures(), FUNCTIONS[name]
    pairs, moves = Pairs.search(system, 5.5), rand(70, 4, seed=4)
    slow = changes_by_gradient(lambda s: pair_energies(function, s, pairs), system, moves)
    fast = pair_changes(function, system, pairs, moves)
    torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-7)


def test_all_pairs(readable):
    system, function = two_structures(periodic=False), InversePower(1)
    fast, slow = direct_sums(function, system), readable(lambda: direct_sums(function, system))
    torch.testing.assert_close(fast.forces, slow.forces, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fast.potentials, slow.potentials, rtol=1e-10, atol=1e-10)
    moves = rand(70, 4, seed=4)
    expected = changes_by_gradient(lambda s: direct_energy(function, s), system, moves)
    torch.testing.assert_close(direct_changes(function, system, moves), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("nodes", [2, 5, 9, 16, 23])
def test_boxes(nodes, dtype):
    g = torch.Generator().manual_seed(1)
    shape, atoms = (3, 2, 4), 150
    local = (2 * torch.rand(atoms, 3, generator=g, dtype=torch.float64) - 1).to(dtype)
    # Many in one box, none in others.
    cells = torch.rand(atoms, 3, generator=g).square() * torch.tensor(shape)
    cells = torch.where(torch.arange(atoms)[:, None] < 70, 1, cells.long())
    q = rand(atoms).to(dtype)
    matrices = [rand(n * nodes, 3 + n).to(dtype) for n in shape]
    fast = CompiledTransfer(local, cells, shape, matrices)
    slow = BoxTransfer(local, Boxes.sorted(cells, shape), matrices)
    close = {"rtol": 1e-9, "atol": 1e-8} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 0.05}
    c = slow.coefficients(q)
    torch.testing.assert_close(fast.coefficients(q), c, **close)
    c = c / c.norm()
    for a, b in zip(fast.fields(c), slow.fields(c), strict=True):
        torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize("periodic", [True, False])
def test_whole_potentials_with_and_without_kernels(periodic, readable, monkeypatch):
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.FLOOR", 0.0)
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.PAIR", 1e9)
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.WAVE_ATOMS", 0)
    system, moves = two_structures(periodic), rand(70, 4, seed=4)
    out = POTENTIAL.electrostatics(system, None)
    expected = readable(lambda: POTENTIAL.electrostatics(system, None))
    for part in ("energy", "potentials", "fields", "forces", "stress"):
        torch.testing.assert_close(
            getattr(out, part), getattr(expected, part), rtol=1e-9, atol=1e-9, equal_nan=True
        )
    changes = POTENTIAL.changes(system, None, moves)
    expected = changes_by_gradient(lambda s: POTENTIAL.energy(s, None), system, moves)
    torch.testing.assert_close(changes, expected, rtol=1e-8, atol=1e-7)


def test_threads_change_nothing_but_the_order_of_sums():
    g = torch.Generator().manual_seed(1)
    x = 40 * torch.rand(3000, 3, generator=g, dtype=torch.float64)
    q = rand(3000)
    threads = torch.get_num_threads()
    try:
        outs = []
        for n in (1, 2):
            torch.set_num_threads(n)
            outs.append(POTENTIAL.evaluate(x, q))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(outs[0].forces, outs[1].forces, rtol=1e-9, atol=1e-7)
