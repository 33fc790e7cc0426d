"""MACE with gates on the paths of its convolutions."""

import pytest
import torch
from ase.build import bulk, molecule

from equiv.cli.main import main
from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate
from equiv.models import LongRangeModel, build_model
from equiv.models.compiled.programs import Programs
from equiv.models.file import load_model
from equiv.nn.path_gate import Phase
from equiv.train import run

SHAPE = {
    "elements": ["O", "H", "Cu"],
    "cutoff": 4.0,
    "channels": 8,
    "hidden_degree": 2,
    "edge_degree": 2,
    "layers": 2,
    "correlation": 2,
    "radial_hidden": [8, 8],
    "mean_neighbors": 3.0,
    "reference_energies": {"H": -13.6, "O": -432.0, "Cu": 0.0},
}
PHASES = {"random_until": 2, "fixed_from": 4}


def made(step=0, **changes):
    model = build_model("mace", seed=0, dtype=torch.float64, **{**SHAPE, **PHASES, **changes})
    for layer in model.layers:
        if layer.thinned is not None:
            g = torch.Generator().manual_seed(1)
            scores = layer.thinned.gate.scores
            scores.data.copy_(0.5 + torch.rand(len(scores), generator=g))
    for t in range(step):
        model.advance(t + 1)
    return model.eval()


@pytest.fixture(params=["small", "large"])
def batch(request):
    """Too small for the kernels of a convolution, and large enough."""
    crystal = bulk("Cu", cubic=True) * ((3, 3, 3) if request.param == "large" else (1, 1, 1))
    crystal.rattle(0.1, seed=0)
    water = molecule("H2O")
    water.rattle(0.1, seed=0)
    return collate([AtomGraph.from_atoms(atoms, 4.0) for atoms in (crystal, water)])


def same(one, two, batch, atol=1e-10):
    a, b = one(batch), two(batch)
    torch.testing.assert_close(a.energy, b.energy, atol=atol, rtol=0)
    torch.testing.assert_close(a.forces, b.forces, atol=atol, rtol=0)


def test_a_gate_that_keeps_all_paths_changes_nothing(batch):
    dense, gated = made(), made(sparsity=1e-6)
    gate = gated.layers[1].thinned.gate
    assert gated.layers[0].thinned is None  # one path leads to each degree: no choice
    gate.scores.data.fill_(0.7)
    weights = {k: x for k, x in gated.state_dict().items() if k in dense.state_dict()}
    dense.load_state_dict(weights)
    assert len(gate.selection) == len(gated.layers[1].convolution.paths) == 11
    same(dense, gated, batch)


def test_dropped_paths_count_as_nothing_and_are_not_computed(batch):
    """Fixed against masked, which is what the random and the adaptive phase compute."""
    fixed, masked = made(9, sparsity=0.6), made(3, sparsity=0.6)
    assert (fixed.stage, masked.stage) == (Phase.FIXED, Phase.ADAPTIVE)
    assert fixed.kept_paths == {"layers.1.convolution": (5, 11)} == masked.kept_paths
    same(fixed, masked, batch)
    assert fixed.layers[1].thinned.kept.weight_numel == 5 * 8
    assert fixed.state_dict().keys() == masked.state_dict().keys()


def test_messages_keep_their_variance():
    """Mixed with unit weights, n paths of unit variance give n; so must those that are left."""
    layer = made(9, sparsity=0.6).layers[1]
    factors, paths = layer.thinned.factors().detach(), layer.convolution.paths
    for degree in range(3):
        all_paths = [p for p, path in enumerate(paths) if path[2] == degree]
        mine = [n for n, p in enumerate(layer.thinned.gate.selection) if p in all_paths]
        assert len(mine) < len(all_paths)
        assert float(factors[mine].square().sum()) == pytest.approx(len(all_paths))


def test_fixed_gates_leave_the_optimizer_alone_and_dropped_weights_without_gradient(batch):
    model = made(9, sparsity=0.6).train()
    prediction = model(batch)
    (prediction.energy.sum() + prediction.forces.square().sum()).backward()
    layer = model.layers[1]
    kept = layer.thinned.gate.kept.repeat_interleave(8)
    last = layer.radial_mlp.weights[-1].grad
    assert (last[:, ~kept] == 0).all()
    assert (last[:, kept] != 0).any(0).all()
    assert (layer.thinned.gate.scores.grad != 0).sum() >= 3


def test_an_exported_model_predicts_the_same(batch, tmp_path):
    model = made(9, sparsity=0.6)
    model.save(tmp_path / "model.safetensors")
    words = [
        "export",
        str(tmp_path / "model.safetensors"),
        "-o",
        str(tmp_path / "small.safetensors"),
    ]
    assert main(words) == 0
    small = load_model(tmp_path / "small.safetensors")
    same(model, small, batch)
    numbers = [sum(p.numel() for p in m.parameters()) for m in (model, small)]
    assert numbers[1] == numbers[0] - 11 - 6 * (8 * 8 + 8 * 8)  # scores, radial weights, linear
    assert small.schedule is None
    assert small.compact() is small
    with pytest.raises(EquivError, match="its gates are still random; train it to step 4"):
        made(1, sparsity=0.6).compact()


def test_a_long_range_model_hands_its_short_range_model_on():
    recipe = {**SHAPE, **PHASES, "sparsity": 0.6}
    long_range = {"charges": "learned", "tolerance": 1e-3}
    model = LongRangeModel("mace", long_range=long_range, **recipe).double().eval()
    for t in range(4):
        model.advance(t + 1)
    small = model.compact()
    assert model.stage == Phase.FIXED
    assert model.kept_paths == {"layers.1.convolution": (5, 11)}
    water = collate([AtomGraph.from_atoms(molecule("H2O"), 4.0)])
    torch.testing.assert_close(model(water).energy, small(water).energy, atol=1e-9, rtol=0)


def test_gated_models_are_not_compiled():
    said = []
    assert not Programs(made(9, sparsity=0.6), said.append).possible()
    assert "sparse gates choose what it computes; export it first" in said[0]


def test_other_products_have_no_paths_to_drop():
    with pytest.raises(EquivError, match="sparsity must be 0 for this product"):
        made(sparsity=0.5, product="gaunt_grid")


def test_a_recipe_takes_the_gates_through_their_phases(tmp_path):
    from ase.calculators.emt import EMT

    structures = []
    for seed in range(6):
        crystal = bulk("Cu", cubic=True)
        crystal.rattle(0.1, seed=seed)
        crystal.calc = EMT()
        crystal.get_forces()
        structures.append(crystal)
    import ase.io

    ase.io.write(tmp_path / "data.xyz", structures, format="extxyz")
    result = run(
        {
            "data": {"train": str(tmp_path / "data.xyz"), "valid_fraction": 0.2},
            "model": {
                "name": "mace", "cutoff": 4.0, "channels": 4, "hidden_degree": 1,
                "edge_degree": 2, "correlation": 2, "radial_hidden": [8], "sparsity": 0.5,
                "random_until": 3, "fixed_from": 6,
            },
            "train": {"epochs": 3, "batch_size": 1, "threads": 1},
            "output": str(tmp_path / "run"),
        },
        report=False,
    )  # fmt: skip
    model = load_model(result.model)
    assert model.stage == Phase.FIXED
    (kept, total), *_ = model.kept_paths.values()
    assert kept == -(-total // 2)
    assert len(list(model.compact().layers[1].convolution.paths)) == kept
