"""Screened nuclear repulsion with the rounded constants that some potentials were trained with."""

import torch
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.nn.cutoff import PolynomialCutoff

COULOMB = 14.3996  # eV Angstrom
SCREENING_LENGTH = 0.4543 * 0.529  # Angstrom
EXPONENT = 0.3
WEIGHTS = (0.1818, 0.5099, 0.2802, 0.02817)
EXPONENTS = (3.2, 0.9423, 0.4028, 0.2016)


class RoundedZBL(ExactConstants):
    r"""The repulsion of Ziegler, Biersack and Littmark with constants of four digits.

    .. math::
        V_{ij}(r) = \frac{e^2}{4\pi\epsilon_0} \frac{Z_i Z_j}{r} \phi(r / a_{ij})\, f(r / r_{ij}),
        \qquad \phi(x) = \sum_k c_k e^{-d_k x},
        \qquad a_{ij} = \frac{0.4543 \cdot 0.529}{Z_i^{0.3} + Z_j^{0.3}}

    Distances in Angstrom, energies in eV; :math:`f` is the polynomial cutoff and :math:`r_{ij}` the
    sum of the covalent radii. It differs from :class:`equiv.nn.ZBL` by a few percent, which a
    network trained beside it has learnt to make up for: keep the two apart.

    Args:
        power: of the polynomial cutoff.
    """

    def __init__(self, power: int) -> None:
        super().__init__()
        self.envelope = PolynomialCutoff(power)
        self.register_constant("weights", torch.tensor(WEIGHTS, dtype=torch.float64))
        self.register_constant("exponents", torch.tensor(EXPONENTS, dtype=torch.float64))
        self.register_constant("radii", torch.as_tensor(covalent_radii, dtype=torch.float64))
        self.weights: Tensor
        self.exponents: Tensor
        self.radii: Tensor

    def forward(
        self, r: Float[Tensor, "*edges"], z_i: Int[Tensor, "*edges"], z_j: Int[Tensor, "*edges"]
    ) -> Float[Tensor, "*edges"]:
        """Energies of pairs in eV, from distances ``r`` (Angstrom) and atomic numbers."""
        reach = self.radii[z_i] + self.radii[z_j]
        z_i, z_j = z_i.to(r.dtype), z_j.to(r.dtype)
        x = r * (z_i**EXPONENT + z_j**EXPONENT) / SCREENING_LENGTH
        phi = (self.weights * torch.exp(-x.unsqueeze(-1) * self.exponents)).sum(-1)
        return COULOMB * z_i * z_j / r * phi * self.envelope(r / reach)
