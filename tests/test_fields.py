from dataclasses import fields as dataclass_fields

import pytest
from ase.build import bulk

from equiv.fields import FIELDS
from equiv.graph import AtomGraph, collate
from equiv.models.interface import Prediction


@pytest.fixture
def batch():
    return collate([AtomGraph.from_atoms(bulk("Cu", cubic=True), 4.0)] * 2)


def test_every_tensor_of_a_batch_is_in_the_table(batch):
    assert set(batch.keys()) - {"num_nodes"} <= set(FIELDS)


def test_every_tensor_of_a_prediction_is_in_the_table():
    names = {field.name for field in dataclass_fields(Prediction)} - {"extras"}
    assert names <= set(FIELDS)


def test_tensors_have_the_axes_that_the_table_says(batch):
    sizes = {"atoms": 8, "graphs": 2, "edges": batch.num_edges, "graphs+1": 3, "3": 3}
    assert batch.num_edges > 8
    for name in set(batch.keys()) - {"num_nodes"}:
        axes = [sizes[axis] for axis in FIELDS[name].axes.split()]
        assert list(batch[name].shape) == axes, name


def test_annotations_of_a_graph_have_the_axes_that_the_table_says():
    for name, annotation in AtomGraph.__annotations__.items():
        assert annotation.dim_str.strip() == FIELDS[name].axes, name
