"""Tensors in canonical format: sums of products of vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equiv.errors import EquivError
from equiv.long_range.gaussian_sums import GaussianSum

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CanonicalTensor:
    r"""A tensor of rank :math:`R` over :math:`d` axes.

    .. math::
        A_{i_1 \dots i_d} = \sum_{k=1}^{R} \xi_k\, U^{(1)}_{i_1 k} \cdots U^{(d)}_{i_d k}

    :math:`(n_1 + \dots + n_d + 1) R` numbers stand for :math:`n_1 \cdots n_d`. Sums and products of
    tensors stay in the format; their ranks add and multiply.

    Attributes:
        weights: :math:`\xi`, shape ``[R]``.
        factors: :math:`U^{(\ell)}`, the side matrices, shapes ``[n_l, R]``.
    """

    weights: Array
    factors: tuple[Array, ...]

    def __post_init__(self) -> None:
        if any(u.ndim != 2 or u.shape[1] != len(self.weights) for u in self.factors):
            raise EquivError(
                f"factors: expected matrices with {len(self.weights)} columns, one for each weight,"
                f" got shapes {[u.shape for u in self.factors]}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return tuple(len(u) for u in self.factors)

    @property
    def rank(self) -> int:
        """Number of terms."""
        return len(self.weights)

    def full(self) -> Array:
        """All entries; for tests and small tensors."""
        total = cast(Array, self.weights)
        for u in self.factors:
            total = total[..., None, :] * u
        return total.sum(-1)

    def evaluate(self, indices: ArrayLike) -> Array:
        """The entries at ``indices`` of shape ``[..., d]``."""
        indices = np.asarray(indices)
        product = np.broadcast_to(self.weights, (*indices.shape[:-1], self.rank))
        for axis, u in enumerate(self.factors):
            product = product * u[indices[..., axis]]
        return product.sum(-1)

    def inner(self, other: "CanonicalTensor") -> float:
        """The Euclidean inner product; O(d n R R')."""
        gram = np.outer(self.weights, other.weights)
        for u, v in zip(self.factors, other.factors, strict=True):
            gram = gram * (u.T @ v)
        return float(gram.sum())

    def norm(self) -> float:
        """The Frobenius norm, from the Gram matrices: good to half of the digits."""
        return float(np.sqrt(max(0.0, self.inner(self))))

    def transformed(self, matrices: Sequence[Array]) -> "CanonicalTensor":
        """Each axis multiplied by a matrix: ``factors[l] -> matrices[l] @ factors[l]``."""
        factors = tuple(m @ u for m, u in zip(matrices, self.factors, strict=True))
        return CanonicalTensor(self.weights, factors)

    def normalized(self) -> "CanonicalTensor":
        """The same tensor with columns of norm one (zero columns stay zero)."""
        weights, factors = self.weights, []
        for u in self.factors:
            length = np.linalg.norm(u, axis=0)
            weights = weights * length
            factors.append(u / np.where(length == 0, 1.0, length))
        return CanonicalTensor(weights, tuple(factors))

    def __add__(self, other: "CanonicalTensor") -> "CanonicalTensor":
        if self.shape != other.shape:
            raise EquivError(f"cannot add tensors of shapes {self.shape} and {other.shape}")
        factors = tuple(np.hstack(pair) for pair in zip(self.factors, other.factors, strict=True))
        return CanonicalTensor(np.concatenate([self.weights, other.weights]), factors)

    def __mul__(self, factor: float) -> "CanonicalTensor":
        return CanonicalTensor(self.weights * factor, self.factors)

    __rmul__ = __mul__

    def __sub__(self, other: "CanonicalTensor") -> "CanonicalTensor":
        return self + -1.0 * other


def canonical_potential(
    kernel: GaussianSum, grid: Sequence[ArrayLike], centers: ArrayLike, charges: ArrayLike
) -> CanonicalTensor:
    r"""The potential of point charges on a product grid, by shifting the kernel.

    .. math::
        V_{i_1 i_2 i_3} = \sum_{j=1}^{N} q_j \sum_{k=1}^{R} w_k
        \prod_{\ell=1}^{3} e^{-t_k^2 (x^{(\ell)}_{i_\ell} - y_{j\ell})^2}

    of rank :math:`N R`; :math:`O(N R (n_1 + n_2 + n_3))` numbers.

    Args:
        kernel: the radial function.
        grid: coordinates along each axis.
        centers: :math:`y_j`, shape ``[N, d]``.
        charges: :math:`q_j`, shape ``[N]``.
    """
    centers, charges = np.atleast_2d(np.asarray(centers, dtype=np.float64)), np.asarray(charges)
    factors = tuple(
        np.exp(
            -(
                (
                    (np.asarray(x, dtype=np.float64)[:, None] - centers[:, axis])[:, :, None]
                    * kernel.t
                )
                ** 2
            )
        ).reshape(len(np.asarray(x)), -1)
        for axis, x in enumerate(grid)
    )
    return CanonicalTensor(np.outer(charges, kernel.w).ravel(), factors)
