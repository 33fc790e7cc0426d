r"""Points and weights on the unit sphere that integrate polynomials exactly."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3.legendre import azimuthal_waves, normalized_legendre

_LEBEDEV_DEGREES = (*range(3, 32, 2), *range(35, 132, 6))


@dataclass(frozen=True, eq=False)
class SphereGrid:
    r"""A quadrature rule on the unit sphere.

    .. math::
        \int f\, d\Omega = \sum_g w_g\, f(r_g)
        \quad\text{for every polynomial } f \text{ of degree} \le \texttt{degree}

    Attributes:
        points: unit vectors :math:`r_g = (x, y, z)`, float64.
        weights: :math:`w_g`, float64, summing to :math:`4\pi`.
        degree: up to which the rule is exact.
    """

    points: Float[Tensor, "points 3"]
    weights: Float[Tensor, " points"]
    degree: int

    def __len__(self) -> int:
        return len(self.weights)

    def harmonics(self, l_max: int) -> Float[Tensor, "points lm"]:
        r"""Real spherical harmonics of unit norm (``normalization="integral"``) at the points.

        .. math::
            A_{g,\, l^2+l+m} = Y_{lm}(r_g), \qquad
            \sum_g w_g\, A_{gi} A_{gj} = \delta_{ij} \quad (l_i + l_j \le \texttt{degree})
        """
        x, y, z = self.points.T
        p = normalized_legendre(l_max, y, torch.hypot(x, z))  # [l, m, points]
        waves = azimuthal_waves(l_max, torch.atan2(x, z))  # [m, points]
        return torch.cat([_degree(p[l], waves, l) for l in range(l_max + 1)]).T.contiguous()


@dataclass(frozen=True, eq=False)
class ProductGrid(SphereGrid):
    r"""Rings of equal latitude (Gauss-Legendre) times equal steps along each ring.

    The points are sorted ring by ring: ``points.view(len(cosines), len(azimuths), 3)``. The polar
    axis is y. No point is a pole.

    Attributes:
        cosines: :math:`\cos\theta = y` of each ring.
        azimuths: :math:`\varphi = \operatorname{atan2}(x, z)` along a ring.
        ring_weights: weight of every point of a ring.
    """

    cosines: Float[Tensor, " rings"]
    azimuths: Float[Tensor, " steps"]
    ring_weights: Float[Tensor, " rings"]


def product_grid(degree: int, *, rings: int | None = None, steps: int | None = None) -> ProductGrid:
    r"""The smallest Gauss-Legendre x equispaced rule that is exact to a degree.

    .. math::
        n_\theta = \lfloor (\texttt{degree} + 2) / 2 \rfloor, \qquad
        n_\varphi = \texttt{degree} + 1, \qquad w = \frac{2\pi}{n_\varphi}\, w^\text{GL}_\theta

    :math:`n` Gauss-Legendre nodes in :math:`\cos\theta` integrate polynomials of degree
    :math:`2n - 1`; :math:`n_\varphi` equal steps integrate waves :math:`e^{im\varphi}` with
    :math:`|m| < n_\varphi`. One node fewer in either direction, and the rule is wrong by tens of
    percent.

    Args:
        degree: of the polynomials.
        rings: another number of rings, for a rule with symmetries that the smallest lacks; fewer
            than needed lowers ``degree`` of the result.
        steps: another number of points along each ring, likewise.

    Raises:
        EquivError: ``degree`` is negative, or ``rings`` or ``steps`` is not positive.
    """
    if degree < 0:
        raise EquivError(f"product_grid: degree cannot be negative, got {degree}")
    rings = (degree + 2) // 2 if rings is None else rings
    steps = degree + 1 if steps is None else steps
    if rings < 1 or steps < 1:
        raise EquivError(f"product_grid: rings and steps must be positive, got {rings} and {steps}")
    nodes, node_weights = np.polynomial.legendre.leggauss(rings)
    cosines = torch.from_numpy(nodes)
    azimuths = torch.arange(steps, dtype=torch.float64) * (2 * math.pi / steps)
    sines = (1 - cosines**2).sqrt()
    points = torch.stack(
        [
            sines[:, None] * azimuths.sin(),
            cosines[:, None].expand(-1, steps),
            sines[:, None] * azimuths.cos(),
        ],
        dim=-1,
    )
    ring_weights = torch.from_numpy(node_weights) * (2 * math.pi / steps)
    return ProductGrid(
        points=points.flatten(0, 1),
        weights=ring_weights.repeat_interleave(steps),
        degree=min(2 * rings - 1, steps - 1),
        cosines=cosines,
        azimuths=azimuths,
        ring_weights=ring_weights,
    )


def lebedev_grid(degree: int) -> SphereGrid:
    r"""The smallest tabulated Lebedev rule that is exact to at least a degree.

    Invariant under the octahedral group with inversion, with about :math:`(n+1)^2 / 3` points for
    degree :math:`n`, a third fewer than a product grid. Degrees 3, 5, ..., 31, 35, 41, 47, ..., 131
    are tabulated; the rules of degree 13, 25 and 27 have a few negative weights. (Lebedev 1976;
    the table is SciPy's.)

    Raises:
        EquivError: ``degree`` is negative or above 131.
    """
    if not 0 <= degree <= _LEBEDEV_DEGREES[-1]:
        raise EquivError(
            f"lebedev_grid: rules are tabulated for degrees 0 to {_LEBEDEV_DEGREES[-1]}, "
            f"got {degree}; product_grid has no limit"
        )
    from scipy.integrate import lebedev_rule  # forty megabytes that few processes need

    tabulated = next(d for d in _LEBEDEV_DEGREES if d >= degree)
    points, weights = lebedev_rule(tabulated)
    points = np.ascontiguousarray(points.T)
    return SphereGrid(torch.from_numpy(points), torch.from_numpy(weights.copy()), tabulated)


def antipodal_half(grid: SphereGrid) -> SphereGrid:
    r"""One point of each antipodal pair, with twice the weight.

    .. math::
        \int f\, d\Omega = \sum_{g \in \text{half}} 2 w_g\, f(r_g) \quad\text{if } f(-r) = f(r)

    Exact for *even* polynomials up to the degree of ``grid``; odd ones have integral 0 anyway.

    Raises:
        EquivError: a point of ``grid`` has no partner of the same weight at its antipode.
    """
    points, weights = grid.points, grid.weights
    distance = (points[:, None] + points).norm(dim=-1)
    partner = distance.argmin(dim=1)
    unpaired = (distance.amin(dim=1) > 1e-9) | ((weights[partner] - weights).abs() > 1e-12)
    if unpaired.any():
        raise EquivError(
            f"antipodal_half: {int(unpaired.sum())} of {len(points)} points have no partner at "
            "their antipode; Lebedev rules and product grids with an even number of steps do"
        )
    keep = torch.arange(len(points)) < partner
    return SphereGrid(points[keep], 2 * weights[keep], grid.degree)


def _degree(
    p: Float[Tensor, "m points"], waves: Float[Tensor, "signed_m points"], l: int
) -> Float[Tensor, "m points"]:
    middle = len(waves) // 2
    signed = torch.cat([p[1 : l + 1].flip(0), p[: l + 1]])
    return signed * waves[middle - l : middle + l + 1]
