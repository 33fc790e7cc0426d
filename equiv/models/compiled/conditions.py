"""What the sizes of its inputs must fulfil for a compiled program to be valid."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    r"""A polynomial in the free sizes :math:`n_a` of the inputs that must be zero or positive.

    .. math:: \sum_t c_t \prod_{a \in t} n_a = 0 \quad\text{or}\quad \ge 0

    Attributes:
        equal: whether it must be zero; else it must not be negative.
        terms: coefficients :math:`c_t` and the positions of the sizes in each product.
    """

    equal: bool
    terms: tuple[tuple[int, tuple[int, ...]], ...]

    def holds(self, sizes: Sequence[int]) -> bool:
        """Whether ``sizes`` fulfil it."""
        value = 0
        for coefficient, product in self.terms:
            for position in product:
                coefficient *= sizes[position]
            value += coefficient
        return value == 0 if self.equal else value >= 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Condition":
        """The inverse of :meth:`to_dict`."""
        return cls(values["equal"], tuple((int(c), tuple(p)) for c, p in values["terms"]))
