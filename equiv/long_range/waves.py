"""Plane waves of a cell, one direction at a time."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.graph.adjoint import with_gradient


def wave_table(angles: Tensor, most: int) -> Float[Tensor, "*points waves"]:
    r""":math:`[1, \cos\theta, \dots, \cos n\theta, \sin\theta, \dots, \sin n\theta]`.

    Differentiable to any order; ``waves`` is :math:`2n + 1` with :math:`n` = most.
    """

    def table(angles: Tensor) -> Tensor:
        numbers = torch.arange(most + 1, dtype=angles.dtype, device=angles.device)
        turns = angles[..., None] * numbers
        return torch.cat([turns.cos(), turns[..., 1:].sin()], -1)

    def gradient(angles: Tensor, grad: Tensor) -> Tensor:
        table, n = wave_table(angles, most), most
        numbers = torch.arange(1, n + 1, dtype=table.dtype, device=table.device)
        along_cos = (grad[..., n + 1 :] * numbers * table[..., 1 : n + 1]).sum(-1)
        return along_cos - (grad[..., 1 : n + 1] * numbers * table[..., n + 1 :]).sum(-1)

    return with_gradient(angles, table, gradient)


def most_waves(cell: Tensor, bandwidth: float) -> list[int]:
    r"""The largest :math:`n_d` of a wave :math:`k = 2\pi n C^{-T}` no shorter than the bandwidth.

    :math:`k \cdot a_d = 2\pi n_d` and :math:`|k| \le K` bound it by :math:`K |a_d| / 2\pi`.
    """
    rows = cell.detach().tolist()
    return [max(1, math.floor(math.hypot(*row) * bandwidth / (2 * math.pi))) for row in rows]


def is_orthogonal(cell: Tensor) -> bool:
    """Whether the lattice vectors [n, 3] are perpendicular to rounding."""
    rows = np.array(cell.detach().tolist())
    gram = rows @ rows.T
    off = gram - np.diag(np.diag(gram))
    return bool(np.abs(off).max() <= 1e-12 * np.diag(gram).max())


def combine(table: Tensor, dim: int, *, half: bool) -> Tensor:
    r"""From coefficients of cosines and sines along ``dim`` to those of :math:`e^{in\theta}`.

    ``half`` keeps :math:`n \ge 0`, otherwise :math:`n` runs from :math:`-n_{max}`.
    """
    most = (table.shape[dim] - 1) // 2
    cosines = table.narrow(dim, 0, most + 1)
    sines = table.narrow(dim, most + 1, most)
    sines = torch.cat([torch.zeros_like(cosines.narrow(dim, 0, 1)), sines], dim)
    if cosines.is_complex():
        positive, negative = cosines + 1j * sines, cosines - 1j * sines
    else:
        positive, negative = torch.complex(cosines, sines), torch.complex(cosines, -sines)
    if half:
        return positive
    return torch.cat([negative.narrow(dim, 1, most).flip(dim), positive], dim)
