r"""How a polynomial of a spherical tensor is cut into matrix products without zeros."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3 import symmetric_couplings

ONE = -1  # the component that is the number 1, which fills monomials up to the highest order

Factors = tuple[int, ...]
"""Classes of the factors of a product, as ``(0,)`` or ``(2, 3)``."""


def half_turn_class(l: int, m: int) -> int:
    r"""What the half turns about the axes do to :math:`Y_{lm}`: one of four classes, 0 to 3.

    A half turn about the x, y or z axis multiplies each real spherical harmonic by 1 or -1. Class 0
    is left alone by all three; 1, 2 and 3 transform like the coordinates y, z and x. The class of a
    product is the exclusive or of the classes of its factors, and a component of an equivariant
    polynomial contains only monomials of its own class.
    """
    return (m % 2) << 1 | (l + m + (m < 0)) % 2


@dataclass(frozen=True)
class RowGroup:
    """Products that meet in one matrix product, and what its results are multiplied with.

    Attributes:
        rows: the products that enter, end to end.
        columns: for each class of the polynomial, the products that finish its monomials.
    """

    rows: tuple[Factors, ...]
    columns: tuple[tuple[Factors, ...], ...]


# Every monomial of a class is a row times a column of it. Among three factors two are of one class,
# or they are of three classes, and then 0 and 1 or 2 and 3 are among them.
_SQUARES: tuple[Factors, ...] = ((0, 0), (1, 1), (2, 2), (3, 3))
_GROUPS: dict[int, tuple[RowGroup, ...]] = {
    2: (
        RowGroup(((0,),), (((0,),), ((1,),), ((2,),), ((3,),))),
        RowGroup(((1,),), (((1,),), (), ((3,),), ((2,),))),
        RowGroup(((2,),), (((2,),), ((3,),), (), ())),
        RowGroup(((3,),), (((3,),), (), (), ())),
    ),
    3: (
        RowGroup(_SQUARES, (((0,),), ((1,),), ((2,),), ((3,),))),
        RowGroup(((0, 1),), ((), (), ((3,),), ((2,),))),
        RowGroup(((2, 3),), (((1,),), ((0,),), (), ())),
    ),
    4: (
        RowGroup(_SQUARES, (_SQUARES, ((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))),
        RowGroup(((0, 1),), (((2, 3),), (), (), ())),
    ),
}


def row_groups(correlation: int) -> tuple[RowGroup, ...]:
    """The matrix products of a polynomial of an order, 1 to 4."""
    return _GROUPS[max(correlation, 2)]


@functools.cache
def components(degree: int) -> tuple[tuple[int, ...], ...]:
    """The components :math:`l^2 + l + m` of each class; class 0 begins with :data:`ONE`."""
    members: list[list[int]] = [[ONE], [], [], []]
    for l in range(degree + 1):
        for m in range(-l, l + 1):
            members[half_turn_class(l, m)].append(l * l + l + m)
    return tuple(map(tuple, members))


def _monomials(degree: int, factors: Factors) -> list[tuple[int, ...]]:
    return list(itertools.product(*(components(degree)[a] for a in factors)))


def num_products(degree: int, several: Sequence[Factors]) -> int:
    """How many products of components several factors stand for."""
    return sum(len(_monomials(degree, factors)) for factors in several)


def columns_of(group: RowGroup, degree_out: int) -> list[tuple[int, Factors]]:
    """Component m of the output (counted from 0) and factors of every block of columns."""
    return [
        (degree_out + m, factors)
        for m in range(-degree_out, degree_out + 1)
        for factors in group.columns[half_turn_class(degree_out, m)]
    ]


@functools.lru_cache(maxsize=64)
def monomial_couplings(
    degree_in: int, degree_out: int, correlation: int
) -> Float[Tensor, "couplings slots"]:
    r"""All symmetric couplings up to an order, as coefficients of monomials.

    .. math::
        \sum_{i_1 \dots i_\nu} U_{km,\, i_1 \dots i_\nu}\, x_{i_1} \cdots x_{i_\nu}
        = \sum_g \sum_{r c} V_{k,\, g m c r}\; R_{gr}(x)\; C_{gc}(x)

    :math:`R_{gr}` and :math:`C_{gc}` are the rows and columns of the groups :func:`row_groups`. A
    monomial that several pairs of row and column multiply to is given to the first.

    Args:
        degree_in: highest degree of :math:`x`.
        degree_out: degree of the result.
        correlation: highest order; the couplings of orders 1, 2, ... follow each other.

    Returns:
        :math:`V` in float64 with the axes ``m, c, r`` of one group after the other on the last
        axis.
    """
    order = max(correlation, 2)
    slot: dict[tuple[int, ...], int] = {}
    size = 0
    for group in row_groups(correlation):
        rows = [t for factors in group.rows for t in _monomials(degree_in, factors)]
        for m, factors in columns_of(group, degree_out):
            for column in _monomials(degree_in, factors):
                for row in rows:
                    slot.setdefault((m, *sorted(row + column)), size)
                    size += 1
    parts = []
    for nu in range(1, correlation + 1):
        u = symmetric_couplings(degree_in, nu, degree_out)
        combinations = list(
            itertools.combinations_with_replacement(range((degree_in + 1) ** 2), nu)
        )
        arrangements = torch.tensor([_arrangements(t) for t in combinations], dtype=torch.float64)
        values = u[(slice(None), slice(None), *torch.tensor(combinations).T)] * arrangements
        part = torch.zeros(u.shape[0], size, dtype=torch.float64)
        padding = (ONE,) * (order - nu)
        used = values.abs().amax(0) > 1e-14 if len(values) else torch.zeros(values.shape[1:])
        for m, t in used.nonzero().tolist():
            part[:, slot[m, *padding, *combinations[t]]] = values[:, m, t]
        parts.append(part)
    return torch.cat(parts)


def _arrangements(indices: Sequence[int]) -> int:
    """In how many orders the factors of a monomial can be written."""
    count = math.factorial(len(indices))
    for i in set(indices):
        count //= math.factorial(indices.count(i))
    return count
