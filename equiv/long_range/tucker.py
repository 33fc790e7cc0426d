"""Tensors in Tucker format, and the ways into it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equiv.errors import EquivError
from equiv.long_range.canonical import CanonicalTensor

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TuckerTensor:
    r"""A small core, each of whose axes is spanned by a few vectors.

    .. math::
        A_{i_1 \dots i_d} = \sum_{a_1 = 1}^{r_1} \cdots \sum_{a_d = 1}^{r_d} \beta_{a_1 \dots a_d}\,
        V^{(1)}_{i_1 a_1} \cdots V^{(d)}_{i_d a_d}

    Attributes:
        core: :math:`\beta`, shape ``[r_1, ..., r_d]``.
        factors: :math:`V^{(\ell)}`, shapes ``[n_l, r_l]``; with orthonormal columns where they come
            from :func:`hosvd`, :func:`hooi` or :func:`rhosvd`.
    """

    core: Array
    factors: tuple[Array, ...]

    def __post_init__(self) -> None:
        if tuple(v.shape[1] for v in self.factors) != self.core.shape:
            raise EquivError(
                f"factors: expected numbers of columns {self.core.shape}, the shape of the core,"
                f" got {[v.shape[1] for v in self.factors]}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return tuple(len(v) for v in self.factors)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Shape of the core."""
        return self.core.shape

    def full(self) -> Array:
        """All entries."""
        return apply_along_axes(self.core, self.factors)

    def evaluate(self, indices: ArrayLike) -> Array:
        """The entries at ``indices`` of shape ``[..., d]``."""
        indices = np.asarray(indices)
        rows = [v[indices[..., axis]] for axis, v in enumerate(self.factors)]
        return contract_rows(self.core, rows)

    def norm(self) -> float:
        """The Frobenius norm, stable for any factors."""
        return float(np.linalg.norm(self.orthogonal().core))

    def orthogonal(self) -> "TuckerTensor":
        """The same tensor with orthonormal columns (QR of every factor)."""
        pairs = [np.linalg.qr(v) for v in self.factors]
        core = apply_along_axes(self.core, [r for _, r in pairs])
        return TuckerTensor(core, tuple(q for q, _ in pairs))

    def rounded(self, error: float) -> "TuckerTensor":
        """Smallest ranks with Frobenius error at most ``error`` (HOSVD of the core)."""
        start = self.orthogonal()
        small = hosvd(start.core, error)
        return TuckerTensor(
            small.core, tuple(q @ v for q, v in zip(start.factors, small.factors, strict=True))
        )

    def transformed(self, matrices: Sequence[Array]) -> "TuckerTensor":
        """Each axis multiplied by a matrix."""
        return TuckerTensor(
            self.core, tuple(m @ v for m, v in zip(matrices, self.factors, strict=True))
        )

    def canonical(self) -> CanonicalTensor:
        """The same tensor in canonical format, of rank ``prod(ranks) / max(ranks)``."""
        longest = int(np.argmax(self.ranks))
        others = [axis for axis in range(self.core.ndim) if axis != longest]
        index = np.indices([self.ranks[axis] for axis in others]).reshape(len(others), -1)
        fibres = np.moveaxis(self.core, longest, 0).reshape(self.ranks[longest], -1)
        factors = list(self.factors)
        factors[longest] = self.factors[longest] @ fibres
        for axis, columns in zip(others, index, strict=True):
            factors[axis] = self.factors[axis][:, columns]
        return CanonicalTensor(np.ones(fibres.shape[1]), tuple(factors))

    def __add__(self, other: "TuckerTensor") -> "TuckerTensor":
        """The sum; ranks add (:meth:`rounded` reduces them)."""
        if self.shape != other.shape:
            raise EquivError(f"cannot add tensors of shapes {self.shape} and {other.shape}")
        core = np.zeros([r + s for r, s in zip(self.ranks, other.ranks, strict=True)])
        core[tuple(slice(r) for r in self.ranks)] = self.core
        core[tuple(slice(r, None) for r in self.ranks)] = other.core
        factors = tuple(np.hstack(pair) for pair in zip(self.factors, other.factors, strict=True))
        return TuckerTensor(core, factors)

    def __mul__(self, factor: float) -> "TuckerTensor":
        return TuckerTensor(self.core * factor, self.factors)

    __rmul__ = __mul__

    def __sub__(self, other: "TuckerTensor") -> "TuckerTensor":
        return self + -1.0 * other


def apply_along_axes(tensor: Array, matrices: Sequence[Array]) -> Array:
    r""":math:`\text{tensor} \times_1 M^{(1)} \cdots \times_d M^{(d)}`."""
    for matrix in matrices:
        # The axis that comes first goes last; after d turns the order is restored.
        tensor = np.tensordot(tensor, matrix, axes=(0, 1))
    return tensor


def contract_rows(core: Array, rows: Sequence[Array]) -> Array:
    r""":math:`\sum_a \beta_{a_1 \dots a_d} v^{(1)}_{p a_1} \cdots v^{(d)}_{p a_d}`, each ``p``."""
    batch = rows[0].shape[:-1]
    flat = [row.reshape(-1, row.shape[-1]) for row in rows]
    total = np.tensordot(flat[0], core, axes=(1, 0))
    for row in flat[1:]:
        total = np.einsum("pa...,pa->p...", total, row)
    return total.reshape(batch)


def hosvd(tensor: ArrayLike, error: float) -> TuckerTensor:
    r"""Higher-order singular value decomposition, cut to a Frobenius error.

    .. math::
        \|A - \hat A\|_F^2 \le \sum_{\ell=1}^{d} \sum_{k > r_\ell} \sigma_{\ell k}^2
        \le \epsilon^2, \qquad \|A - \hat A\|_F \le \sqrt d\, \min_{\text{same ranks}} \|A - B\|_F

    :math:`\sigma_{\ell k}` are the singular values of the unfolding along axis :math:`\ell`. Each
    axis is cut before the next one is decomposed (De Lathauwer 2000; sequentially truncated,
    Vannieuwenhoven 2012).
    """
    core = np.asarray(tensor, dtype=np.float64)
    allowed = error / np.sqrt(core.ndim)
    factors = []
    for _ in range(core.ndim):
        unfolding = core.reshape(len(core), -1)
        u, s, vt = np.linalg.svd(unfolding, full_matrices=False)
        r = _truncation_rank(s, allowed)
        factors.append(u[:, :r])
        core = np.moveaxis((s[:r, None] * vt[:r]).reshape(r, *core.shape[1:]), 0, -1)
    return TuckerTensor(core, tuple(factors))


def hooi(tensor: ArrayLike, start: TuckerTensor, sweeps: int = 20) -> TuckerTensor:
    r"""Best Tucker approximation of fixed ranks by alternating least squares (Tucker-ALS, HOOI).

    .. math::
        V^{(\ell)} \leftarrow \text{leading } r_\ell \text{ left singular vectors of } A
        \times_{m \ne \ell} V^{(m)\mathsf T}

    for every axis in turn, until the norm of the core grows by less than :math:`10^{-12}` of
    itself. The error never increases: it is :math:`\|A\|^2 - \|\beta\|^2`.
    """
    tensor = np.asarray(tensor, dtype=np.float64)
    factors, last = list(start.factors), -np.inf
    core = start.core
    for _ in range(sweeps):
        for axis in range(tensor.ndim):
            others = [
                np.eye(tensor.shape[m]) if m == axis else factors[m].T for m in range(tensor.ndim)
            ]
            partial = np.moveaxis(apply_along_axes(tensor, others), axis, 0)
            u, _, _ = np.linalg.svd(partial.reshape(len(partial), -1), full_matrices=False)
            factors[axis] = u[:, : start.ranks[axis]]
        core = apply_along_axes(tensor, [v.T for v in factors])
        size = float(np.linalg.norm(core))
        if size <= last * (1 + 1e-12):
            break
        last = size
    return TuckerTensor(core, tuple(factors))


def rhosvd(canonical: CanonicalTensor, error: float) -> TuckerTensor:
    r"""Canonical to Tucker by the reduced HOSVD: only the side matrices are decomposed.

    .. math::
        U^{(\ell)} \approx V^{(\ell)} Z^{(\ell)}, \qquad
        \beta = \sum_{k=1}^{R} \xi_k\, z^{(1)}_k \otimes \cdots \otimes z^{(d)}_k, \qquad
        \|A - \hat A\|_F \le \|\xi\| \sum_{\ell=1}^{d}
        \Bigl(\sum_{k > r_\ell} \sigma_{\ell k}^2\Bigr)^{1/2} \le \epsilon

    with columns of norm one (Khoromskij and Khoromskaia 2009). Neither the full tensor nor its
    unfoldings are formed: :math:`O(d n R \min(n, R) + R\, r^d)`. The ranks are those of the column
    spaces and may be larger than needed where terms cancel; :meth:`TuckerTensor.rounded` takes them
    down.
    """
    unit = canonical.normalized()
    scale = float(np.linalg.norm(unit.weights)) * len(unit.factors)
    bases, reduced = [], []
    for u in unit.factors:
        v, s, wt = np.linalg.svd(u, full_matrices=False)
        r = _truncation_rank(s, error / scale if scale else np.inf)
        bases.append(v[:, :r])
        reduced.append(s[:r, None] * wt[:r])
    return TuckerTensor(_sum_of_products(unit.weights, reduced), tuple(bases))


def _truncation_rank(s: Array, allowed: float) -> int:
    """Fewest leading singular values (at least one) with a remainder of norm ``allowed``."""
    tails = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])
    return max(1, int((tails > allowed).sum()))


def _sum_of_products(weights: Array, columns: Sequence[Array]) -> Array:
    """The core from its terms, as one matrix product over blocks of terms."""
    *first, last = columns
    core = 0.0
    for block in np.array_split(np.arange(len(weights)), max(1, len(weights) // 2000)):
        product = weights[block]
        for z in first:
            product = product[..., None, :] * z[:, block]
        core = core + np.tensordot(product, last[:, block], axes=(-1, -1))
    return np.asarray(core)
