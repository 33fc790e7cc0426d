"""A radial basis for interactions without a cutoff."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.errors import EquivError


class LogRadialBasis(ExactConstants):
    r"""Bumps on a logarithmic scale of distances.

    .. math::
        b_n(r) = \sqrt{\kappa}\; \exp\!\big(-\tfrac12 (\ln(r / r_0)\, / s - n)^2\big), \qquad
        n = 0 \dots n_\text{max} - 1

    from ``shortest`` :math:`= r_0` to ``longest``, with the spacing :math:`s` between neighbours:
    resolution in proportion to the distance, and no end of the reach. Smooth for :math:`r > 0`; all
    functions vanish with all derivatives at :math:`r = 0`.

    Args:
        num: number of functions.
        shortest: distance at which the first is largest.
        longest: distance at which the last is largest.
    """

    cutoff = None

    def __init__(self, num: int, shortest: float, longest: float) -> None:
        super().__init__()
        if num < 2 or not 0 < shortest < longest:
            raise EquivError(
                "LogRadialBasis: needs at least two functions and 0 < shortest < longest, got "
                f"num={num}, shortest={shortest}, longest={longest}"
            )
        self.num, self.shortest, self.longest = num, shortest, longest
        self.spacing = math.log(longest / shortest) / (num - 1)
        self.register_constant("centers", torch.arange(num, dtype=torch.float64))
        self.centers: Tensor
        # The mean square of a function over its width and the two beside it, about 1 / 2.
        self.amplitude = math.sqrt(2.0)

    def forward(self, r: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges num"]:
        """Values at the distances ``r``."""
        tiny = torch.finfo(r.dtype).tiny
        x = torch.log(r.clamp(min=tiny) / self.shortest) / self.spacing
        return self.amplitude * torch.exp(-0.5 * (x.unsqueeze(-1) - self.centers).square())

    def extra_repr(self) -> str:
        return f"num={self.num}, shortest={self.shortest:g}, longest={self.longest:g}"
