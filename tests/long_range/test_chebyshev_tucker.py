import pytest
import torch

from equiv.errors import EquivError
from equiv.long_range.chebyshev_tucker import ChebyshevTucker
from equiv.long_range.direct_sum import DirectSum
from equiv.long_range.ewald import EwaldSum
from equiv.long_range.pairs import InversePower, Pairs, pair_energies
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.potential import LongRangePotential
from equiv.units import COULOMB

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


@pytest.fixture
def boxes_for_all(monkeypatch):
    """The variants for large systems, however small the structure."""
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.FLOOR", 0.0)
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.PAIR", 1e9)
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.WAVE_ATOMS", 0)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_finite_systems_agree_with_the_direct_sum(tolerance, boxes_for_all):
    x, q = melt(2500, (29.0, 29.0, 29.0))
    exact = DirectSum().evaluate(x, q)
    out = ChebyshevTucker(tolerance).evaluate(x, q)
    assert error(out.forces, exact.forces) < tolerance
    assert error(out.fields, exact.fields) < tolerance
    assert error(out.potentials, exact.potentials) < tolerance
    assert 1e-4 * tolerance < error(out.forces, exact.forces)  # it was not the direct sum


@pytest.mark.parametrize("size", [(140.0, 9.0, 9.0), (46.0, 46.0, 5.0)], ids=["rod", "sheet"])
def test_rods_and_sheets_agree_with_the_direct_sum(size, boxes_for_all):
    x, q = melt(1100, size)
    exact = DirectSum().evaluate(x, q)
    assert error(ChebyshevTucker(1e-5).evaluate(x, q).forces, exact.forces) < 1e-5


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


BOUNDARIES = {
    "finite": [False, False, False],
    "wire": [False, True, False],
    "slab": [True, False, True],
    "crystal": [True, True, True],
}


def small(boundary, atoms=6, seed=3):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(atoms, 3, generator=g, dtype=torch.float64) @ OBLIQUE
    q = torch.randn(atoms, generator=g, dtype=torch.float64)
    return x, q, OBLIQUE[None].clone(), torch.tensor([BOUNDARIES[boundary]])


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gradients_of_both_orders_in_boxes(boundary, boxes_for_all):
    check_gradients(boundary)


@pytest.mark.parametrize("boundary", ["finite", "crystal"])
def test_gradients_of_both_orders_of_the_smooth_variants(boundary):
    check_gradients(boundary)


def check_gradients(boundary):
    x, q, cell, pbc = small(boundary)
    potential = ChebyshevTucker(1e-3)
    x.requires_grad_()
    q.requires_grad_()
    cell.requires_grad_(boundary != "finite")
    inputs = [tensor for tensor in (x, q, cell) if tensor.requires_grad]

    def energy(*tensors):
        moved, charges, *rest = tensors
        return potential(moved, charges, rest[0] if rest else cell, pbc)

    # One random direction: a whole Jacobian would take a hundred times as long.
    assert torch.autograd.gradcheck(energy, inputs, fast_mode=True, atol=1e-5)
    assert torch.autograd.gradgradcheck(energy, inputs, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_fused_sums_are_the_gradients_of_the_graph(boundary, boxes_for_all):
    x, q, cell, pbc = small(boundary, atoms=30)
    q[3] = 0
    potential = ChebyshevTucker(1e-4)
    system = PointCharges.checked(x, q, cell, pbc)
    fused = potential.electrostatics(system, None)
    slow = LongRangePotential.electrostatics(potential, system, None)
    for name in ("energy", "potentials", "forces", "stress"):
        torch.testing.assert_close(
            getattr(fused, name), getattr(slow, name), rtol=1e-9, atol=1e-9, equal_nan=True
        )
    charged = q != 0
    torch.testing.assert_close(
        fused.fields[charged] * q[charged, None], fused.forces[charged], atol=1e-3, rtol=0
    )  # but for the net force of the boxes
    torch.testing.assert_close(potential.potentials(x, q, cell, pbc), fused.potentials)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_waves_direct_sums_and_boxes_agree(boundary, tolerance, monkeypatch):
    x, q, cell, pbc = small(boundary, atoms=120)
    q = q - q.mean()
    small_variant = ChebyshevTucker(tolerance).evaluate(x, q, cell, pbc)
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.FLOOR", 0.0)
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.PAIR", 1e9)
    monkeypatch.setattr("equiv.long_range.chebyshev_tucker.WAVE_ATOMS", 0)
    large = ChebyshevTucker(tolerance, cutoff=4.5).evaluate(x, q, cell, pbc)
    assert error(large.forces, small_variant.forces) < tolerance


@pytest.mark.parametrize("dense", [False, True], ids=["thin", "thin beside dense"])
def test_thin_systems_get_a_longer_cutoff_unless_some_of_it_is_dense(dense, boxes_for_all):
    x, q = melt(2000, (180.0, 180.0, 180.0))
    if dense:
        x[:1000] = 25 * x[:1000] / 180
    potential = ChebyshevTucker(1e-4)
    ((split, _, _),) = potential._plan(PointCharges.checked(x, q))
    assert split is not None
    assert split.cutoff == (6.0 if dense else 24.0)
    exact = DirectSum().evaluate(x, q)
    assert error(potential.evaluate(x, q).forces, exact.forces) < 1e-4
    given = Pairs.search(PointCharges.checked(x, q), 6.0)
    ((split, _, _),) = potential._plan(PointCharges.checked(x, q), given)
    assert split is not None
    assert split.cutoff == 6.0


@pytest.mark.parametrize("waves", [True, False], ids=["waves", "boxes"])
@pytest.mark.parametrize("boundary", ["wire", "slab", "crystal"])
def test_strain_derivatives_by_finite_strain(boundary, waves, monkeypatch):
    if not waves:
        monkeypatch.setattr("equiv.long_range.chebyshev_tucker.WAVE_ATOMS", 0)
    elif boundary != "crystal":
        pytest.skip("slabs and wires always have boxes")
    x, q, cell, pbc = small(boundary, atoms=20)
    q = q - q.mean()
    potential = ChebyshevTucker(1e-7 if boundary == "crystal" else 1e-5)
    directions = torch.eye(9, dtype=torch.float64).view(9, 3, 3)
    strains = [(d + d.T) / 2 for d in directions[[0, 1, 2, 4, 5, 8]]]

    def energy(strain):
        turn = torch.eye(3, dtype=torch.float64) + strain
        return potential(x @ turn, q, cell @ turn, pbc).sum()

    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(energy(strain), strain)
    slope = (slope + slope.T) / 2
    if boundary == "crystal":
        stress = potential.evaluate(x, q, cell, pbc).stress[0]
        torch.testing.assert_close(stress * torch.linalg.det(cell[0]).abs(), slope)
    h = 2e-3
    for direction in strains:
        far = energy(2 * h * direction) - energy(-2 * h * direction)
        near = energy(h * direction) - energy(-h * direction)
        difference = (8 * near - far) / (12 * h)
        expected = (slope * direction).sum()
        assert abs(difference - expected) < 100 * potential.tolerance * slope.norm()


@pytest.mark.parametrize("atoms", [100, 250], ids=["waves", "boxes"])
def test_crystals_to_nine_digits(atoms):
    x, q = melt(atoms, (1.0, 1.0, 1.0))
    x = x @ OBLIQUE
    exact = EwaldSum(1e-12).evaluate(x, q, OBLIQUE, PERIODIC)
    out = ChebyshevTucker(1e-9).evaluate(x, q, OBLIQUE, PERIODIC)
    assert error(out.forces, exact.forces) < 1e-9
    assert error(out.potentials, exact.potentials) < 1e-9


def test_a_batch_of_everything_equals_its_structures():
    parts = [small(boundary, atoms=7 + i) for i, boundary in enumerate(BOUNDARIES)]
    parts.append((*melt(700, (19.0, 19.0, 19.0)), OBLIQUE[None], torch.tensor([[False] * 3])))
    parts.append(small("crystal", atoms=90, seed=5))
    x, q, cell, pbc = (torch.cat(column) for column in zip(*parts, strict=True))
    counts = torch.tensor([len(part[0]) for part in parts])
    batch = torch.repeat_interleave(torch.arange(len(parts)), counts)
    potential = ChebyshevTucker(1e-4)
    together = potential.evaluate(x, q, cell, pbc, batch)
    alone = [potential.evaluate(*part) for part in parts]
    for name in ("energy", "potentials", "fields", "forces", "stress"):
        separate = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(
            getattr(together, name), separate, rtol=1e-9, atol=1e-9, equal_nan=True
        )
    pairs = Pairs.search(PointCharges.checked(x, q, cell, pbc, batch), potential.cutoff)
    given = potential(x, q, cell, pbc, batch, pairs)
    torch.testing.assert_close(given, together.energy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_translations_images_and_rotations(boundary, boxes_for_all):
    x, q, cell, pbc = small(boundary, atoms=40)
    q = q - q.mean()
    potential = ChebyshevTucker(1e-5)
    out = potential.evaluate(x, q, cell, pbc)
    moved = x + torch.tensor([0.7, -31.0, 12.0])
    cells = torch.arange(40)[:, None] % 5 - torch.tensor([2, 1, 3])
    far = x + (cells * pbc).double() @ cell[0]
    g = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    for other, turn in ((moved, torch.eye(3)), (far, torch.eye(3)), (x @ g.T, g)):
        turn = turn.double()
        again = potential.evaluate(other, q, cell @ turn.T, pbc)
        assert error(again.forces, out.forces @ turn.T) < 1e-5
        assert abs(again.energy - out.energy) < 1e-5 * out.potentials.abs().sum()


def test_float32_keeps_what_it_can():
    x, q = melt(3000, (31.0, 31.0, 31.0))
    cell = 31.2 * torch.eye(3, dtype=torch.float64)
    for pbc in (None, PERIODIC):
        exact = ChebyshevTucker(1e-6).evaluate(x, q, cell, pbc)
        out = ChebyshevTucker(1e-5).evaluate(x, q.float(), cell, pbc)
        assert out.forces.dtype == torch.float32
        assert out.energy.dtype == torch.float64
        assert error(out.forces.double(), exact.forces) < 1e-4


def test_the_smooth_part_alone():
    x, q, cell, pbc = small("crystal", atoms=30)
    whole, smooth = ChebyshevTucker(1e-5), ChebyshevTucker(1e-5, short_range=False)
    pairs = Pairs.search(PointCharges.checked(x, q, cell, pbc), whole.cutoff)
    near = pair_energies(whole.splitting().short, PointCharges.checked(x, q, cell, pbc), pairs)
    torch.testing.assert_close(
        smooth(x, q, cell, pbc) + COULOMB * near, whole(x, q, cell, pbc), rtol=1e-10, atol=1e-10
    )


def test_dispersion_in_a_crystal():
    x, q, cell, pbc = small("crystal", atoms=12)
    q = q.abs()
    potential = ChebyshevTucker(1e-6, exponent=6, prefactor=-1.0)
    # A sum over all pairs within 60 Angstrom; what is beyond is a hundred thousandth of it.
    pairs = Pairs.search(PointCharges.checked(x, q, cell, pbc), 40.0)
    brute = -pair_energies(InversePower(6), PointCharges.checked(x, q, cell, pbc), pairs)
    volume = torch.linalg.det(cell)
    tail = -2 * torch.pi * q.sum() ** 2 / volume / (3 * 40.0**3)
    torch.testing.assert_close(potential(x, q, cell, pbc), brute + tail, rtol=1e-4, atol=0)


def test_errors_name_the_remedy():
    with pytest.raises(EquivError, match=r"tolerance must lie between 1e-9 and 0\.1, got 1e-12"):
        ChebyshevTucker(1e-12)
    with pytest.raises(
        EquivError, match=r"cutoff must be a positive number of Angstrom, got -1\.0"
    ):
        ChebyshevTucker(cutoff=-1.0)


def test_the_tuned_parameters_are_reported():
    rough, fine = ChebyshevTucker(1e-3).parameters_chosen, ChebyshevTucker(1e-6).parameters_chosen
    assert rough["splitting_error"] <= 1e-3 / 8
    for name in ("gaussians", "bandwidth", "short_range_degree", "nodes"):
        assert rough[name] < fine[name]


def test_one_smooth_box_agrees_with_the_direct_sum(boxes_for_all):
    x, q = melt(1200, (23.0, 23.0, 23.0))
    exact = DirectSum().evaluate(x, q)
    potential = ChebyshevTucker(1e-4, smooth=True)
    system = PointCharges.checked(x, q)
    ((split, _, part),) = potential._plan(system)
    assert split is not None
    assert part.nodes > 20
    out = potential.evaluate(x, q)
    assert error(out.forces, exact.forces) < 1e-4
    slow = LongRangePotential.electrostatics(potential, system, None)
    torch.testing.assert_close(out.forces, slow.forces, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("smooth", [False, True])
def test_forces_jump_less_than_the_tolerance_between_boxes(smooth, boxes_for_all):
    x, q = melt(1200, (23.0, 23.0, 23.0))
    potential = ChebyshevTucker(1e-3, smooth=smooth, short_range=False)
    path = torch.linspace(0.0, 7.0, 60)
    energies, slopes = [], []
    for step in path.tolist():
        moved = x.clone()
        moved[600, 0] += step
        out = potential.evaluate(moved, q)
        energies.append(out.energy.item())
        slopes.append(-out.forces[600, 0].item())
    energies, slopes = torch.tensor(energies), torch.tensor(slopes)
    # Simpson-like: what the energy gains is the work of the forces, but for the curvature.
    work = (slopes[1:] + slopes[:-1]) / 2 * (path[1] - path[0])
    scale = float(slopes.abs().max())
    assert (energies.diff() - work).abs().max() < 3e-3 * scale
