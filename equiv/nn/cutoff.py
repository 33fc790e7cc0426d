"""Envelopes that take interactions smoothly to zero at the cutoff."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PolynomialCutoff(nn.Module):
    r"""Envelope with ``power - 1`` continuous derivatives at the cutoff.

    .. math::
        f(u) = 1 - \tfrac{(p+1)(p+2)}{2} u^p + p(p+2)\, u^{p+1} - \tfrac{p(p+1)}{2} u^{p+2}, \quad
        u = r / r_c < 1

    and zero beyond, with :math:`p` = ``power``. Value, first and second derivative vanish at
    :math:`u = 1`; near the origin :math:`f = 1 - O(u^p)`. (Gasteiger, Gross, Guennemann 2020, eq.
    8.)

    Args:
        power: :math:`p \ge 2`.
    """

    def __init__(self, power: int) -> None:
        super().__init__()
        if power < 2:
            raise ValueError(
                f"cutoff power must be at least 2 for forces without a jump, got {power}"
            )
        self.power = power

    def forward(self, u: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges"]:
        """Envelope at the reduced distances ``u`` = r / cutoff."""
        p = self.power
        u_p = u**p
        f = (
            1
            - 0.5 * (p + 1) * (p + 2) * u_p
            + p * (p + 2) * u_p * u
            - 0.5 * p * (p + 1) * u_p * u * u
        )
        return torch.where(u < 1, f, torch.zeros_like(f))

    def extra_repr(self) -> str:
        return f"power={self.power}"
