"""One basis along an axis for Gaussians of all widths; the smooth ones need only its beginning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.long_range.boxes import lobatto_nodes


@dataclass(frozen=True)
class NestedBasis:
    r"""A Tucker basis for :math:`K_L` on the Chebyshev nodes of one axis.

    .. math:: e^{-t_k^2 (X_a - X_b)^2} \approx (U_{r_k} B_k U_{r_k}^T)_{ab}, \qquad
              r_1 \le r_2 \le \dots

    The columns of :math:`U` are orthonormal; Gaussian :math:`k` uses the first :math:`r_k` of them.
    Nesting makes the sum over the Gaussians cost little more than its sharpest term.

    Attributes:
        basis: :math:`U`.
        cores: :math:`B_k`, symmetric and positive semi-definite, smoothest first.
    """

    basis: Float[Tensor, "nodes rank"]
    cores: Sequence[Float[Tensor, "rank_k rank_k"]]

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    def to(self, like: Tensor) -> "NestedBasis":
        """In the dtype and on the device of a tensor."""
        return NestedBasis(self.basis.to(like), [core.to(like) for core in self.cores])


def axis_nodes(boxes: int, nodes: int, side: float) -> np.ndarray:
    """Lobatto nodes of boxes side by side, the first of them beginning at zero."""
    inside = (lobatto_nodes(nodes) + 1) / 2 * side
    return (np.arange(boxes)[:, None] * side + inside).ravel()


def nested_basis(
    points: np.ndarray, kernels: Sequence[np.ndarray], weights: np.ndarray, error: float
) -> NestedBasis:
    r"""The nested basis of symmetric matrices, smoothest first.

    Of each matrix, the singular vectors of what the columns so far leave over are kept whose
    singular value times its weight exceeds ``error`` of the sum of all weights. (Eigenvalues of the
    matrix projected from both sides would not do: the blocks between old and dropped directions are
    as large as their square root.) Always in float64; a few :math:`n^3` for :math:`n` points.
    """
    basis = np.zeros((len(points), 0))
    ranks = []
    floor = error * np.abs(weights).sum()
    for kernel, weight in zip(kernels, weights, strict=True):
        rest = kernel - basis @ (basis.T @ kernel)
        vectors, values, _ = np.linalg.svd(rest - basis @ (basis.T @ rest))
        keep = values * abs(weight) > floor
        if keep.any():
            basis = np.linalg.qr(np.concatenate([basis, vectors[:, keep]], 1))[0]
        if basis.shape[1] == 0:
            basis = vectors[:, :1]
        ranks.append(basis.shape[1])
    cores = [
        torch.from_numpy(np.ascontiguousarray(basis[:, :r].T @ kernel @ basis[:, :r]))
        for r, kernel in zip(ranks, kernels, strict=True)
    ]
    return NestedBasis(torch.from_numpy(np.ascontiguousarray(basis)), cores)
