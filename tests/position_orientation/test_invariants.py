import math

import pytest
import torch

from equiv.position_orientation.invariants import (
    PAIR_INVARIANTS,
    PublishedR3S2Invariants,
    R2Invariants,
    R2S1Invariants,
    R3Invariants,
    R3S2Invariants,
    SE3Invariants,
    published_attributes,
    smooth_attributes,
)
from equiv.so3.rotations import random_rotations

PAIRS = 50
KINDS = [kind() for kind in PAIR_INVARIANTS.values()]


def rotation(generator, dim, improper=False):
    if dim == 3:
        return random_rotations(generator=generator, improper=improper)
    angle = torch.rand((), generator=generator, dtype=torch.float64) * 2 * math.pi
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s]), torch.stack([s, c])])


def points(kind, generator):
    """Relative positions, and what both points have besides."""
    r = torch.randn(PAIRS, kind.dim, generator=generator, dtype=torch.float64)
    if isinstance(kind, SE3Invariants):
        return [r, *(random_rotations(PAIRS, generator=generator) for _ in range(2))]
    if isinstance(kind, (R2Invariants, R3Invariants)):
        return [r, None, None]
    o = torch.randn(2, PAIRS, kind.dim, generator=generator, dtype=torch.float64)
    return [r, *torch.nn.functional.normalize(o, dim=-1)]


def moved(x, turn):
    if x is None:
        return None
    return turn @ x if x.ndim == 3 else x @ turn.T


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_motions_change_nothing(kind):
    generator = torch.Generator().manual_seed(0)
    x = points(kind, generator)
    for improper in (False, True):
        if improper and isinstance(kind, (SE3Invariants, R2S1Invariants)):
            continue  # SE(3) and SE(2) have no reflections
        turn = rotation(generator, kind.dim, improper and kind.dim == 3)
        a, b = kind(*x), kind(*(moved(y, turn) for y in x))
        assert a.shape == (PAIRS, kind.count)
        assert (a - b).abs().max() < 1e-12


def gram(*vectors):
    x = torch.stack(vectors, -1)
    return x.mT @ x


def congruent(x, y):
    """Largest residue after the best orthogonal map of the columns of x onto those of y."""
    u, _, v = torch.linalg.svd(y @ x.mT)
    return (u @ v @ x - y).abs().max()


def test_the_four_numbers_of_r3s2_determine_the_pair():
    generator = torch.Generator().manual_seed(1)
    r, a, b = points(R3S2Invariants(), generator)
    ra, rb, rr, ab = R3S2Invariants()(r, a, b).unbind(-1)
    one = torch.ones_like(ra)
    # Three vectors with these products, made from nothing but the four numbers.
    g = torch.stack([rr, ra, rb, ra, one, ab, rb, ab, one], -1).view(-1, 3, 3)
    assert torch.allclose(g, gram(r, a, b))
    made = torch.linalg.cholesky(g).mT
    assert congruent(made, torch.stack([r, a, b], -1)) < 1e-10


def test_the_three_published_numbers_do_not():
    x, y, z = torch.eye(3, dtype=torch.float64)
    published, complete = PublishedR3S2Invariants(), R3S2Invariants()
    assert torch.equal(published(x, z, x), published(x, z, y))
    assert not torch.equal(complete(x, z, x), complete(x, z, y))
    assert congruent(torch.stack([x, z, x], -1), torch.stack([x, z, y], -1)) > 0.1


def test_the_numbers_of_r2s1_determine_the_pair():
    generator = torch.Generator().manual_seed(2)
    kind = R2S1Invariants()
    r, a, b = points(kind, generator)
    along, across, cos, sin = kind(r, a, b).unbind(-1)
    frame = torch.stack([a, torch.stack([-a[:, 1], a[:, 0]], -1)], -1)
    for given, made in ((r, (along, across)), (b, (cos, sin))):
        assert (
            (frame @ torch.stack(made, -1).unsqueeze(-1)).squeeze(-1) - given
        ).abs().max() < 1e-12


def test_left_and_right_turns_differ():
    o = torch.tensor([1.0, 0.0])
    left, right = (torch.tensor([math.cos(0.7), s * math.sin(0.7)]) for s in (1, -1))
    r = torch.tensor([1.0, 2.0])
    assert not torch.equal(R2S1Invariants()(r, o, left), R2S1Invariants()(r, o, right))


def test_the_numbers_of_se3_determine_the_pair():
    generator = torch.Generator().manual_seed(3)
    kind = SE3Invariants()
    r, a, b = points(kind, generator)
    position, turn = kind(r, a, b).split([3, 9], -1)
    assert ((a @ position.unsqueeze(-1)).squeeze(-1) - r).abs().max() < 1e-12
    assert (a @ turn.view(-1, 3, 3) - b).abs().max() < 1e-12


@pytest.mark.parametrize(("kind", "dim"), [(R2Invariants(), 2), (R3Invariants(), 3)])
def test_the_distance_determines_two_points(kind, dim):
    generator = torch.Generator().manual_seed(4)
    r, _, _ = points(kind, generator)
    made = torch.zeros_like(r)
    made[:, :1] = kind(r)
    assert congruent(made.unsqueeze(-1), r.unsqueeze(-1)) < 1e-12


def test_attributes_by_hand():
    r, o = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([0.0, 0.0, 1.0])
    assert published_attributes(r, o).tolist() == [4.0, 3.0]
    assert smooth_attributes(r, o).tolist() == [4.0, 9.0]
