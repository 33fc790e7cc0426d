"""Screened nuclear repulsion at short range."""

import torch
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.nn.cutoff import PolynomialCutoff

COULOMB = 14.3996454784255
r""":math:`e^2 / 4 \pi \epsilon_0` in eV Angstrom (CODATA 2018)."""

SCREENING_LENGTH = 0.8854 * 0.529177210903
"""0.8854 Bohr radii, in Angstrom."""

_WEIGHTS = torch.tensor([0.18175, 0.50986, 0.28022, 0.02817], dtype=torch.float64)
_EXPONENTS = torch.tensor([3.19980, 0.94229, 0.40290, 0.20162], dtype=torch.float64)


class ZBL(ExactConstants):
    r"""Universal repulsion of Ziegler, Biersack and Littmark, ending where chemistry begins.

    .. math::
        V_{ij}(r) = \frac{e^2}{4\pi\epsilon_0} \frac{Z_i Z_j}{r} \phi(r / a_{ij})\, f(r / r_{ij}),
        \qquad \phi(x) = \sum_k c_k e^{-d_k x},
        \qquad a_{ij} = \frac{0.8854\, a_0}{Z_i^{0.23} + Z_j^{0.23}}

    :math:`f` is the polynomial cutoff of power 6 and :math:`r_{ij}` the sum of the covalent radii
    (Angstrom), so the term is exactly zero at bonding distances. Every atom gets half of its
    pairs' energies (eV). (Ziegler, Biersack, Littmark 1985.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.envelope = PolynomialCutoff(6)
        self.register_constant("weights", _WEIGHTS)
        self.register_constant("exponents", _EXPONENTS)
        self.register_constant("radii", torch.as_tensor(covalent_radii, dtype=torch.float64))
        self.weights: Tensor
        self.exponents: Tensor
        self.radii: Tensor

    def forward(
        self,
        distances: Float[Tensor, " edges"],
        atomic_numbers: Int[Tensor, " atoms"],
        senders: Int[Tensor, " edges"],
        receivers: Int[Tensor, " edges"],
    ) -> Float[Tensor, " atoms"]:
        """Repulsion energy of every atom in eV, from distances in Angstrom."""
        pair = self.pairs(distances, atomic_numbers[receivers], atomic_numbers[senders])
        return distances.new_zeros(atomic_numbers.shape[0]).index_add(0, receivers, 0.5 * pair)

    def pairs(
        self,
        distances: Float[Tensor, "*edges"],
        z_i: Int[Tensor, "*#edges"],
        z_j: Int[Tensor, "*#edges"],
    ) -> Float[Tensor, "*edges"]:
        """Repulsion energy of pairs in eV, from their distances and atomic numbers."""
        reach = self.radii[z_i] + self.radii[z_j]
        z_i, z_j = z_i.to(distances.dtype), z_j.to(distances.dtype)
        x = distances * (z_i**0.23 + z_j**0.23) / SCREENING_LENGTH
        phi = (self.weights * torch.exp(-x.unsqueeze(-1) * self.exponents)).sum(-1)
        return COULOMB * z_i * z_j / distances * phi * self.envelope(distances / reach)
