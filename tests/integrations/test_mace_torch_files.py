"""Whole ``.model`` files of mace-torch, against numbers that mace-torch itself computed.

The files come from ``make_mace_torch_reference.py`` next to this one. With ``EQUIV_MACE_PYTHON``
naming the Python of an environment with mace-torch, the two programs are also run side by side.
"""

import lzma
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate
from equiv.integrations.ase import EquivCalculator
from equiv.integrations.mace_torch.comparison import compare_with_mace_torch
from equiv.integrations.mace_torch.conversion import convert_mace_torch
from equiv.models import MACE, VariantMACE
from equiv.models.file import load_model, read_header

from .test_mace_torch import STRUCTURES, read

REFERENCE = Path(__file__).parent / "reference"
HEADS = {"heads": "high", "density": None, "gated": "high", "single": None}


@pytest.fixture(autouse=True)
def no_unpickling(monkeypatch):
    """Python's unpickler and torch's loader are out of reach."""

    def refuse(*_, **__):
        raise AssertionError("a pickle was opened by something that runs it")

    for owner, name in ((pickle, "Unpickler"), (pickle, "loads"), (pickle, "load")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch.jit, "load", refuse)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in HEADS:
        raw = lzma.decompress((REFERENCE / f"file_{name}.model.xz").read_bytes())
        (folder / f"{name}.model").write_bytes(raw)
    return {name: folder / f"{name}.model" for name in HEADS}


@pytest.fixture(scope="module")
def structures():
    return read("vectors")[2]


def results(name):
    with safe_open(REFERENCE / f"file_{name}.safetensors", framework="pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return {
        label: {key: found.get(f"result/{label}/{key}") for key in ("energy", "forces", "virials")}
        for label in STRUCTURES
    }


@pytest.mark.parametrize("name", HEADS)
def test_a_file_becomes_a_model_with_the_same_numbers(name, files, structures):
    model = convert_mace_torch(files[name], head=HEADS[name]).model.double()
    # Constants of the single-precision file are rounded in mace-torch and exact in ours.
    tolerance = 1e-6 if name == "single" else 1e-11
    expected = results(name)
    assert max(r["forces"].abs().max() for r in expected.values()) > 0.03
    for label, theirs in expected.items():
        ours = model(collate([AtomGraph.from_atoms(structures[label], 3.5)]), stress=True)
        torch.testing.assert_close(ours.energy, theirs["energy"], rtol=0, atol=tolerance)
        torch.testing.assert_close(ours.forces, theirs["forces"], rtol=0, atol=tolerance)
        torch.testing.assert_close(ours.virials, theirs["virials"], rtol=0, atol=tolerance)


def test_forms_that_mace_has_become_mace_and_others_the_variant(files):
    kinds = {name: type(convert_mace_torch(files[name], head=HEADS[name]).model) for name in HEADS}
    # The readout of `heads` has another activation, all else is usual.
    assert kinds == dict.fromkeys(HEADS, VariantMACE)
    configuration, state, _, _ = read("vectors")
    from equiv.integrations.mace_torch import mace_from_state_dict

    assert type(mace_from_state_dict(state, configuration)) is MACE


def test_a_model_with_several_heads_wants_one_of_them_named(files):
    with pytest.raises(EquivError, match=r"several heads: low, high; name one \(--head\)"):
        convert_mace_torch(files["heads"])
    with pytest.raises(EquivError, match="no head 'middle' in this model; it has low, high"):
        convert_mace_torch(files["heads"], head="middle")


def test_heads_differ(files, structures):
    graph = collate([AtomGraph.from_atoms(structures["molecule"], 3.5)])
    low, high = (convert_mace_torch(files["gated"], head=h).model(graph) for h in ("low", "high"))
    assert (low.forces - high.forces).abs().max() > 1e-3


def test_what_a_user_should_know_is_said(files):
    conversion = convert_mace_torch(files["single"])
    assert len(conversion.notes) == 2
    assert "single precision" in conversion.notes[0]
    assert "not the derivatives of its energy" in conversion.notes[1]
    assert convert_mace_torch(files["density"]).notes == []
    assert convert_mace_torch(files["density"]).residual < 1e-12


def test_a_converted_model_is_a_model_like_any_other(files, structures, tmp_path):
    conversion = convert_mace_torch(files["density"])
    path = tmp_path / "density.safetensors"
    conversion.model.save(path)
    card = read_header(path).card["converted_from"]
    assert card["program"] == "mace-torch"
    assert card["file"] == "density.model"
    assert card["configuration"]["distance_transform"] == "Agnesi"
    atoms = structures["triclinic"].copy()
    atoms.calc = EquivCalculator(load_model(path))
    expected = results("density")["triclinic"]
    assert atoms.get_potential_energy() == pytest.approx(expected["energy"].item(), abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"], atol=1e-10)


def test_a_comparison_without_mace_torch_says_what_to_do(files, structures):
    model = convert_mace_torch(files["density"]).model
    with pytest.raises(EquivError, match="--mace-python"):
        compare_with_mace_torch(model, files["density"], list(structures.values()))
    with pytest.raises(EquivError, match="cannot be run"):
        compare_with_mace_torch(
            model, files["density"], list(structures.values()), python="no/such/python"
        )


@pytest.mark.skipif(
    "EQUIV_MACE_PYTHON" not in os.environ,
    reason="set EQUIV_MACE_PYTHON to the Python of an environment with mace-torch",
)
@pytest.mark.parametrize("name", HEADS)
def test_side_by_side_with_mace_torch(name, files, structures):
    conversion = convert_mace_torch(files[name], head=HEADS[name])
    found = compare_with_mace_torch(
        conversion.model,
        files[name],
        list(structures.values()),
        python=os.environ["EQUIV_MACE_PYTHON"],
        head=HEADS[name],
    )
    assert found.structures == len(structures)
    loose = 100 if name == "single" else 1
    assert found.energy < 1e-8 * loose
    assert found.forces < 1e-7 * loose
    assert found.stress < 1e-8 * loose
