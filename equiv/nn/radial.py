"""Radial bases: distances to a few smooth functions that vanish at the cutoff."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.nn.cutoff import PolynomialCutoff


class BesselBasis(ExactConstants):
    r"""Spherical Bessel functions of order zero under an envelope.

    .. math::
        b_n(r) = \sqrt{2 / r_c}\; \frac{\sin(n \pi r / r_c)}{r}\, f(r / r_c), \qquad n = 1 \dots
        n_\text{max}

    :math:`r_c` = ``cutoff`` in Angstrom, :math:`f` = ``envelope``. (Gasteiger, Gross, Guennemann
    2020.)

    Args:
        num: number of functions.
        cutoff: in Angstrom.
        envelope: takes the functions to zero at the cutoff.
        frequencies: in 1/Angstrom, instead of :math:`n \pi / r_c`; models from elsewhere may hold
            rounded ones.
    """

    def __init__(
        self,
        num: int,
        cutoff: float,
        envelope: PolynomialCutoff,
        *,
        frequencies: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.num, self.cutoff, self.envelope = num, cutoff, envelope
        regular = torch.arange(1, num + 1, dtype=torch.float64) * math.pi / cutoff
        self.register_constant(
            "frequencies",
            regular if frequencies is None else torch.tensor(frequencies, dtype=torch.float64),
        )
        self.frequencies: Tensor

    def forward(self, r: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges num"]:
        """Values at the distances ``r`` > 0 (Angstrom); exactly zero beyond the cutoff."""
        amplitude = math.sqrt(2 / self.cutoff) * self.envelope(r / self.cutoff) / r
        return amplitude.unsqueeze(-1) * torch.sin(r.unsqueeze(-1) * self.frequencies)

    def extra_repr(self) -> str:
        return f"num={self.num}, cutoff={self.cutoff:g}"


class ChebyshevBasis(nn.Module):
    r"""Chebyshev polynomials of the first kind under an envelope.

    .. math::
        b_n(r) = T_n(2 r / r_c - 1)\, f(r / r_c), \qquad n = 1 \dots n_\text{max}

    evaluated as :math:`T_n(x) = \cos(n \arccos x)` by the three-term recurrence, so derivatives
    stay finite.

    Args:
        num: number of functions.
        cutoff: in Angstrom.
        envelope: takes the functions to zero at the cutoff.
    """

    def __init__(self, num: int, cutoff: float, envelope: PolynomialCutoff) -> None:
        super().__init__()
        self.num, self.cutoff, self.envelope = num, cutoff, envelope

    def forward(self, r: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges num"]:
        """Values at the distances ``r`` (Angstrom); exactly zero beyond the cutoff."""
        x = 2 * r / self.cutoff - 1
        polynomials = [torch.ones_like(x), x]
        while len(polynomials) <= self.num:
            polynomials.append(2 * x * polynomials[-1] - polynomials[-2])
        return torch.stack(polynomials[1 : self.num + 1], -1) * self.envelope(
            r / self.cutoff
        ).unsqueeze(-1)

    def extra_repr(self) -> str:
        return f"num={self.num}, cutoff={self.cutoff:g}"


RADIAL_BASES: dict[str, type[BesselBasis] | type[ChebyshevBasis]] = {
    "bessel": BesselBasis,
    "chebyshev": ChebyshevBasis,
}
