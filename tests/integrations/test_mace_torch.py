"""Conversion of mace-torch models, against numbers that mace-torch itself computed.

The files come from ``make_mace_torch_reference.py`` next to this one.
"""

import json
from pathlib import Path

import ase
import pytest
import torch
from safetensors import safe_open

from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate
from equiv.integrations.mace_torch import mace_from_state_dict
from equiv.models import MACE

REFERENCE = Path(__file__).parent / "reference"
FILES = sorted(REFERENCE.glob("mace_torch_*.safetensors"))
NAMES = [path.stem.removeprefix("mace_torch_") for path in FILES]
STRUCTURES = ["molecule", "triclinic", "slab", "apart"]


def read(name):
    """Configuration, dense state dict, structures and results of one reference file."""
    state, structures, results = {}, {}, {}
    with safe_open(REFERENCE / f"mace_torch_{name}.safetensors", framework="pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, shape in json.loads(header["sparse_shapes"]).items():
        dense = torch.zeros(shape, dtype=torch.float64)
        dense.view(-1)[tensors[f"state_index/{key}"].long()] = tensors[f"state_value/{key}"]
        state[key] = dense
    for key, value in tensors.items():
        kind, rest = key.split("/", 1)
        if kind == "state":
            state[rest] = value
        elif kind == "structure":
            label, what = rest.split("/")
            structures.setdefault(label, {})[what] = value.numpy()
        elif kind == "result":
            label, what = rest.split("/")
            results.setdefault(label, {})[what] = value
    atoms = {
        label: ase.Atoms(
            numbers=s["atomic_numbers"], positions=s["positions"], cell=s["cell"], pbc=s["pbc"]
        )
        for label, s in structures.items()
    }
    return json.loads(header["configuration"]), state, atoms, results


@pytest.fixture(scope="module", params=NAMES)
def converted(request):
    configuration, state, atoms, results = read(request.param)
    return mace_from_state_dict(state, configuration), atoms, results


def evaluate(model, structures):
    batch = collate([AtomGraph.from_atoms(atoms, model.cutoff) for atoms in structures])
    return model(batch, forces=True, stress=True)


def test_the_reference_files_are_all_here():
    expected = {"vectors", "scalars", "tensors", "edges_of_degree_three", "one_layer", "four_body"}
    assert expected | {"repulsion"} == set(NAMES)


@pytest.mark.parametrize("label", STRUCTURES)
def test_energies_forces_and_stress_are_those_of_mace_torch(converted, label):
    model, atoms, results = converted
    ours, theirs = evaluate(model, [atoms[label]]), results[label]
    torch.testing.assert_close(ours.energy, theirs["energy"], rtol=1e-10, atol=0)
    torch.testing.assert_close(ours.energies, theirs["energies"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.forces, theirs["forces"], rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.virials, theirs["virials"], rtol=0, atol=1e-10)
    if "stress" in theirs:
        torch.testing.assert_close(ours.stress, theirs["stress"], rtol=0, atol=1e-10)


def test_the_structures_exert_forces_that_a_wrong_model_would_miss(converted):
    _, _, results = converted
    assert results["triclinic"]["forces"].abs().max() > 0.1
    assert results["slab"]["virials"].abs().max() > 0.1
    assert "stress" in results["triclinic"]


def test_a_batch_of_all_structures_gives_the_same_numbers(converted):
    model, atoms, results = converted
    ours = evaluate(model, [atoms[label] for label in STRUCTURES])
    forces = torch.cat([results[label]["forces"] for label in STRUCTURES])
    torch.testing.assert_close(ours.forces, forces, rtol=0, atol=1e-10)


def test_a_float32_state_becomes_a_float32_model():
    configuration, state, atoms, results = read("vectors")
    single = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    model = mace_from_state_dict(single, configuration)
    assert isinstance(model, MACE)
    assert model.dtype == torch.float32
    ours = evaluate(model, [atoms["triclinic"]])
    torch.testing.assert_close(
        ours.forces.double(), results["triclinic"]["forces"], rtol=0, atol=1e-4
    )


def test_elements_in_another_order_are_put_in_ours():
    configuration, state, atoms, results = read("vectors")
    order = [2, 0, 1]
    shuffled = dict(state)
    shuffled["atomic_numbers"] = state["atomic_numbers"][order]
    shuffled["atomic_energies_fn.atomic_energies"] = state["atomic_energies_fn.atomic_energies"][
        order
    ]
    shuffled["node_embedding.linear.weight"] = (
        state["node_embedding.linear.weight"].view(3, -1)[order].flatten()
    )
    for key, value in state.items():
        if "skip_tp.weight" in key:
            shuffled[key] = value.view(-1, 4, 3, 4)[:, :, order].flatten()
        elif ".contractions." in key and "weights" in key and "zeroed" not in key:
            shuffled[key] = value[order]
    configuration = {**configuration, "atomic_numbers": shuffled["atomic_numbers"].tolist()}
    ours = evaluate(mace_from_state_dict(shuffled, configuration), [atoms["molecule"]])
    torch.testing.assert_close(ours.forces, results["molecule"]["forces"], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "AtomicDipolesMACE"}, "model='AtomicDipolesMACE'"),
        ({"interaction_cls": "SomeOtherBlock"}, "interaction_cls='SomeOtherBlock'"),
        ({"interaction_cls": "RealAgnosticDensityResidualInteractionBlock"}, "no tensor .*density"),
        ({"radial_type": "splines"}, "radial_type='splines'"),
        ({"radial_type": "gaussian"}, "no tensor .*gaussian_weights"),
        ({"distance_transform": "Agnesi"}, "no tensor .*distance_transform"),
        ({"pair_repulsion": True}, "no tensor pair_repulsion_fn"),
        ({"use_so3": True}, "use_so3=True and tensors"),
        ({"embedding_specs": {"charge": {}}}, "embedding_specs"),
        ({"use_last_readout_only": True}, "no place for|readouts"),
        ({"edge_irreps": "2x0e + 2x1o"}, "linear_up.weight has 32 numbers"),
        ({"heads": ["a", "b"]}, "several heads: a, b"),
        ({"hidden_irreps": "4x0e+2x1o"}, "the same channels"),
        ({"hidden_irreps": "4x1o+4x0e"}, "in order"),
        ({"hidden_irreps": "4x0e+4x1e"}, "natural parity"),
        ({"hidden_irreps": "4x0e+4x2e"}, "numbers, the configuration asks for|contractions"),
        ({"hidden_irreps": "5x0e+5x1o"}, "numbers, the configuration asks for"),
        ({"correlation": [2, 2, 2]}, "one for every layer"),
        ({"surprise": 1}, "unknown entry surprise=1"),
        ({"num_polynomial_cutoff": 6}, "cutoff_fn.p"),
        ({"MLP_irreps": "4x1o"}, "even scalars"),
    ],
)
def test_what_cannot_be_converted_exactly_is_refused_by_name(change, message):
    configuration, state, _, _ = read("vectors")
    with pytest.raises(EquivError, match=message):
        mace_from_state_dict(state, {**configuration, **change})


def test_an_incomplete_configuration_or_state_is_refused():
    configuration, state, _, _ = read("vectors")
    short = {k: v for k, v in configuration.items() if k != "max_ell"}
    with pytest.raises(EquivError, match="lacks max_ell"):
        mace_from_state_dict(state, short)
    with pytest.raises(EquivError, match=r"no tensor interactions\.1\.skip_tp\.weight"):
        mace_from_state_dict(
            {k: v for k, v in state.items() if k != "interactions.1.skip_tp.weight"}, configuration
        )
    with pytest.raises(EquivError, match=r"no place for: joint_embedding\.weight"):
        mace_from_state_dict({**state, "joint_embedding.weight": torch.ones(3)}, configuration)


def test_trained_frequencies_are_kept():
    configuration, state, atoms, results = read("vectors")
    key = "radial_embedding.bessel_fn.bessel_weights"
    same = mace_from_state_dict({**state, key: (1 + 2e-6) * state[key]}, configuration)
    assert same.recipe["frequencies"] is not None
    ours = evaluate(same, [atoms["triclinic"]])
    torch.testing.assert_close(ours.forces, results["triclinic"]["forces"], rtol=0, atol=1e-4)
    other = mace_from_state_dict({**state, key: 1.01 * state[key]}, configuration)
    ours = evaluate(other, [atoms["triclinic"]])
    assert not torch.allclose(ours.forces, results["triclinic"]["forces"], rtol=0, atol=1e-4)


def test_damaged_couplings_and_foreign_constants_are_refused():
    configuration, state, _, _ = read("vectors")
    key = "radial_embedding.bessel_fn.prefactor"
    with pytest.raises(EquivError, match="prefactor of the state is"):
        mace_from_state_dict({**state, key: 1.01 * state[key]}, configuration)
    key = "products.0.symmetric_contractions.contractions.1.U_matrix_2"
    damaged = state[key].clone()
    damaged[0, 0, 0, 0] += 0.3
    with pytest.raises(EquivError, match="not equivariant"):
        mace_from_state_dict({**state, key: damaged}, configuration)
