"""Distances as smooth functions that do not tell short ones from long ones too early."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.errors import EquivError


class ExponentialBernstein(ExactConstants):
    r"""Bernstein polynomials of an exponential under an infinitely smooth window.

    .. math::
        b_n(r) = f(r) \binom{K-1}{n} u^{n} (1 - u)^{K-1-n}, \qquad u = e^{-\alpha r}, \qquad
        f(r) = \exp\Big(-\frac{r^2}{(r_c - r)(r_c + r)}\Big)

    for :math:`n = 0 \dots K-1` and :math:`r < r_c`, zero beyond. (Unke and Meuwly 2019.)

    Args:
        num: :math:`K`.
        cutoff: :math:`r_c`, Angstrom.
        decay: :math:`\alpha`, 1/Angstrom.
    """

    def __init__(self, num: int, cutoff: float, *, decay: float = 0.5) -> None:
        super().__init__()
        if num < 2 or cutoff <= 0 or decay <= 0:
            raise EquivError(
                "ExponentialBernstein: expected num >= 2, cutoff > 0 and decay > 0, got "
                f"{num}, {cutoff} and {decay}"
            )
        self.num, self.cutoff, self.decay = num, float(cutoff), float(decay)
        logs = [math.lgamma(num) - math.lgamma(n + 1) - math.lgamma(num - n) for n in range(num)]
        self.register_constant("log_binomials", torch.tensor(logs, dtype=torch.float64))
        self.log_binomials: Tensor

    def forward(self, r: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs num"]:
        """Values at the distances ``r`` (Angstrom), of unit mean square over short distances."""
        n = torch.arange(self.num, dtype=r.dtype, device=r.device)
        exponent = -self.decay * r.unsqueeze(-1)
        rest = torch.log(-torch.expm1(exponent.clamp(max=-1e-12)))
        logs = self.log_binomials.to(r.dtype) + n * exponent + (self.num - 1 - n) * rest
        return torch.exp(logs) * self.window(r).unsqueeze(-1) * math.sqrt(self.num)

    def window(self, r: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs"]:
        """:math:`f(r)`."""
        gap = (self.cutoff**2 - r * r).clamp(min=1e-3 * self.cutoff**2 * 1e-3)
        return torch.where(r < self.cutoff, torch.exp(-r * r / gap), torch.zeros_like(r))

    def extra_repr(self) -> str:
        return f"num={self.num}, cutoff={self.cutoff:g}, decay={self.decay:g}"
