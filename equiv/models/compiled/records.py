"""Tensors out of nested records, and back."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from torch import Tensor


@dataclass(frozen=True)
class Leaf:
    """One tensor of a record.

    Attributes:
        name: where it is, as `layout.neighbors.senders`.
        tensor: the tensor.
        free: the axes whose size differs from batch to batch; the others are part of the program.
    """

    name: str
    tensor: Tensor
    free: tuple[int, ...]


def leaves(record: Any, name: str = "") -> list[Leaf]:
    """The tensors of a record in a fixed order.

    A record is a dataclass whose fields are tensors, tuples of tensors, further records or None.
    The annotations of the fields tell which axes are free: those with a name are, those with a
    number are not (``Float[Tensor, "rows 3"]``).
    """
    found: list[Leaf] = []
    for field, axes in _fields(type(record)):
        value, inner = getattr(record, field), f"{name}.{field}" if name else field
        if value is None:
            continue
        if isinstance(value, Tensor):
            found.append(Leaf(inner, value, _free(axes, value, inner)))
        elif isinstance(value, tuple):
            for i, x in enumerate(value):
                found.append(Leaf(f"{inner}[{i}]", x, _free(axes, x, inner)))
        else:
            found += leaves(value, inner)
    return found


def rebuild(record: Any, tensors: Iterator[Tensor]) -> Any:
    """A record like ``record`` with other tensors, in the order of :func:`leaves`."""
    values = {}
    for field, _ in _fields(type(record)):
        value = getattr(record, field)
        if isinstance(value, Tensor):
            value = next(tensors)
        elif isinstance(value, tuple):
            value = tuple(next(tensors) for _ in value)
        elif value is not None:
            value = rebuild(value, tensors)
        values[field] = value
    return type(record)(**values)


def form(found: list[Leaf]) -> tuple[Any, ...]:
    """All about the leaves of a record that a program cannot do without: names, types, fixed sizes.

    Records of the same form can be given to the same program.
    """
    return tuple(
        (
            leaf.name,
            leaf.tensor.dtype,
            tuple(-1 if i in leaf.free else n for i, n in enumerate(leaf.tensor.shape)),
        )
        for leaf in found
    )


def _free(axes: str | None, x: Tensor, name: str) -> tuple[int, ...]:
    words = [] if axes is None else axes.split()
    if axes is None or len(words) != x.ndim or any(not w.isalnum() for w in words):
        raise TypeError(
            f"{name} has shape {tuple(x.shape)} and should be annotated with that many axes, each "
            f"a word or a number; its axes are {axes!r}"
        )
    return tuple(i for i, word in enumerate(words) if not word.isdigit())


@lru_cache
def _fields(record: type) -> list[tuple[str, str | None]]:
    """The fields of a record and the axes they are annotated with."""
    if not is_dataclass(record):
        raise TypeError(f"a record must be a dataclass of tensors and records, got {record}")
    hints = get_type_hints(record)
    return [(field.name, _axes(hints[field.name])) for field in fields(record)]


def _axes(hint: Any) -> str | None:
    if hasattr(hint, "dim_str"):
        return hint.dim_str
    found = [axes for part in get_args(hint) if (axes := _axes(part)) is not None]
    return found[0] if found else None
