import copy
import shutil

import pytest
import torch

from equiv.errors import EquivError
from equiv.models.compiled import program, worth
from equiv.models.compiled.evaluation import CompiledEvaluation
from equiv.models.compiled.program import CODE, Program, missing_compiler

from .small import make_batch, make_model

needs_compiler = pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
SIZES = [(0, 0), (2,), (1, 2, 0), (0, 0, 0, 0, 0), (3,)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder for compiled programs, shared by the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("EQUIV_CACHE_DIR", str(folder))
        yield folder


def compiled(model, said):
    return CompiledEvaluation(model.eval(), said.append)


@needs_compiler
def test_one_graph_serves_all_sizes_and_later_runs_take_it_from_the_cache(cache):
    said, model = [], make_model()
    evaluate = compiled(model, said)
    for sizes in SIZES:
        batch = make_batch(*sizes)
        expected, got = model(batch, stress=True), evaluate(batch, stress=True)
        torch.testing.assert_close(got.energy, expected.energy, rtol=0, atol=1e-5)
        for name in ("energies", "forces", "virials", "stress"):
            x, y = getattr(got, name), getattr(expected, name)
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert evaluate.programs.graphs == evaluate.programs.compiled == 1, said
    assert "compiled in" in said[-1]

    with torch.no_grad():  # other weights, same program
        for weight in model.parameters():
            weight.mul_(1.1)
    again = compiled(model, said)
    got, expected = again(make_batch(2), stress=True), model(make_batch(2), stress=True)
    torch.testing.assert_close(got.forces, expected.forces, rtol=1e-4, atol=1e-5)
    assert (again.programs.loaded, again.programs.compiled) == (1, 0)


@needs_compiler
def test_code_that_disagrees_is_refused_with_the_numbers(cache, monkeypatch, tmp_path):
    def wrong(self, tensors):
        outputs = right(self, tensors)
        outputs["forces"] = 1.01 * outputs["forces"]
        return outputs

    def build_the_same_again(graph, folder):
        shutil.copytree(kept, folder, dirs_exist_ok=True)

    right = Program.__call__
    (program_file,) = cache.rglob(CODE)
    kept = shutil.copytree(program_file.parent, tmp_path / "kept")
    monkeypatch.setattr(Program, "__call__", wrong)
    monkeypatch.setattr("equiv.models.compiled.programs.build", build_the_same_again)
    said, model = [], make_model()
    evaluate = compiled(model, said)
    batch = make_batch(2)
    got = evaluate(batch, stress=True)
    torch.testing.assert_close(got.forces, model(batch).forces, rtol=0, atol=0)
    assert "disagrees with the model in float64: forces by" in said[-1]
    assert "allowed:" in said[-1]
    assert not list(cache.rglob(CODE))


def test_without_a_compiler_the_reason_is_said_once(monkeypatch):
    monkeypatch.setattr(program, "find_compiler", lambda: None)
    said, model = [], make_model()
    evaluate = compiled(model, said)
    for _ in range(2):
        torch.testing.assert_close(evaluate(make_batch(2)).energy, model(make_batch(2)).energy)
    assert len(said) == 1
    assert "no C++ compiler" in said[0]


def test_what_is_to_be_differentiated_again_is_not_compiled():
    model = make_model()
    model.compile(report=pytest.fail)
    batch = make_batch(0)
    batch.positions.requires_grad_()
    assert model.eval()(batch).forces.requires_grad
    assert model.train()(make_batch(0)).forces.requires_grad


def test_copies_are_not_compiled_and_off_undoes_it():
    model = make_model()
    model.compile()
    assert model._compiled_call_impl is not None
    assert copy.deepcopy(model)._compiled_call_impl is None
    model.compile("off")
    assert model._compiled_call_impl is None
    with pytest.raises(EquivError, match="compile: expected one of 'auto', 'on', 'off'"):
        model.compile("yes")


def test_auto_waits_until_it_pays(monkeypatch):
    asked = []
    monkeypatch.setattr(CompiledEvaluation, "_compiled", lambda *a: asked.append(1))
    monkeypatch.setattr("equiv.models.compiled.programs.missing_compiler", lambda: None)
    evaluate = CompiledEvaluation(make_model().eval(), [].append, after=worth.work(3, 6))
    for _ in range(5):
        evaluate(make_batch(0, 0))
    assert len(asked) == 2
