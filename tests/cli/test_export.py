"""`equiv export`."""

import pytest
import torch

from equiv.hamiltonian import BlockLayout, OrbitalBasis
from equiv.hamiltonian.batch import HamiltonianBatch
from equiv.models import SPHNet
from equiv.models.file import load_model

BASIS = OrbitalBasis("some", {1: (0,), 8: (0, 0, 1)})
SHAPE = {"channels": 8, "hidden": 8, "vectorial_layers": 0, "mean_neighbors": 4.0}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Write a model that has trained for so many steps, of which four are needed."""
    monkeypatch.chdir(tmp_path)

    def save(step, **changes):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = SPHNet(BASIS, random_until=2, fixed_from=4, **{**SHAPE, **changes}).double()
            for gate in model.gates:
                gate.scores.data.add_(0.1 * torch.rand(len(gate.scores)))
        for t in range(step):
            model.advance(t + 1)
        model.save("model.safetensors")

    return save


def predicted(path):
    g = torch.Generator().manual_seed(0)
    numbers = torch.tensor([8, 1, 1, 8, 1])
    positions = torch.randn(5, 3, generator=g, dtype=torch.float64)
    index = torch.zeros(5, dtype=torch.long)
    layout = BlockLayout.build(BASIS, numbers, index)
    with torch.no_grad():
        return dict(load_model(path)(HamiltonianBatch(numbers, positions, index, layout)).items())


def test_the_exported_model_predicts_the_same_from_a_smaller_file(saved, tmp_path, equiv):
    saved(9, sparsity=0.7)
    code, output, errors = equiv("export", "model.safetensors", "-o", "small.safetensors")
    assert (code, errors) == (0, "")
    assert "diagonal.1               4 of 13 paths kept" in output
    assert "small.safetensors: " in output
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("model", "small")]
    assert sizes[1] < 0.95 * sizes[0]
    one, two = predicted("model.safetensors"), predicted("small.safetensors")
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    code, output, _ = equiv("export", "small.safetensors", "-o", "smaller.safetensors")
    assert code == 0
    assert "nothing to drop" in output


def test_gates_that_are_not_fixed_yet_are_refused(saved, refused):
    saved(3, sparsity=0.7)
    complaint = refused("export", "model.safetensors", "-o", "small.safetensors")
    assert (
        "its gates are still adaptive; train it to step 4 first, where they are fixed" in complaint
    )


def test_a_model_without_gates_has_nothing_to_drop(folder, equiv):
    code, output, _ = equiv("export", "model.safetensors", "-o", "small.safetensors")
    assert code == 0
    assert "nothing to drop, this mace model computes all that is in its file" in output
    assert not (folder / "small.safetensors").exists()


def test_an_existing_file_is_not_replaced_unasked(saved, refused, equiv):
    saved(9, sparsity=0.7)
    words = ("export", "model.safetensors", "-o", "small.safetensors")
    assert equiv(*words)[0] == 0
    assert "replace it with --overwrite" in refused(*words)
    assert equiv(*words, "--overwrite")[0] == 0
    assert "is an input" in refused("export", "model.safetensors", "-o", "model.safetensors")
