"""Radial functions without an envelope, for models that put the envelope elsewhere."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants


class BesselFunctions(ExactConstants):
    r"""Spherical Bessel functions of order zero.

    .. math::
        b_n(r) = \sqrt{2 / r_c}\; \frac{\sin(k_n r)}{r}, \qquad k_n = n \pi / r_c

    Args:
        num: number of functions.
        cutoff: :math:`r_c` in Angstrom.
        frequencies: :math:`k_n` in 1/Angstrom, if not those above.
    """

    def __init__(
        self, num: int, cutoff: float, *, frequencies: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.num, self.cutoff = num, cutoff
        regular = torch.arange(1, num + 1, dtype=torch.float64) * math.pi / cutoff
        self.register_constant(
            "frequencies",
            regular if frequencies is None else torch.tensor(frequencies, dtype=torch.float64),
        )
        self.frequencies: Tensor

    def forward(self, r: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges num"]:
        """Values at the distances ``r`` > 0."""
        r = r.unsqueeze(-1)
        return math.sqrt(2 / self.cutoff) * torch.sin(r * self.frequencies) / r

    def extra_repr(self) -> str:
        return f"num={self.num}, cutoff={self.cutoff:g}"


class GaussianFunctions(ExactConstants):
    r"""Gaussians, evenly spaced from the origin to the cutoff.

    .. math::
        b_n(r) = e^{-(r - r_n)^2 / 2 d^2}, \qquad r_n = (n - 1)\, d, \quad
        d = r_c / (n_\text{max} - 1)

    Args:
        num: :math:`n_\text{max}`, at least 2.
        cutoff: :math:`r_c` in Angstrom.
    """

    def __init__(self, num: int, cutoff: float) -> None:
        super().__init__()
        if num < 2:
            raise ValueError(f"Gaussians need at least two centres, got {num}")
        self.num, self.cutoff = num, cutoff
        self.register_constant("centers", torch.linspace(0, cutoff, num, dtype=torch.float64))
        self.centers: Tensor

    def forward(self, r: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges num"]:
        """Values at the distances ``r``."""
        x = (r.unsqueeze(-1) - self.centers) * ((self.num - 1) / self.cutoff)
        return torch.exp(-0.5 * x * x)

    def extra_repr(self) -> str:
        return f"num={self.num}, cutoff={self.cutoff:g}"


class ChebyshevFunctions(nn.Module):
    r"""Chebyshev polynomials of the distance itself.

    .. math::
        b_n(r) = T_n(r), \qquad n = 1 \dots n_\text{max}

    They are bounded for distances mapped onto (-1, 1) beforehand
    (:class:`equiv.nn.AgnesiTransform`) and grow as :math:`r^n` otherwise.

    Args:
        num: number of functions.
        cutoff: taken for the sake of the other functions; not used.
    """

    def __init__(self, num: int, cutoff: float) -> None:
        super().__init__()
        self.num, self.cutoff = num, cutoff

    def forward(self, r: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges num"]:
        """Values at the distances ``r``."""
        polynomials = [torch.ones_like(r), r]
        while len(polynomials) <= self.num:
            polynomials.append(2 * r * polynomials[-1] - polynomials[-2])
        return torch.stack(polynomials[1 : self.num + 1], -1)

    def extra_repr(self) -> str:
        return f"num={self.num}"


class _FrozenChebyshevFunctions(ChebyshevFunctions):
    """The same values with slopes of zero, as torch's own Chebyshev polynomials have them.

    Forces of a model with these are not the derivatives of its energy. They are here only to give
    the numbers of models that were trained so.
    """

    def forward(self, r: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges num"]:
        """Values at the distances ``r``, without derivatives."""
        return super().forward(r).detach()


RADIAL_FUNCTIONS: dict[
    str, type[BesselFunctions] | type[GaussianFunctions] | type[ChebyshevFunctions]
] = {
    "bessel": BesselFunctions,
    "gaussian": GaussianFunctions,
    "chebyshev": ChebyshevFunctions,
    "frozen_chebyshev": _FrozenChebyshevFunctions,
}
"""Functions by name."""
