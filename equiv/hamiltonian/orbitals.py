r"""Atomic orbitals of PySCF in terms of the spherical harmonics of the package."""

from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3 import wigner_matrix

# PySCF's real harmonics have the polar axis z: they are the package's at (y, z, x).
_AXES = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
LETTERS = "spdfghiklmn"


def internal_order(l: int) -> tuple[int, ...]:
    """Where the orbitals m = -l .. l of a shell are among PySCF's.

    PySCF lists p shells as x, y, z and all others by ascending m, with the polar axis z.

    >>> internal_order(1), internal_order(2)
    ((1, 2, 0), (0, 1, 2, 3, 4))
    """
    return (1, 2, 0) if l == 1 else tuple(range(2 * l + 1))


def pyscf_order(l: int) -> tuple[int, ...]:
    """The inverse of :func:`internal_order`.

    >>> pyscf_order(1)
    (2, 0, 1)
    """
    return (2, 0, 1) if l == 1 else tuple(range(2 * l + 1))


@cache
def _pyscf_shell(l: int) -> Tensor:
    axes = torch.tensor(_AXES, dtype=torch.float64)
    a = wigner_matrix(l, axes)[list(pyscf_order(l))]
    return 0.5 * a @ (3 * torch.eye(2 * l + 1, dtype=a.dtype) - a.mT @ a)  # orthogonal to rounding


def pyscf_shell(l: int) -> Float[Tensor, "m m"]:
    r"""The orthogonal matrix :math:`A^l` from harmonics of the package to a shell of PySCF.

    .. math:: \phi_u(\hat r) = \sum_m A^l_{um}\, Y_{lm}(\hat r)

    Here :math:`\phi_u` are the angular parts of PySCF's orbitals, in its order (p as x, y, z; the
    others by ascending m with the polar axis z), and :math:`Y_{lm}` the harmonics of
    ``docs/conventions.md`` (polar axis y). For s and p it is the unit matrix. float64.
    """
    return _pyscf_shell(l).clone()


def rotate_orbitals(
    shells: Sequence[int], rotations: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch orbitals orbitals"]:
    r"""How orbitals in PySCF's order follow a rotation or reflection of the molecule.

    .. math:: M(R x) = D\, M(x)\, D^\mathsf{T}

    for overlap, Fock and every other matrix :math:`M` of a scalar operator; :math:`D` is
    block diagonal with one block :math:`A^l D^l(R) A^{l\mathsf{T}}` for each shell.

    Args:
        shells: the degree l of every shell of the molecule, in order.
        rotations: orthogonal matrices.
    """
    size = sum(2 * l + 1 for l in shells)
    out = rotations.new_zeros(*rotations.shape[:-2], size, size)
    turned = {}
    for l in set(shells):
        a = _pyscf_shell(l).to(rotations)
        turned[l] = a @ wigner_matrix(l, rotations) @ a.mT
    start = 0
    for l in shells:
        stop = start + 2 * l + 1
        out[..., start:stop, start:stop] = turned[l]
        start = stop
    return out
