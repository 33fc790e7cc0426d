"""Gates keep what they say, learn by what they keep, and are the same wherever they are."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from equiv.errors import EquivError
from equiv.hamiltonian.coupling_paths import coupling_paths
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.gates import PairGate, ranks
from equiv.nn.path_gate import PathGate, Phase

PATHS = coupling_paths(Degrees.up_to(4), Degrees.up_to(4), Degrees((0, 1, 2, 3, 4), (1, 2, 3)))


@dataclass(frozen=True)
class Single:
    """Paths to one output, so that coverage never matters."""

    out: int = 0
    degrees: tuple[int, int, int] = (0, 0, 0)
    cost: int = 1


def test_the_number_of_kept_paths_is_what_the_sparsity_says():
    for k, kept in ((0.0, len(PATHS)), (0.3, 42), (0.5, 30), (0.7, 18)):
        gate = PathGate(PATHS, k)
        assert len(gate.selection) == int(gate.kept.sum()) == kept


@pytest.mark.parametrize("phase", [Phase.RANDOM, Phase.ADAPTIVE])
@pytest.mark.parametrize("k", [0.5, 0.7, 0.85])
def test_every_output_keeps_a_path(phase, k):
    gate = PathGate(PATHS, k, seed=3)
    for step in range(40):
        with torch.no_grad():
            gate.scores.copy_(torch.randn(len(PATHS)))
        gate.update(phase, step)
        assert {PATHS[p].out for p in gate.selection} == {path.out for path in PATHS}


def test_random_choices_are_uniform():
    gate = PathGate([Single()] * 20, 0.7, seed=1)
    counts, draws = np.zeros(20), 2000
    for step in range(draws):
        gate.update(Phase.RANDOM, step)
        counts[list(gate.selection)] += 1
    expected = draws * 6 / 20
    # Draws without replacement: the variance is (1 - 6/20) of the binomial's.
    chi_squared = ((counts - expected) ** 2 / (expected * (1 - 6 / 20))).sum() * 19 / 20
    assert 6 < chi_squared < 44  # 0.2 % and 99.9 % points with 19 degrees of freedom


def test_random_choices_follow_from_seed_layer_and_step():
    def choice(seed, layer, step):
        gate = PathGate(PATHS, 0.7, seed=seed, layer=layer)
        torch.manual_seed(step)  # must not matter
        gate.update(Phase.RANDOM, step)
        return gate.selection

    assert choice(1, 2, 3) == choice(1, 2, 3)
    assert len({choice(1, 2, 3), choice(2, 2, 3), choice(1, 3, 3), choice(1, 2, 4)}) == 4


def test_the_largest_scores_are_kept():
    gate = PathGate([Single()] * 10, 0.7)
    with torch.no_grad():
        gate.scores.copy_(torch.tensor([0.1, -3.0, 0.2, 2.0, 0.0, 1.0, 0.5, 0.4, 0.3, -0.2]))
    gate.update(Phase.ADAPTIVE, 1)
    assert gate.selection == (1, 3, 5)


def test_a_fixed_gate_stays():
    gate = PathGate(PATHS, 0.7)
    gate.update(Phase.FIXED, 5)
    before = gate.selection
    with torch.no_grad():
        gate.scores.copy_(torch.randn(len(PATHS)))
    gate.update(Phase.ADAPTIVE, 6)
    gate.update(Phase.RANDOM, 7)
    assert gate.selection == before
    assert int(gate.phase) == Phase.FIXED


def test_scores_of_dropped_paths_have_no_gradient():
    gate = PathGate(PATHS, 0.7)
    with torch.no_grad():
        gate.scores.add_(0.3 * torch.rand(len(PATHS)))
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(len(gate.selection), generator=g)
    (gate.coefficients() * weights).sum().backward()
    grad, kept = gate.scores.grad, gate.kept
    assert (grad[~kept] == 0).all()
    outs = [PATHS[p].out for p in gate.selection]
    moving = [p for p in gate.selection if outs.count(PATHS[p].out) > 1]
    assert (grad[moving] != 0).all()  # a path that is alone at its output has factor sqrt(2l + 1)


def test_factors_keep_the_variance():
    gate = PathGate(PATHS, 0.7)
    with torch.no_grad():
        gate.scores.copy_(0.5 + torch.rand(len(PATHS)))
    factors = gate.coefficients().detach()
    for out in range(8):
        mine = [n for n, p in enumerate(gate.selection) if PATHS[p].out == out]
        width = 2 * PATHS[gate.selection[mine[0]]].degrees[2] + 1
        torch.testing.assert_close(factors[mine].square().sum(), torch.tensor(float(width)))


def test_a_budget_of_operations_is_not_exceeded():
    total = sum(path.cost for path in PATHS)
    for k in (0.3, 0.5, 0.7):
        gate = PathGate(PATHS, k, budget="flops")
        for step in range(10):
            gate.update(Phase.RANDOM, step)
            spent = sum(PATHS[p].cost for p in gate.selection)
            assert spent <= (1 - k) * total
            assert gate.cost_share() == pytest.approx(spent / total)
            assert spent > 0.9 * (1 - k) * total


def test_the_choice_travels_with_the_state():
    gate, other = PathGate(PATHS, 0.7), PathGate(PATHS, 0.7)
    gate.update(Phase.RANDOM, 17)
    assert gate.selection != other.selection
    other.load_state_dict(gate.state_dict())
    assert gate.selection == other.selection


def test_wrong_arguments_are_named():
    with pytest.raises(EquivError, match="sparsity: expected the share that is dropped"):
        PathGate(PATHS, 1.0)
    with pytest.raises(EquivError, match="budget: expected 'paths' or 'flops'"):
        PathGate(PATHS, 0.5, budget="time")
    with pytest.raises(EquivError, match="width > 0"):
        PairGate(3, 0.5, width=0)


# Pairs.


def molecule(atoms, seed, invariants=4):
    g = torch.Generator().manual_seed(seed)
    pairs = atoms * (atoms - 1) // 2
    return torch.randn(pairs, invariants, generator=g, dtype=torch.float64)


def together(*molecules):
    sizes = {3: 3, 6: 4, 15: 6, 28: 8, 45: 10}
    counts = torch.tensor([sizes[len(m)] for m in molecules])
    pairs = torch.tensor([len(m) for m in molecules])
    batch = torch.arange(len(molecules)).repeat_interleave(pairs)
    invariants = torch.cat(molecules)
    return invariants, invariants[:, 0].exp(), batch, counts  # any function for distances


def adaptive(k=0.7, phase=Phase.ADAPTIVE):
    gate = PairGate(4, k).double()
    with torch.no_grad():
        gate.scores.copy_(torch.tensor([1.0, -0.5, 2.0, 0.7]))
        gate.reach.fill_(0.2)
    gate.update(phase, 1)
    return gate.eval()


def test_ranks_are_within_groups():
    values = torch.tensor([1.0, 5.0, 3.0, 2.0, 4.0])
    rank = ranks(values, torch.tensor([0, 1, 0, 1, 0]), torch.tensor([3, 2]))
    assert rank.tolist() == [2, 0, 1, 1, 0]


@pytest.mark.parametrize("phase", [Phase.ADAPTIVE, Phase.FIXED])
def test_batch_mates_do_not_matter(phase):
    gate = adaptive(phase=phase)
    molecules = [molecule(n, n) for n in (8, 3, 10, 6)]
    index, weight = gate(*together(*molecules))
    start = 0
    for one in molecules:
        mine, own = gate(*together(one))
        mine = torch.arange(len(one)) if mine is None else mine
        own = torch.ones(len(mine), dtype=torch.float64) if own is None else own
        here = (index >= start) & (index < start + len(one))
        assert torch.equal(index[here] - start, mine)
        torch.testing.assert_close(weight[here], own, rtol=0, atol=1e-15)
        start += len(one)


def test_small_molecules_keep_all_pairs():
    assert adaptive()(*together(molecule(3, 0))) == (None, None)
    index, weight = adaptive()(*together(molecule(8, 1), molecule(3, 0)))
    assert index[-3:].tolist() == [28, 29, 30]
    assert (weight[-3:] == 1).all()


@pytest.mark.parametrize(("k", "kept"), [(0.99, 10), (0.7, 14), (0.3, 32), (0.0, 45)])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_share_is_kept_whatever_the_scores_are(k, kept, scale):
    gate = adaptive(k)
    with torch.no_grad():
        gate.scores.mul_(scale)
    index, _ = gate(*together(molecule(10, 0)))
    assert (45 if index is None else len(index)) == kept


def test_weights_are_continuous():
    """Along a line through scores the weight of no pair has a jump, though pairs change places."""
    gate, start, end = adaptive(), molecule(6, 1), molecule(6, 2)

    def weights(t):
        index, weight = gate(*together((1 - t) * start + t * end))
        return torch.zeros(15, dtype=torch.float64).index_copy(0, index, weight)

    for steps, most in ((1000, 0.03), (4000, 0.0075)):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        values = torch.stack([weights(t) for t in times]).detach()
        assert ((values == 0).any(0) & (values > 0).any(0)).any()  # pairs do come and go
        assert values.diff(dim=0).abs().max() < most


def test_dropped_pairs_have_no_gradient():
    gate = adaptive()
    invariants, distances, batch, counts = together(molecule(8, 4))
    invariants.requires_grad_()
    index, weight = gate(invariants, distances, batch, counts)
    weight.sum().backward()
    dropped = torch.ones(28, dtype=torch.bool)
    dropped[index] = False
    score = invariants @ gate.scores / 2 - gate.reach * distances
    dropped[torch.topk(score, 10).indices[-1]] = False  # the first that is dropped is the threshold
    assert dropped.any()
    assert (invariants.grad[dropped] == 0).all()
    assert gate.scores.grad.abs().max() > 0


def test_gradients_are_those_of_the_formula():
    gate = adaptive()
    invariants, distances, batch, counts = together(molecule(8, 4), molecule(3, 1), molecule(10, 5))
    leaves = (invariants, distances, gate.scores, gate.reach)
    for x in leaves:
        x.requires_grad_()
    index, weight = gate(invariants, distances, batch, counts)
    pull = torch.randn(len(weight), generator=torch.Generator().manual_seed(1)).double()
    found = torch.autograd.grad((weight * pull).sum(), leaves)

    score = invariants @ gate.scores / 2 - gate.reach * distances
    total, seen = torch.zeros((), dtype=torch.float64), 0
    for m, atoms in enumerate(counts.tolist()):
        mine = torch.nonzero(batch == m).squeeze(-1)
        kept = max(atoms, math.ceil((1 - gate.sparsity) * len(mine) - 1e-9))
        height = torch.ones(len(mine), dtype=torch.float64)
        if kept < len(mine):
            limit = score[mine].sort(descending=True).values[kept]
            height = ((score[mine] - limit) / gate.width).clamp(0, 1)
        g = height**2 * (3 - 2 * height)
        here = batch[index] == m
        assert torch.equal(mine[g > 0], index[here])
        torch.testing.assert_close(weight[here], g[g > 0])
        total, seen = total + (g[g > 0] * pull[here]).sum(), seen + int((g > 0).sum())
    assert seen == len(index)
    for came, expected in zip(found, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(came, expected)


def test_in_the_random_phase_training_keeps_the_share_and_evaluation_all():
    gate = adaptive(phase=Phase.RANDOM)
    given = together(molecule(10, 0), molecule(3, 1), molecule(8, 2))
    assert gate(*given) == (None, None)
    gate.train()
    chosen = set()
    for step in range(1, 20):
        gate.update(Phase.RANDOM, step)
        index, weight = gate(*given)
        assert weight is None
        per_molecule = torch.bincount(given[2][index], minlength=3).tolist()
        assert per_molecule == [14, 3, 9]
        again, _ = gate(*given)
        assert torch.equal(index, again)
        chosen.add(tuple(index.tolist()))
    assert len(chosen) > 15
