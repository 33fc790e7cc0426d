import math

import pytest
import torch
from torch.func import functional_call

from equiv.errors import EquivError, UnknownElementError
from equiv.hamiltonian import (
    BlockLayout,
    Blocks,
    OrbitalBasis,
    blocks_from_matrices,
    matrices_from_blocks,
)
from equiv.hamiltonian.orbitals import pyscf_shell, rotate_orbitals
from equiv.hamiltonian.readout import BlockReadout
from equiv.hamiltonian.standardise import BlockStandardisation
from equiv.so3 import irreps_matrix, random_rotations, rotate_spherical, spherical_harmonics
from equiv.testing import assert_gradient

BASIS = OrbitalBasis("mixed", {1: (0, 0, 1), 6: (0, 0, 0, 1, 1, 2), 8: (0, 1, 2, 3, 4)})
NUMBERS = torch.tensor([8, 1, 1, 6, 6, 8, 1])
BATCH = torch.tensor([0, 0, 0, 1, 1, 1, 1])
LAYOUT = BlockLayout.build(BASIS, NUMBERS, BATCH)


def symmetric(layout, seed=0, axes=()):
    g = torch.Generator().manual_seed(seed)
    out = [torch.randn(*axes, n, n, generator=g, dtype=torch.float64) for n in layout.orbitals]
    return [x + x.mT for x in out]


def turned(blocks, rotation):
    """Blocks after acting on their irreps."""

    def act(key, rows):
        kind = BASIS.diagonal(key) if isinstance(key, int) else BASIS.pair(*key)
        out = []
        for part in kind.parts:
            piece = rows[..., part.columns].unflatten(-1, (2 * part.l + 1, part.count))
            irreps = f"{part.l}{'e' if part.sign * (-1) ** part.l == 1 else 'o'}"
            out.append((irreps_matrix(irreps, rotation) @ piece).flatten(-2))
        return torch.cat(out, -1)

    return Blocks(
        {z: act(z, x) for z, x in blocks.diagonal.items()},
        {k: act(k, x) for k, x in blocks.pairs.items()},
    )


def test_matrices_come_back_from_their_irreps():
    matrices = symmetric(LAYOUT, axes=(2,))
    back = matrices_from_blocks(blocks_from_matrices(matrices, LAYOUT), LAYOUT)
    for matrix, again in zip(matrices, back, strict=True):
        assert (matrix - again).abs().max() < 1e-14
        assert torch.equal(again, again.mT)


def test_irreps_have_the_norm_of_the_matrix():
    matrices = symmetric(LAYOUT)
    blocks = blocks_from_matrices(matrices, LAYOUT)
    squares = sum(x.square().sum() for x in blocks.diagonal.values())
    squares += 2 * sum(x.square().sum() for x in blocks.pairs.values())
    torch.testing.assert_close(squares, sum(m.square().sum() for m in matrices))


def test_no_number_is_wasted():
    blocks = blocks_from_matrices(symmetric(LAYOUT), LAYOUT)
    independent = sum(n * (n + 1) // 2 for n in LAYOUT.orbitals)
    assert blocks.flat().shape == (independent,)


@pytest.mark.parametrize("improper", [False, True])
def test_rotating_the_orbitals_acts_on_the_irreps(improper):
    rotation = random_rotations(generator=torch.Generator().manual_seed(1), improper=improper)
    matrices, moved = symmetric(LAYOUT), []
    for index, matrix in enumerate(matrices):
        d = rotate_orbitals(BASIS.molecule_shells(NUMBERS[index == BATCH].tolist()), rotation)
        moved.append(d @ matrix @ d.mT)
    expected = turned(blocks_from_matrices(matrices, LAYOUT), rotation).flat()
    torch.testing.assert_close(
        blocks_from_matrices(moved, LAYOUT).flat(), expected, atol=1e-12, rtol=0
    )


def test_exchanging_two_atoms_of_one_element_is_the_transposition():
    kind = BASIS.pair(6, 6)
    n, _ = kind.shape
    layout = BlockLayout.build(BASIS, torch.tensor([6, 6]))
    matrix = symmetric(layout)[0]
    swapped = torch.cat((matrix[n:], matrix[:n])).roll(n, 1)
    index, sign = kind.transposition
    row = blocks_from_matrices([matrix], layout).pairs[6, 6]
    other = blocks_from_matrices([swapped], layout).pairs[6, 6]
    torch.testing.assert_close(other, sign * row[:, index], atol=1e-13, rtol=0)


def test_gradients_reach_every_independent_number():
    layout = BlockLayout.build(BASIS, torch.tensor([8, 1, 6]))
    matrix = symmetric(layout)[0]
    blocks = blocks_from_matrices([matrix], layout).map(lambda x: x.requires_grad_())
    (back,) = matrices_from_blocks(blocks, layout)
    (0.5 * back.square().sum()).backward()
    for key, rows in blocks.items():
        factor = 1 if isinstance(key, int) else 2
        torch.testing.assert_close(rows.grad, factor * rows.detach(), atol=1e-12, rtol=0)


def test_a_batch_is_its_molecules_side_by_side():
    matrices = symmetric(LAYOUT)
    together = matrices_from_blocks(blocks_from_matrices(matrices, LAYOUT), LAYOUT)
    for index in range(2):
        layout = BlockLayout.build(BASIS, NUMBERS[index == BATCH])
        blocks = blocks_from_matrices([matrices[index]], layout)
        (alone,) = matrices_from_blocks(blocks, layout)
        torch.testing.assert_close(alone, together[index], atol=1e-14, rtol=0)


def test_every_pair_is_there_once_with_the_lighter_atom_first():
    first, second = LAYOUT.first, LAYOUT.second
    assert len(first) == 3 + 6
    assert (NUMBERS[first] <= NUMBERS[second]).all()
    assert {frozenset(p) for p in zip(first.tolist(), second.tolist(), strict=True)} == {
        frozenset((i, j)) for i in range(7) for j in range(i) if BATCH[i] == BATCH[j]
    }
    for key, where in LAYOUT.pair_slices.items():
        assert (NUMBERS[first[where]] == key[0]).all()
        assert (NUMBERS[second[where]] == key[1]).all()


def test_matrices_of_another_basis_are_refused():
    with pytest.raises(EquivError, match=r"molecule 1 has .* orbitals in the basis mixed"):
        blocks_from_matrices([symmetric(LAYOUT)[0], torch.zeros(3, 3)], LAYOUT)


def test_layouts_refuse_what_they_cannot_place():
    with pytest.raises(UnknownElementError, match="N"):
        BlockLayout.build(BASIS, torch.tensor([7]))
    with pytest.raises(EquivError, match="without gaps"):
        BlockLayout.build(BASIS, torch.tensor([1, 1]), torch.tensor([0, 2]))


def test_p_orbitals_are_x_y_z_and_d_orbitals_follow_pyscf():
    mole = pytest.importorskip("pyscf.gto.mole")
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    for l in range(7):
        powers = [(i, j, l - i - j) for i in range(l, -1, -1) for j in range(l - i, -1, -1)]
        monomials = torch.stack([points.pow(torch.tensor(p)).prod(1) for p in powers], 1)
        theirs = monomials @ torch.from_numpy(mole.cart2sph(l, normalized="sp"))
        if l < 2:  # PySCF keeps the constants of s and p with the radial functions
            theirs = theirs * ((2 * l + 1) / (4 * math.pi)) ** 0.5
        ours = spherical_harmonics(l, points, normalization="integral")[:, l * l :]
        torch.testing.assert_close(ours @ pyscf_shell(l).mT, theirs, atol=1e-13, rtol=0)


# the readout


def stacks(rows, channels, seed=0):
    g = torch.Generator().manual_seed(seed)
    make = lambda: torch.randn(rows, 81, channels, generator=g, dtype=torch.float64)  # noqa: E731
    return make(), make()


@pytest.mark.parametrize("improper", [False, True])
def test_predicted_matrices_follow_rotations_of_the_features(improper):
    readout = BlockReadout(BASIS, 3, 8).double()
    rotation = random_rotations(generator=torch.Generator().manual_seed(2), improper=improper)
    sign = -1.0 if improper else 1.0
    turn = lambda s: (rotate_spherical(s[0], rotation), sign * rotate_spherical(s[1], rotation))  # noqa: E731
    atoms, pairs = stacks(7, 3), stacks(9, 3, 1)
    before = readout(atoms, pairs, LAYOUT)
    after = readout(turn(atoms), turn(pairs), LAYOUT)
    torch.testing.assert_close(turned(before, rotation).flat(), after.flat(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("way", ["exchange", "reverse"])
def test_the_order_of_atoms_of_one_element_does_not_matter(way):
    exchange = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    readout = BlockReadout(BASIS, 3, 8, exchange=exchange if way == "exchange" else None).double()
    layout = BlockLayout.build(BASIS, torch.tensor([6, 6]))
    atoms, there = stacks(2, 3), stacks(1, 3, 1)
    back = tuple(x * exchange for x in there) if way == "exchange" else stacks(1, 3, 2)
    swapped = tuple(x.flip(0) for x in atoms)
    given = {} if way == "exchange" else {"reverse": back}
    (one,) = matrices_from_blocks(readout(atoms, there, layout, **given), layout)
    given = {} if way == "exchange" else {"reverse": there}
    (two,) = matrices_from_blocks(readout(swapped, back, layout, **given), layout)
    n = BASIS.orbitals(6)
    torch.testing.assert_close(one, two.roll((n, n), (0, 1)), atol=1e-13, rtol=0)


def test_irreps_without_features_are_zero():
    readout = BlockReadout(BASIS, 3, 2).double()
    natural = [stacks(n, 3)[0][:, :9] for n in (7, 9)]
    blocks = readout((natural[0], None), (natural[1], None), LAYOUT)
    for part in BASIS.pair(6, 8).parts:
        piece = blocks.pairs[6, 8][:, part.columns]
        assert bool(piece.any()) == (part.sign == 1 and part.l <= 2)


def test_features_in_any_place_are_mixed_like_stacks():
    """Values and gradients; a place may serve two irreps, and an irrep may have none."""
    readout = BlockReadout(BASIS, 4, 4, exchange=[1, 1, -1, -1]).double()
    torch.nn.init.normal_(readout.bias)
    given = [stacks(n, 4)[0][:, :25].clone().requires_grad_() for n in (7, 9)]
    places = {(sign, l): l * l for sign in (1, -1) for l in range(5)}
    parameters = [*given, readout.weight, readout.bias]
    one = readout((given[0],) * 2, (given[1],) * 2, LAYOUT).flat()
    two = readout.from_features(*given, places, LAYOUT).flat()
    weights = torch.randn(one.shape, dtype=torch.float64)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    grads = [torch.autograd.grad((y * weights).sum(), parameters) for y in (one, two)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    few = {place: start for place, start in places.items() if place != (1, 2)}
    blocks = readout.from_features(*given, few, LAYOUT)
    for part in BASIS.pair(6, 8).parts:
        piece = blocks.pairs[6, 8][:, part.columns]
        assert bool(piece.any()) == ((part.sign, part.l) != (1, 2) and part.l <= 4)


def test_the_gradient_of_mixing_can_be_differentiated():
    readout = BlockReadout(BASIS, 2, 4).double()
    places = {(sign, l): l * l for sign in (1, -1) for l in range(5)}
    given = [stacks(n, 2)[0][:, :25] for n in (7, 9)]

    def function(flat):
        parts = flat.split([given[0].numel(), given[1].numel(), readout.weight.numel()])
        a, b, w = (p.view(t.shape) for p, t in zip(parts, (*given, readout.weight), strict=True))
        mixed = functional_call(
            Features(readout, places), {"readout.weight": w}, (a, b), {"layout": LAYOUT}
        )
        return mixed.flat()

    flat = torch.cat([t.detach().flatten() for t in (*given, readout.weight)])
    assert_gradient(function, flat)


class Features(torch.nn.Module):
    """A readout of features, as a module of its own."""

    def __init__(self, readout, places):
        super().__init__()
        self.readout, self.places = readout, places

    def forward(self, atoms, pairs, layout):
        return self.readout.from_features(atoms, pairs, self.places, layout)


def test_the_exchange_must_fit_the_channels():
    with pytest.raises(EquivError, match=r"\+1 or -1 for each of 3 channels"):
        BlockReadout(BASIS, 3, 2, exchange=[1, 1])


# standardisation


def test_standardised_blocks_have_unit_scale_and_come_back():
    samples = [blocks_from_matrices(symmetric(LAYOUT, n), LAYOUT) for n in range(30)]
    samples = [x.map(lambda rows: 7 * rows) for x in samples]
    scaling = BlockStandardisation(BASIS).fit(samples)
    unit = [scaling.inverse(x) for x in samples]
    for key in samples[0].diagonal | samples[0].pairs:
        side = "diagonal" if isinstance(key, int) else "pairs"
        rows = torch.cat([getattr(x, side)[key] for x in unit])
        kind = BASIS.diagonal(key) if isinstance(key, int) else BASIS.pair(*key)
        if side == "pairs" and key[0] == key[1]:  # either atom may come first
            index, sign = kind.transposition
            rows = torch.cat([rows, rows[:, index] * sign])
        for part in kind.parts:
            piece = rows[:, part.columns].unflatten(-1, (2 * part.l + 1, part.count))
            torch.testing.assert_close(
                piece.square().mean((0, 1)), torch.ones(part.count, dtype=torch.float64)
            )
    again = scaling(unit[0]).flat()
    torch.testing.assert_close(again, samples[0].flat(), atol=1e-12, rtol=0)


def test_standardisation_commutes_with_exchanging_two_like_atoms():
    """Their order in the data is an accident: samples of one order only must leave no trace."""
    samples = [blocks_from_matrices(symmetric(LAYOUT, n), LAYOUT) for n in range(5)]
    lopsided = torch.linspace(0.1, 3, 25, dtype=torch.float64)
    for x in samples:
        x.pairs[(1, 1)] = x.pairs[(1, 1)] * lopsided
    scaling, kind = BlockStandardisation(BASIS).fit(samples), BASIS.pair(1, 1)
    index, sign = kind.transposition
    rows = samples[0].pairs[(1, 1)]
    scaled = scaling(Blocks({}, {(1, 1): rows})).pairs[(1, 1)]
    exchanged = scaling(Blocks({}, {(1, 1): rows[:, index] * sign})).pairs[(1, 1)]
    torch.testing.assert_close(exchanged, scaled[:, index] * sign, rtol=0, atol=1e-12)


def test_standardisation_commutes_with_rotations_and_is_saved():
    samples = [blocks_from_matrices(symmetric(LAYOUT, n), LAYOUT) for n in range(5)]
    scaling = BlockStandardisation(BASIS).fit(samples)
    other = BlockStandardisation(BASIS)
    other.load_state_dict(scaling.state_dict())
    rotation = random_rotations(generator=torch.Generator().manual_seed(3), improper=True)
    one = turned(scaling(samples[0]), rotation)
    two = other(turned(samples[0], rotation))
    torch.testing.assert_close(one.flat(), two.flat(), atol=1e-12, rtol=0)


def test_standardisation_needs_samples():
    with pytest.raises(EquivError, match="at least one training sample"):
        BlockStandardisation(BASIS).fit([])
