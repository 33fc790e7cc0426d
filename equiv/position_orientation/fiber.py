r"""Convolution over orientations."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.position_orientation.fiber_form import mix_orientations


class FiberConvolution(nn.Module):
    r"""Depthwise convolution over the orientations at each point.

    .. math::
        y_i(p) = \sum_o w_o \sum_b \Psi_b(o \cdot p)\, W_b \odot x_i(o) + \beta

    with the quadrature weights :math:`w_o` of the grid. Invariant functions of two orientations
    depend on their angle alone, so :math:`y` turns with :math:`x`: exactly for the rotations that
    permute the grid.

    Args:
        channels: of the features.
        functions: number of functions :math:`\Psi_b`.
    """

    def __init__(self, channels: int, functions: int) -> None:
        super().__init__()
        self.weight = nn.Linear(functions, channels, bias=False)
        nn.init.normal_(self.weight.weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Float[Tensor, "rows orientations channels"],
        fiber: Float[Tensor, "orientations orientations functions"],
        weights: Float[Tensor, " orientations"],
    ) -> Float[Tensor, "rows orientations channels"]:
        r"""The convolution.

        Args:
            x: features.
            fiber: samples :math:`\Psi_b(o \cdot p)`.
            weights: of the orientations.
        """
        kernel = self.weight(fiber) * weights[:, None, None]
        return mix_orientations(x, kernel) + self.bias

    def rescale(self, factor: float) -> None:
        """Multiply the kernel by a number."""
        self.weight.weight.data *= factor
