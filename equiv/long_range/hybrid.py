"""Functions of three variables in the hybrid Chebyshev-Tucker format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from equiv.errors import EquivError
from equiv.long_range.canonical import CanonicalTensor, canonical_potential
from equiv.long_range.chebyshev import (
    chebyshev_nodes,
    chebyshev_polynomials,
    coefficients_from_values,
    derivative_coefficients,
    resolved_length,
)
from equiv.long_range.gaussian_sums import GaussianSum
from equiv.long_range.tucker import (
    TuckerTensor,
    apply_along_axes,
    contract_rows,
    hosvd,
    rhosvd,
)

Array = NDArray[np.float64]
Function = Callable[[Array, Array, Array], Array]
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

UNIT_BOX: Box = ((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0))
_MAX_VALUES = 2**27  # 1 GiB of float64


@dataclass(frozen=True, eq=False)
class ChebyshevTuckerFunction:
    r"""A Chebyshev expansion whose coefficients are a Tucker tensor.

    .. math::
        f(x, y, z) \approx \sum_{abc} \beta_{abc}\, v^{(1)}_a(x)\, v^{(2)}_b(y)\, v^{(3)}_c(z),
        \qquad v^{(\ell)}_a(x) = \sum_{i=0}^{m_\ell - 1} V^{(\ell)}_{ia}\, T_i(x)

    with :math:`x, y, z` scaled to [-1, 1]. Two levels: interpolation in a product of Chebyshev
    polynomials, which knows nothing of ``f`` but its smoothness; then the low-rank structure of the
    *small* tensor of coefficients. It is mesh-free: :math:`m_\ell` follows from the smoothness of
    ``f``, not from a grid, and restriction to any grid gives an ordinary Tucker tensor
    (:meth:`on_grid`) without an array of its size ever being formed.
    (Benner, Khoromskij, Khoromskaia, Sun 2025.)

    The errors of the two levels add. Since :math:`|T_i| \le 1`, the second is at most
    :math:`\sum_{ijk} |C - \hat C|_{ijk}` at every point. Cost: storage
    :math:`\sum_\ell m_\ell r_\ell + r_1 r_2 r_3`, as many multiplications for one value.

    Attributes:
        coefficients: :math:`\beta` and :math:`V^{(\ell)}`.
        box: lower and upper end along each axis.
    """

    coefficients: TuckerTensor
    box: Box

    @classmethod
    def from_function(
        cls, function: Function, error: float, *, box: Box = UNIT_BOX, max_length: int = 513
    ) -> "ChebyshevTuckerFunction":
        r"""Degrees and ranks chosen so that the error is below ``error`` times ``max |f|``.

        Each degree is doubled until the coefficients along a few lines through the box have
        decayed to ``error``; then ``f`` is sampled on the product of the nodes, transformed, cut
        and decomposed (HOSVD), and the result compared with ``f`` at the nodes and at 500 random
        points. If it misses, everything is repeated with a stricter aim.

        Args:
            function: of three arrays that broadcast; called on whole grids.
            error: relative to the largest value seen.
            box: where ``f`` lives.
            max_length: most coefficients along an axis.

        Raises:
            EquivError: ``f`` is not resolved with ``max_length`` coefficients along an axis.
        """
        random = np.random.default_rng(0)
        probes = random.uniform(-1, 1, (500, 3))
        exact = _sampled(function, box, *probes.T)
        lengths = [17, 17, 17]
        for strictness in 0.2 * 0.2 ** np.arange(6):
            lengths = [
                _fibre_length(function, box, axis, lengths[axis], strictness * error, max_length)
                for axis in range(3)
            ]
            values = _sampled_on_nodes(function, box, lengths)
            scale = max(np.abs(values).max(), np.abs(exact).max(), np.finfo(float).tiny)
            aim = strictness * error * scale
            coefficients = _transformed(values)
            result = cls(_decomposed(coefficients, aim), box)
            if np.abs(result._evaluate_scaled(probes) - exact).max() <= 0.6 * error * scale:
                return result
            # Lines through the box may have missed where it is steepest.
            lengths = [
                m if resolved_length(coefficients, aim, axis) <= m - 3 else min(2 * m, max_length)
                for axis, m in enumerate(lengths)
            ]
        raise EquivError(
            f"function: not resolved to {error:g} with {lengths} coefficients; it is not smooth"
            " enough for polynomials - split off what is sharp, or raise max_length"
        )

    @classmethod
    def from_grid(
        cls, values: ArrayLike, lengths: Sequence[int], error: float, *, box: Box = UNIT_BOX
    ) -> "ChebyshevTuckerFunction":
        """From values at the cell centres of a uniform grid, by cubic splines to the nodes.

        Args:
            values: shape ``[n_1, n_2, n_3]``.
            lengths: number of coefficients along each axis.
            error: of the decomposition relative to the largest value; the splines have their own.
            box: which the grid fills.
        """
        sampled: Array = np.asarray(values, dtype=np.float64)
        for axis, m in enumerate(lengths):
            spline = CubicSpline(_cell_centres(sampled.shape[axis]), sampled, axis=axis)
            sampled = np.asarray(spline(chebyshev_nodes(m)))
        aim = error * float(np.abs(sampled).max())
        return cls(_decomposed(_transformed(sampled), aim), box)

    @classmethod
    def from_canonical_grid(
        cls,
        tensor: CanonicalTensor,
        lengths: Sequence[int],
        error: float,
        *,
        box: Box = UNIT_BOX,
        full: bool = False,
    ) -> "ChebyshevTuckerFunction":
        r"""From a canonical tensor on a uniform grid; only its columns are interpolated.

        Args:
            tensor: values at the cell centres, as a sum of products.
            lengths: number of coefficients along each axis.
            error: Frobenius norm of what the decomposition may discard, absolute.
            box: which the grid fills.
            full: form the small tensor of coefficients and decompose that (the paper's algorithm
                3), instead of the reduced HOSVD of its side matrices (algorithm 4), which costs
                :math:`O(R m \min(R, m))` and no :math:`m^3`.
        """
        columns = tuple(
            coefficients_from_values(CubicSpline(_cell_centres(len(u)), u)(chebyshev_nodes(m)))
            for u, m in zip(tensor.factors, lengths, strict=True)
        )
        series = CanonicalTensor(tensor.weights, columns)
        return cls(hosvd(_summed(series), error) if full else rhosvd(series, error), box)

    @classmethod
    def from_charges(
        cls,
        kernel: GaussianSum,
        centers: ArrayLike,
        charges: ArrayLike,
        error: float,
        *,
        box: Box,
    ) -> "ChebyshevTuckerFunction":
        r"""The potential :math:`\sum_j q_j K(|x - y_j|)` of point charges, without any grid.

        Each Gaussian is sampled at Chebyshev nodes, so there is no spline. The
        :math:`N R` columns of one axis are brought to an orthonormal basis of their span for all
        charges at once (reduced HOSVD), and the core is rounded.

        Args:
            kernel: the long-range part of the interaction.
            centers: shape ``[N, 3]``; inside of the box or not.
            charges: shape ``[N]``.
            error: relative to the largest value among 2000 random points.
            box: where the potential is wanted.
        """
        centers, charges = np.asarray(centers, dtype=np.float64), np.asarray(charges)
        probes = np.random.default_rng(0).uniform(-1, 1, (2000, 3))
        points = np.stack([_unscaled(x, edge) for x, edge in zip(probes.T, box, strict=True)], -1)
        exact = sum(
            kernel(np.linalg.norm(points[:, None] - centers[part], axis=-1)) @ charges[part]
            for part in np.array_split(np.arange(len(centers)), 1 + len(centers) // 1000)
        )
        scale = float(np.abs(exact).max())
        lengths: list[int] = []
        for strictness in 0.1 * 0.2 ** np.arange(6):
            aim = strictness * error
            lengths = [_gaussian_length(kernel, edge, aim / len(kernel.w)) for edge in box]
            grid = [
                _unscaled(chebyshev_nodes(m), edge) for m, edge in zip(lengths, box, strict=True)
            ]
            values = canonical_potential(kernel, grid, centers, charges)
            series = CanonicalTensor(
                values.weights, tuple(coefficients_from_values(u) for u in values.factors)
            )
            tucker = rhosvd(_without_duplicates(series), aim * scale).rounded(aim * scale)
            result = cls(tucker, box)
            if np.abs(result._evaluate_scaled(probes) - exact).max() <= error * scale:
                return result
        raise EquivError(
            f"kernel: potential not resolved to {error:g} with {lengths} coefficients; keep fewer,"
            " wider Gaussians in the long-range part"
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of Chebyshev coefficients, degree plus one, along each axis."""
        return self.coefficients.shape

    @property
    def ranks(self) -> tuple[int, ...]:
        """Tucker ranks."""
        return self.coefficients.ranks

    @property
    def storage(self) -> int:
        """How many numbers are kept."""
        return self.coefficients.core.size + sum(v.size for v in self.coefficients.factors)

    def __call__(self, points: ArrayLike) -> Array:
        """Values at points of shape ``[..., 3]`` inside of the box."""
        return self._evaluate_scaled(self._scaled(points))

    def gradient(self, points: ArrayLike) -> Array:
        """Exact gradient of the representation at points of shape ``[..., 3]``."""
        points = np.asarray(points, dtype=np.float64)
        return np.stack([self.derivative(axis)(points) for axis in range(points.shape[-1])], -1)

    def derivative(self, axis: int) -> "ChebyshevTuckerFunction":
        """The partial derivative along ``axis``, in the same format and with the same ranks."""
        low, high = self.box[axis]
        factors = list(self.coefficients.factors)
        factors[axis] = derivative_coefficients(factors[axis]) * (2 / (high - low))
        return ChebyshevTuckerFunction(
            TuckerTensor(self.coefficients.core, tuple(factors)), self.box
        )

    def integral(self) -> float:
        r"""Over the box: :math:`\int_{-1}^{1} T_k = 2 / (1 - k^2)` for even k, 0 for odd."""
        rows = []
        for v, (low, high) in zip(self.coefficients.factors, self.box, strict=True):
            k = np.arange(0, len(v), 2)
            rows.append(((high - low) / (1.0 - k**2)) @ v[::2])
        return float(contract_rows(self.coefficients.core, [row[None] for row in rows])[0])

    def on_grid(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> TuckerTensor:
        """Values on the product of three sets of coordinates, as a Tucker tensor."""
        matrices = [
            chebyshev_polynomials(_scaled_to_unit(np.asarray(c, dtype=np.float64), edge), m)
            for c, edge, m in zip((x, y, z), self.box, self.lengths, strict=True)
        ]
        return self.coefficients.transformed(matrices)

    def rounded(self, error: float) -> "ChebyshevTuckerFunction":
        """Smaller ranks; the coefficients change by at most ``error`` in Frobenius norm."""
        return ChebyshevTuckerFunction(self.coefficients.rounded(error), self.box)

    def __add__(self, other: "ChebyshevTuckerFunction") -> "ChebyshevTuckerFunction":
        if self.box != other.box:
            raise EquivError(f"cannot add functions on the boxes {self.box} and {other.box}")
        lengths = [max(pair) for pair in zip(self.lengths, other.lengths, strict=True)]
        total = _padded(self.coefficients, lengths) + _padded(other.coefficients, lengths)
        return ChebyshevTuckerFunction(total, self.box)

    def __mul__(self, factor: float) -> "ChebyshevTuckerFunction":
        return ChebyshevTuckerFunction(self.coefficients * factor, self.box)

    __rmul__ = __mul__

    def _scaled(self, points: ArrayLike) -> Array:
        points = np.asarray(points, dtype=np.float64)
        scaled = [_scaled_to_unit(points[..., axis], edge) for axis, edge in enumerate(self.box)]
        return np.stack(scaled, -1)

    def _evaluate_scaled(self, points: Array) -> Array:
        rows = [
            chebyshev_polynomials(points[..., axis], len(v)) @ v
            for axis, v in enumerate(self.coefficients.factors)
        ]
        return contract_rows(self.coefficients.core, rows)


def _unscaled(x: Array, edge: tuple[float, float]) -> Array:
    low, high = edge
    return low + (high - low) * (x + 1) / 2


def _scaled_to_unit(x: Array, edge: tuple[float, float]) -> Array:
    low, high = edge
    scaled = 2 * (x - low) / (high - low) - 1
    if scaled.size and np.abs(scaled).max() > 1 + 1e-9:
        raise EquivError(
            f"points: expected coordinates from {low:g} to {high:g}, got {x.min():g} to"
            f" {x.max():g}; the expansion means nothing outside of its box"
        )
    return np.clip(scaled, -1, 1)


def _sampled(function: Function, box: Box, x: Array, y: Array, z: Array) -> Array:
    """``f`` at scaled coordinates that broadcast, with the broadcast shape."""
    points = [_unscaled(c, edge) for c, edge in zip((x, y, z), box, strict=True)]
    values = np.asarray(function(*points), dtype=np.float64)
    return np.broadcast_to(values, np.broadcast_shapes(*(p.shape for p in points)))


def _sampled_on_nodes(function: Function, box: Box, lengths: Sequence[int]) -> Array:
    if np.prod(lengths) > _MAX_VALUES:
        raise EquivError(
            f"function: resolving it takes {lengths} nodes, more values than fit; give it as a sum"
            " of products instead, or ask for a larger error"
        )
    return _sampled(function, box, *np.meshgrid(*map(chebyshev_nodes, lengths), indexing="ij"))


def _fibre_length(
    function: Function, box: Box, axis: int, start: int, error: float, max_length: int
) -> int:
    """How many coefficients ``f`` needs along ``axis``, judged on lines through the box."""
    lines = np.random.default_rng(axis).uniform(-1, 1, (8, 3))
    others = np.vstack([lines, np.zeros((1, 3)), np.array(list(product((-1, 1), repeat=3)))])[None]
    m = start
    while True:
        nodes = np.repeat(others, m, axis=0)
        nodes[..., axis] = chebyshev_nodes(m)[:, None]
        values = _sampled(function, box, *np.moveaxis(nodes, -1, 0))
        c = coefficients_from_values(values)
        needed = resolved_length(c, error * max(np.abs(values).max(), np.finfo(float).tiny))
        if _decayed(needed, m) or m >= max_length:
            return min(max(needed + 2, 3), m)
        m = min(2 * m - 1, max_length)


def _decayed(needed: int, m: int) -> bool:
    """Whether the tail beyond ``needed`` of ``m`` coefficients is long enough to be believed."""
    return needed <= max(0.85 * m, m - 12)


def _transformed(values: Array) -> Array:
    for axis in range(values.ndim):
        values = coefficients_from_values(values, axis)
    return values


def _decomposed(coefficients: Array, error: float) -> TuckerTensor:
    """Cut and decomposed such that the sum changes by less than ``error`` at every node."""
    index = tuple(slice(resolved_length(coefficients, error / 12, axis)) for axis in range(3))
    kept = coefficients[index]
    nodes = [chebyshev_polynomials(chebyshev_nodes(max(2, m)), m) for m in kept.shape]
    exact = apply_along_axes(kept, nodes)
    fine = hosvd(kept, 0.05 * error)
    allowed = 2 * error
    while allowed > 0.05 * error:
        tucker = fine.rounded(allowed)
        if np.abs(tucker.transformed(nodes).full() - exact).max() <= error / 2:
            return tucker
        allowed /= 2
    return fine


def _gaussian_length(kernel: GaussianSum, edge: tuple[float, float], error: float) -> int:
    """Coefficients of the sharpest Gaussian, centred anywhere in the interval."""
    m = 17
    while True:
        x, centres = _unscaled(chebyshev_nodes(m), edge), np.linspace(*edge, 9)
        c = coefficients_from_values(np.exp(-((kernel.t[-1] * (x[:, None] - centres)) ** 2)))
        needed = resolved_length(c, error)
        if needed < 0.85 * m:
            return needed
        m = 2 * m - 1


def _without_duplicates(tensor: CanonicalTensor) -> CanonicalTensor:
    """Terms of no weight left out."""
    unit = tensor.normalized()
    keep = np.abs(unit.weights) > 1e-16 * np.abs(unit.weights).max(initial=0.0)
    return CanonicalTensor(unit.weights[keep], tuple(u[:, keep] for u in unit.factors))


def _summed(tensor: CanonicalTensor) -> Array:
    """The full tensor by matrix products over blocks of terms."""
    x, y, z = tensor.factors
    total = np.zeros((len(x) * len(y), len(z)))
    for block in np.array_split(np.arange(tensor.rank), 1 + tensor.rank // 200):
        pairs = (x[:, None, block] * y[None, :, block]).reshape(-1, len(block))
        total += pairs @ (z[:, block] * tensor.weights[block]).T
    return total.reshape(tensor.shape)


def _cell_centres(n: int) -> Array:
    return (2 * np.arange(n) + 1) / n - 1


def _padded(tensor: TuckerTensor, lengths: Sequence[int]) -> TuckerTensor:
    factors = tuple(
        np.vstack([v, np.zeros((m - len(v), v.shape[1]))])
        for v, m in zip(tensor.factors, lengths, strict=True)
    )
    return TuckerTensor(tensor.core, factors)
