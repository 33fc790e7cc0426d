"""Orbitals of a Hamiltonian."""

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError


def orbitals(
    hamiltonian: Float[Tensor, "*batch nao nao"], overlap: Float[Tensor, "*batch nao nao"]
) -> tuple[Float[Tensor, "*batch nao"], Float[Tensor, "*batch nao nao"]]:
    r"""Energies and coefficients of the molecular orbitals.

    .. math:: H C = S C\, \mathrm{diag}(\varepsilon), \qquad C^\mathsf{T} S C = 1

    Through the Cholesky factor of :math:`S`, in float64 whatever the input. Cost:
    :math:`O(n_\text{ao}^3)`.

    Returns:
        Energies in ascending order, in the unit of the Hamiltonian, and coefficients, one orbital
        in each column.

    Raises:
        EquivError: the overlap is not positive definite.
    """
    h, s = hamiltonian.double(), overlap.double()
    factor, info = torch.linalg.cholesky_ex(s)
    if info.any():
        raise EquivError(
            "the overlap matrix is not positive definite: the orbitals are linearly dependent, or "
            "the matrix belongs to another order of orbitals"
        )
    half = torch.linalg.solve_triangular(factor, h, upper=False)
    inner = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    energies, vectors = torch.linalg.eigh(0.5 * (inner + inner.mT))
    return energies, torch.linalg.solve_triangular(factor.mT, vectors, upper=True)


def density(
    coefficients: Float[Tensor, "*batch nao nao"], occupied: int
) -> Float[Tensor, "*batch nao nao"]:
    r"""The density matrix of a closed shell.

    .. math:: P = 2\, C_\text{occ}\, C_\text{occ}^\mathsf{T}
    """
    mine = coefficients[..., :occupied]
    return 2 * mine @ mine.mT
