"""Equality with the published code; make_official_reference.py has made the file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from equiv.errors import EquivError
from equiv.graph.blocks import neighbor_blocks
from equiv.position_orientation import Channels, from_official_state_dict

REFERENCE = Path(__file__).parent / "reference" / "official.npz"


def case(number, dtype=torch.float64):
    with np.load(REFERENCE) as file:
        found = {
            name.split("/", 1)[1]: torch.from_numpy(file[name])
            for name in file.files
            if name.startswith(f"{number}/")
        }
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in found.items()}


def number_of_cases():
    with np.load(REFERENCE) as file:
        return 1 + max(int(name.split("/")[0]) for name in file.files)


def network(given):
    radius = float(given["radius"])
    return from_official_state_dict(
        {name.removeprefix("state/"): v for name, v in given.items() if name.startswith("state/")},
        given["points"],
        outputs=Channels(scalars=2, vectors=2),
        vectors_in=1,
        radius=None if radius < 0 else radius,
    )


def outputs(net, given):
    senders, receivers = given["edge_index"]
    shifts = torch.zeros(len(senders), 3)
    neighbors, edges = neighbor_blocks(senders, receivers, shifts, len(given["positions"]))
    vectors = given["positions"][senders[edges]] - given["positions"][receivers[edges]]
    out = net(vectors, neighbors, scalars=given["x"], vectors_in=given["vec"])
    results = [out.scalars, out.vectors]
    if given["graph"]:
        zeros = [x.new_zeros(2, *x.shape[1:]) for x in results]
        results = [z.index_add(0, given["batch"], x) for z, x in zip(zeros, results, strict=True)]
    return results


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("number", range(number_of_cases()))
def test_outputs_are_those_of_the_published_code(number, dtype, tolerance):
    given = case(number, dtype)
    net = network(given)
    assert next(net.parameters()).dtype == dtype
    for ours, theirs in zip(outputs(net, given), (given["scalars"], given["vectors"]), strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_a_missing_tensor_is_named():
    given = case(0)
    del given["state/basis_fn.3.weight"]
    with pytest.raises(EquivError, match=r"'basis_fn.3.weight' is missing"):
        network(given)


def test_outputs_that_do_not_add_up_are_refused():
    given = case(0)
    state = {k.removeprefix("state/"): v for k, v in given.items() if k.startswith("state/")}
    with pytest.raises(EquivError, match="the network has 4 outputs"):
        from_official_state_dict(state, given["points"], outputs=Channels(scalars=1))
