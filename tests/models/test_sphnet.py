"""SPHNet: symmetries, gates, and what a model file keeps."""

import copy

import pytest
import torch
from e3nn import o3

from equiv.errors import EquivError, UnknownElementError
from equiv.hamiltonian import (
    Batcher,
    BlockLayout,
    OrbitalBasis,
    blocks_from_matrices,
    matrices_from_blocks,
)
from equiv.hamiltonian.batch import HamiltonianBatch
from equiv.hamiltonian.orbitals import rotate_orbitals
from equiv.models import SPHNet
from equiv.models.file import load_model

BASIS = OrbitalBasis("some", {1: (0, 1), 6: (0, 0, 1), 8: (0, 1, 2)})
SHAPE = {
    "channels": 8,
    "degree": 3,
    "hidden": 8,
    "num_radial": 6,
    "cutoff": 3.0,
    "pair_cutoff": 9.0,
    "vectorial_layers": 1,
    "random_until": 2,
    "fixed_from": 4,
    "mean_neighbors": 3.0,
}
FORMALDEHYDE = [6, 8, 1, 1, 1, 6]


def molecule(numbers=FORMALDEHYDE, seed=0):
    g = torch.Generator().manual_seed(seed)
    positions = 1.3 * torch.randn(len(numbers), 3, generator=g, dtype=torch.float64)
    return torch.tensor(numbers), positions


def batch(*molecules):
    numbers, positions = (torch.cat(parts) for parts in zip(*molecules, strict=True))
    sizes = torch.tensor([len(z) for z, _ in molecules])
    index = torch.arange(len(molecules)).repeat_interleave(sizes)
    return HamiltonianBatch(numbers, positions, index, BlockLayout.build(BASIS, numbers, index))


def made(step=9, seed=0, **changes):
    """As after training: no parameter has a special value, scales are those of some matrices."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SPHNet(BASIS, **{**SHAPE, **changes}).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    layout = batch(molecule(), molecule([1, 8, 6, 1])).layout
    model.standardisation.fit([blocks_from_matrices(random_matrices(layout, seed), layout)])
    for t in range(step):
        model.advance(t + 1)
    return model.eval()


def random_matrices(layout, seed=0):
    g = torch.Generator().manual_seed(seed)
    found = [torch.randn(n, n, generator=g, dtype=torch.float64) for n in layout.orbitals]
    return [x + x.mT for x in found]


def matrices(model, *molecules):
    given = batch(*molecules)
    return matrices_from_blocks(model(given), given.layout)


@pytest.mark.parametrize(("sparsity", "layers"), [(0.0, 1), (0.7, 1), (0.7, 3)])
def test_the_matrix_turns_with_the_molecule(sparsity, layers):
    model = made(sparsity=sparsity, vectorial_layers=layers)
    numbers, positions = molecule()
    (h,) = matrices(model, (numbers, positions))
    assert h.abs().mean() > 0.05
    assert torch.equal(h, h.mT)
    shells = BASIS.molecule_shells(numbers.tolist())
    rotation = o3.rand_matrix(dtype=torch.float64)
    for matrix in (rotation, -rotation, -torch.eye(3, dtype=torch.float64)):
        d = rotate_orbitals(shells, matrix)
        (turned,) = matrices(model, (numbers, positions @ matrix.mT + 0.3))
        torch.testing.assert_close(turned, d @ h @ d.mT, rtol=0, atol=1e-11)


def test_so3_features_turn_but_do_not_reflect():
    model = made(parity="so3")
    numbers, positions = molecule()
    (h,) = matrices(model, (numbers, positions))
    shells = BASIS.molecule_shells(numbers.tolist())
    rotation = o3.rand_matrix(dtype=torch.float64)
    d = rotate_orbitals(shells, rotation)
    (turned,) = matrices(model, (numbers, positions @ rotation.mT))
    torch.testing.assert_close(turned, d @ h @ d.mT, rtol=0, atol=1e-11)
    d = rotate_orbitals(shells, -rotation)
    (reflected,) = matrices(model, (numbers, -positions @ rotation.mT))
    assert (reflected - d @ h @ d.mT).abs().max() > 1e-3


@pytest.mark.parametrize("layers", [1, 2, 4, 8])
def test_features_do_not_grow_with_the_number_of_layers(layers):
    # They did, doubly exponentially: the invariants of a new network with eight layers were at 1e9.
    torch.manual_seed(0)
    model = SPHNet(BASIS, **{**SHAPE, "channels": 32, "vectorial_layers": layers}).eval()
    seen = []

    def keep(_module, inputs, out):
        seen.extend(x.square().mean().sqrt().item() for x in (inputs[0], out))

    for layer in model.pairs:
        layer.invariants.register_forward_hook(keep)
    with torch.no_grad():
        model(batch(molecule()))
    assert len(seen) == 2 * len(model.pairs)
    assert min(seen) > 0.05
    assert max(seen) < 5


@pytest.mark.parametrize("step", [1, 3, 9])
def test_atoms_may_be_named_in_any_order(step):
    model = made(step)
    numbers, positions = molecule()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    (h,) = matrices(model, (numbers, positions))
    (moved,) = matrices(model, (numbers[order], positions[order]))
    starts, orbitals = 0, []
    for z in numbers.tolist():
        orbitals.append(torch.arange(starts, starts + BASIS.orbitals(z)))
        starts += BASIS.orbitals(z)
    index = torch.cat([orbitals[i] for i in order])
    torch.testing.assert_close(moved, h[index][:, index], rtol=0, atol=1e-11)


@pytest.mark.parametrize("step", [1, 3, 9])
def test_a_molecule_does_not_see_its_batch_mates(step):
    model = made(step)
    molecules = [molecule(), molecule([8, 1, 1], 1), molecule([1, 6, 6, 8, 1, 1, 1], 2)]
    for one, h in zip(molecules, matrices(model, *molecules), strict=True):
        torch.testing.assert_close(matrices(model, one)[0], h, rtol=0, atol=1e-11)


def test_the_matrix_is_continuous_where_a_pair_is_dropped():
    """Bisect for the place where the gate lets a pair go, and look at both sides of it."""
    model = made()
    gate = model.pairs[0].pair_gate
    numbers, start = molecule([6, 8, 1, 1, 1, 6, 1, 1], 3)
    end = start + 0.4 * molecule([6, 8, 1, 1, 1, 6, 1, 1], 4)[1]
    kept = []
    gate.register_forward_hook(lambda *args: kept.append(set(args[-1].rows.tolist())))

    def at(t):
        (h,) = matrices(model, (numbers, (1 - t) * start + t * end))
        return h, kept[-1]

    steps = torch.linspace(0, 1, 60, dtype=torch.float64).tolist()
    sets = [at(t)[1] for t in steps]
    crossing = next(n for n in range(59) if sets[n] != sets[n + 1])
    low, high = steps[crossing], steps[crossing + 1]
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if at(middle)[1] == at(low)[1] else (low, middle)
    below, above = at(low), at(high)
    assert below[1] != above[1]
    assert (below[0] - above[0]).abs().max() < 1e-6


def test_gradients_reach_everything_that_is_kept_and_nothing_else():
    model = made(cutoff=8.0).train()
    given = batch(*(molecule([6, 8, 1, 1, 1, 6, 1, 6, 1], seed) for seed in range(2)))
    model.standardised(given).flat().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    for layer in model.pairs:
        rows, kept = layer.weights.rows.grad.abs().sum((1, 2)), layer.paths.gate.kept
        assert (rows[~kept] == 0).all()
        assert (rows[kept] > 0).all()


def trained(model, steps, start=0):
    """Losses of a small training, and the model and optimizer after it."""
    given = batch(molecule(), molecule([8, 1, 1, 6, 6], 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return given, optimizer, [step(model, given, optimizer, t) for t in range(start, steps)]


def step(model, given, optimizer, t):
    loss = (model.train().standardised(given).flat() - 0.3).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.advance(t + 1)
    return loss.item()


@pytest.mark.parametrize("stop", [2, 7, 12])
def test_a_model_resumed_in_any_phase_goes_on_the_same(stop):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SPHNet(BASIS, **{**SHAPE, "random_until": 5, "fixed_from": 10})
    given, optimizer, _ = trained(model, stop)
    assert model.stage == {2: 0, 7: 1, 12: 2}[stop]
    states = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected = [step(model, given, optimizer, t) for t in range(stop, stop + 20)]
    again = SPHNet(**model.recipe)
    optimizer = torch.optim.Adam(again.parameters(), lr=1e-2)
    again.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    again.advance(stop)
    assert [step(again, given, optimizer, t) for t in range(stop, stop + 20)] == expected
    assert len(set(expected)) == 20


def test_a_model_file_keeps_the_gates(tmp_path):
    model = made()
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    one = molecule()
    torch.testing.assert_close(matrices(again, one)[0], matrices(model, one)[0], rtol=0, atol=0)
    assert [g.selection for g in again.gates if hasattr(g, "selection")] == [
        g.selection for g in model.gates if hasattr(g, "selection")
    ]


def test_an_exported_model_is_smaller_and_the_same(tmp_path):
    model = made()
    small = model.compact()
    one = molecule()
    torch.testing.assert_close(matrices(small, one)[0], matrices(model, one)[0], rtol=0, atol=1e-12)
    rows = [layer.weights.rows.shape[0] for layer in small.pairs]
    assert rows == [len(layer.paths.gate.selection) for layer in model.pairs]
    model.save(tmp_path / "all.safetensors")
    small.save(tmp_path / "small.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("all", "small")]
    assert sizes[1] < 0.9 * sizes[0]
    again = load_model(tmp_path / "small.safetensors")
    torch.testing.assert_close(matrices(again, one)[0], matrices(model, one)[0], rtol=0, atol=1e-12)
    with pytest.raises(EquivError, match="fixed"):
        made(1).compact()


def test_no_labels_are_needed_and_unknown_elements_are_named():
    model = made()
    numbers, positions = molecule([8, 1, 1])
    batcher = Batcher(BASIS, "minao")
    assert batcher is not None
    assert matrices(model, (numbers, positions))[0].shape == (17, 17)
    with pytest.raises(UnknownElementError):
        matrices(model, molecule([7, 1]))


def test_one_atom_is_a_molecule():
    (h,) = matrices(made(), molecule([8]))
    assert h.shape == (9, 9)
    assert torch.isfinite(h).all()


def test_wrong_arguments_are_named():
    with pytest.raises(EquivError, match="channels must be a multiple of 4; got 6"):
        SPHNet(BASIS, channels=6, mean_neighbors=2.0)
    some = {**SHAPE, "pair_layers": 1}
    with pytest.raises(
        EquivError, match=r"selected must be the paths of 3 products.*; got those of 2"
    ):
        SPHNet(BASIS, **some, selected=[[0], [0]])
    with pytest.raises(EquivError, match=r"product 0 has paths 0 to 22, got \[0, 999\]"):
        SPHNet(BASIS, **some, selected=[[0, 999], [0], [0]])
    with pytest.raises(EquivError, match="parity: expected one of 'o3', 'so3'"):
        SPHNet(BASIS, parity="o4", mean_neighbors=2.0)
