"""Which degrees of which parity a feature tensor holds, and where."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.errors import EquivError


@dataclass(frozen=True)
class Degrees:
    r"""The rows of a feature tensor ``[..., components, channels]``, irrep by irrep.

    First all natural degrees (parity :math:`(-1)^l`, sign +1), then all pseudo ones (sign -1), each
    ascending and with :math:`2l + 1` components; every irrep has all channels.

    Attributes:
        natural: degrees of natural parity.
        pseudo: degrees of the other parity.
    """

    natural: tuple[int, ...]
    pseudo: tuple[int, ...] = ()
    irreps: tuple[tuple[int, int], ...] = field(init=False)
    """(sign, l) of every irrep, in order."""

    def __post_init__(self) -> None:
        for degrees in (self.natural, self.pseudo):
            if list(degrees) != sorted(set(degrees)) or any(l < 0 for l in degrees):
                raise EquivError(f"degrees must be distinct, ascending and >= 0, got {degrees}")
        signed = [(1, l) for l in self.natural] + [(-1, l) for l in self.pseudo]
        object.__setattr__(self, "irreps", tuple(signed))

    @classmethod
    def up_to(cls, l_max: int) -> "Degrees":
        """All natural degrees up to one."""
        return cls(tuple(range(l_max + 1)))

    def __len__(self) -> int:
        return len(self.irreps)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First component of every irrep."""
        sizes = torch.tensor([0, *(2 * l + 1 for _, l in self.irreps)])
        return tuple(sizes.cumsum(0)[:-1].tolist())

    @cached_property
    def dim(self) -> int:
        """Components of all irreps."""
        return sum(2 * l + 1 for _, l in self.irreps)

    @cached_property
    def natural_dim(self) -> int:
        """Components of the natural irreps."""
        return sum(2 * l + 1 for l in self.natural)

    @cached_property
    def owners(self) -> Int[Tensor, " components"]:
        """The irrep of every component."""
        sizes = torch.tensor([2 * l + 1 for _, l in self.irreps])
        return torch.arange(len(self)).repeat_interleave(sizes)

    @cached_property
    def summation(self) -> Float[Tensor, "irreps components"]:
        """Matrix that adds up the components of each irrep."""
        return (torch.arange(len(self))[:, None] == self.owners).double()

    def spread(self, values: Sequence[float]) -> Float[Tensor, " components"]:
        """One number per irrep, repeated for its components."""
        return torch.tensor(list(values), dtype=torch.float64)[self.owners]
