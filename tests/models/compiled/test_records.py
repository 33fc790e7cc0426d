from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.models.compiled.records import form, leaves, rebuild


@dataclass(frozen=True)
class Inner:
    index: Int[Tensor, "rows width"]
    extra: Float[Tensor, " rows"] | None = None


@dataclass(frozen=True)
class Outer:
    x: Float[Tensor, "rows 3"]
    parts: tuple[Int[Tensor, " part"], ...]
    inner: Inner


def make(rows, parts=(2, 5)):
    return Outer(
        torch.zeros(rows, 3),
        tuple(torch.zeros(n, dtype=torch.int64) for n in parts),
        Inner(torch.zeros(rows, 7, dtype=torch.int64)),
    )


def test_leaves_are_named_and_axes_with_a_name_are_free():
    found = leaves(make(4))
    assert [(leaf.name, leaf.free) for leaf in found] == [
        ("x", (0,)),
        ("parts[0]", (0,)),
        ("parts[1]", (0,)),
        ("inner.index", (0, 1)),
    ]


def test_rebuilding_from_other_tensors_puts_them_where_they_were():
    other = make(6)
    again = rebuild(make(4), iter([leaf.tensor for leaf in leaves(other)]))
    assert again.x is other.x
    assert again.parts == other.parts
    assert again.inner.index is other.inner.index
    assert again.inner.extra is None


def test_records_of_all_sizes_have_one_form_but_kinds_of_record_do_not():
    assert form(leaves(make(4))) == form(leaves(make(9, (3, 3))))
    assert form(leaves(make(4))) != form(leaves(make(4, (2, 5, 1))))


def test_a_field_without_axes_is_named():
    @dataclass(frozen=True)
    class Bare:
        x: Tensor

    with pytest.raises(TypeError, match=r"x has shape \(2,\) and should be annotated"):
        leaves(Bare(torch.zeros(2)))
