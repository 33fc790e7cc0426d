"""Energies of the elements on their own."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class ReferenceEnergies(nn.Module):
    r"""One energy per element, in float64 whatever the model's dtype.

    .. math::
        E^0_i = \epsilon_{z_i}

    They are large (1e4 eV for a heavy element) and cancel in every difference, so single precision
    would cost the digits that matter.

    Args:
        energies: :math:`\epsilon_z` in eV.
    """

    def __init__(self, energies: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer(
            "energies", torch.tensor(list(energies), dtype=torch.float64), persistent=False
        )
        self.energies: Tensor

    def forward(self, species: Int[Tensor, " atoms"]) -> Float[Tensor, " atoms"]:
        """Energies of atoms, eV, from the positions of their elements in the list."""
        return self.energies[species]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.energies
        super()._apply(fn, recurse)
        self.energies = exact.to(self.energies.device)
        return self

    def extra_repr(self) -> str:
        return f"{self.energies.shape[0]} elements"
