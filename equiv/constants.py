"""Exact constants of a module: buffers that keep float64 accuracy through any change of dtype."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class ExactConstants(nn.Module):
    """A module whose mathematical constants survive ``model.float().double()`` unharmed.

    Coupling coefficients, frequencies and the like are numbers of mathematics, not of training:
    they are not stored in model files, and rounding them to float32 once must not leave a float64
    model with seven digits. Each constant is kept once in float64 on the CPU and every change of
    dtype or device is taken from there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def register_constant(self, name: str, value: Tensor) -> None:
        """Make ``value`` available as ``self.<name>``, in the module's dtype and on its device."""
        exact = value.detach().to(device="cpu", dtype=torch.float64).clone()
        self._exact[name] = exact
        self.register_buffer(name, exact.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, exact in self._exact.items():
            current: Any = getattr(self, name)
            setattr(self, name, exact.to(dtype=current.dtype, device=current.device))
        return self
