r"""Orientations shared by all points: where functions on the circle or the sphere are sampled."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.choices import choose
from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.position_orientation import polyhedra
from equiv.so3.grids import lebedev_grid

HIGHEST_STRENGTH = 40
"""Degree up to which the strength of a grid is searched."""


class OrientationGrid(ExactConstants):
    r"""A quadrature rule on the circle or the sphere, and how to read vectors and tensors off it.

    .. math::
        \langle f \rangle = \sum_o w_o\, f(o), \qquad \sum_o w_o = 1

    is the mean over all orientations, exactly so for polynomials up to the degree
    :attr:`strength`. Rotations that permute the points (:func:`rotation_group`) are exact
    symmetries of everything computed on the grid; any other rotation is one approximately.

    Points and weights are part of the state dict, in float64 whatever the dtype of the model, and
    are exact after any change of dtype.

    Args:
        points: unit vectors. Shape ``[orientations, dim]``, ``dim`` 2 or 3.
        weights: :math:`w_o`, by default equal. They are normalised.
        frame: matrix :math:`M` with which vectors are read out, :math:`v = M \sum_o w_o f(o)\, o`;
            by default :math:`M = (\sum_o w_o\, o\, o^\mathsf{T})^{-1}`, so that what was lifted is
            read out unchanged.

    Raises:
        EquivError: the points are not unit vectors, or all lie in one plane (line), or weights do
            not fit.
    """

    def __init__(
        self,
        points: Float[Tensor, "orientations dim"],
        weights: Float[Tensor, " orientations"] | None = None,
        *,
        frame: Float[Tensor, "dim dim"] | None = None,
    ) -> None:
        super().__init__()
        points = points.detach().to("cpu", torch.float64)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise EquivError(
                "OrientationGrid: points must have shape [orientations, 2 or 3], "
                f"got {tuple(points.shape)}"
            )
        if not torch.allclose(points.norm(dim=1), points.new_ones(()), rtol=0, atol=1e-5):
            raise EquivError(
                "OrientationGrid: points must be unit vectors, got lengths from "
                f"{points.norm(dim=1).min():.6g} to {points.norm(dim=1).max():.6g}; normalise them"
            )
        num = points.shape[0]
        if weights is None:
            weights = points.new_ones(num)
        weights = weights.detach().to("cpu", torch.float64)
        if weights.shape != (num,) or not weights.sum() > 0:
            raise EquivError(
                f"OrientationGrid: expected {num} weights with a positive sum, got shape "
                f"{tuple(weights.shape)} and sum {weights.sum():.3g}"
            )
        weights = weights / weights.sum()
        moment = torch.einsum("o,oi,oj->ij", weights, points, points)
        if frame is None:
            if torch.linalg.eigvalsh(moment)[0] < 1e-8:
                raise EquivError(
                    f"OrientationGrid: the {num} points span no space of dimension "
                    f"{points.shape[1]}, so no vector can be read out; take more points"
                )
            frame = torch.linalg.inv(moment)
        self.register_constant("points", points)
        self.register_constant("weights", weights)
        assert frame is not None
        self.register_constant("frame", frame.contiguous())
        self.points: Tensor
        self.weights: Tensor
        self.frame: Tensor
        self._derive()

    @property
    def num(self) -> int:
        """Number of orientations."""
        return self.points.shape[0]

    @property
    def dim(self) -> int:
        """Dimension of the space, 2 or 3."""
        return self.points.shape[1]

    def _derive(self) -> None:
        """Set what follows from points, weights and frame."""
        points, weights = self._exact["points"], self._exact["weights"]
        duals = torch.einsum("o,ij,oj->oi", weights, self._exact["frame"], points)
        self.register_constant("vector_duals", duals)
        self.register_constant("tensor_duals", _tensor_duals(points, weights))
        self.vector_duals: Tensor
        self.tensor_duals: Tensor
        self.tells_tensors_apart = not bool(self._exact["tensor_duals"].isnan().any())
        self.strength = design_strength(points, weights)
        self.antipodes = antipodes(points, weights)

    def rotated(self, rotation: Float[Tensor, "dim dim"]) -> "OrientationGrid":
        """The grid turned as a whole; functions keep their values on it."""
        turn = rotation.detach().to("cpu", torch.float64)
        frame = turn @ self._exact["frame"] @ turn.T
        grid = OrientationGrid(self._exact["points"] @ turn.T, self._exact["weights"], frame=frame)
        return grid.to(self.points)

    def extra_repr(self) -> str:
        return f"{self.num} orientations in {self.dim}D, strength {self.strength}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name in STORED:
            destination[prefix + name] = self._exact[name].clone()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        missing = [prefix + name for name in STORED if prefix + name not in state_dict]
        if missing:
            missing_keys += missing
            return
        for name in STORED:
            value = state_dict[prefix + name].detach().to("cpu", torch.float64)
            if value.shape != self._exact[name].shape:
                error_msgs.append(
                    f"{prefix + name}: the grid has shape {tuple(self._exact[name].shape)}, "
                    f"the stored one {tuple(value.shape)}"
                )
                return
            self._exact[name] = value.clone()
        like = self.points
        self._derive()
        self.to(like)


STORED = ("points", "weights", "frame")
"""What of a grid is in the state dict."""


def orientation_grid(name: str, num: int | None = None, *, seed: int = 0) -> OrientationGrid:
    """A grid by name.

    ================ ============= ======== ======================================================
    name             orientations  strength
    ================ ============= ======== ======================================================
    ``octahedron``   6             3        symmetry of the cube
    ``icosahedron``  12            5        the best small one
    ``dodecahedron`` 20            5
    ``lebedev14``    14            5        weighted, symmetry of the cube
    ``lebedev26``    26            7        weighted, symmetry of the cube
    ``pentakis32``   32            9        weighted, icosahedral; for potentials
    ``repulsion``    ``num``       0 to 3   of points that keep apart, from ``seed``
    ``fibonacci``    ``num``       0        a spiral
    ``circle``       ``num``       num - 1  of the plane
    ================ ============= ======== ======================================================

    Args:
        name: one of these.
        num: number of orientations, where the table says so.
        seed: of ``repulsion``.

    Raises:
        EquivError: no such grid, or ``num`` is missing, superfluous or too small.
    """
    build = choose(ORIENTATION_GRIDS, name, "orientation_grid: name")
    if name in SIZED:
        least = 3 if name == "circle" else 4
        if num is None or num < least:
            raise EquivError(
                f"orientation_grid: {name!r} takes a number of orientations, at least {least}; "
                f"got {num}"
            )
    elif num is not None and num != build(0, 0).num:
        raise EquivError(
            f"orientation_grid: {name!r} has {build(0, 0).num} orientations, not {num}; leave num "
            f"away, or take one of {', '.join(map(repr, sorted(SIZED)))}"
        )
    return build(num or 0, seed)


def _lebedev(degree: int) -> OrientationGrid:
    rule = lebedev_grid(degree)
    return OrientationGrid(rule.points, rule.weights)


def _pentakis() -> OrientationGrid:
    # The weights for which all even moments up to degree 8 are those of the sphere.
    weights = torch.tensor([25.0] * 12 + [27.0] * 20, dtype=torch.float64)
    points = torch.cat([polyhedra.icosahedron(), polyhedra.dodecahedron()])
    return OrientationGrid(points, weights / 840)


ORIENTATION_GRIDS: dict[str, Callable[[int, int], OrientationGrid]] = {
    "octahedron": lambda num, seed: OrientationGrid(polyhedra.octahedron()),
    "icosahedron": lambda num, seed: OrientationGrid(polyhedra.icosahedron()),
    "dodecahedron": lambda num, seed: OrientationGrid(polyhedra.dodecahedron()),
    "lebedev14": lambda num, seed: _lebedev(5),
    "lebedev26": lambda num, seed: _lebedev(7),
    "pentakis32": lambda num, seed: _pentakis(),
    "repulsion": lambda num, seed: OrientationGrid(polyhedra.repelled(num, seed)),
    "fibonacci": lambda num, seed: OrientationGrid(polyhedra.fibonacci(num)),
    "circle": lambda num, seed: OrientationGrid(polyhedra.circle(num)),
}
SIZED = frozenset({"repulsion", "fibonacci", "circle"})
"""The grids that come in all sizes."""


def zonal_polynomials(
    degree: int, cosines: Float[Tensor, "*points"], dim: int
) -> Float[Tensor, "*points degrees"]:
    r"""Functions of the angle to an axis, one per degree, of unit variance on the sphere (circle).

    .. math::
        \sqrt{2l+1}\; P_l(\cos\theta) \quad (\texttt{dim} = 3), \qquad
        1, \sqrt2 \cos l\theta \quad (\texttt{dim} = 2)

    for :math:`l = 0 \dots` ``degree``. Polynomials of the cosine, by the three-term recurrences.
    """
    p = [torch.ones_like(cosines), cosines]
    for l in range(1, degree):
        if dim == 3:
            p.append(((2 * l + 1) * cosines * p[-1] - l * p[-2]) / (l + 1))
        else:
            p.append(2 * cosines * p[-1] - p[-2])
    variance = [1.0 / (2 * l + 1) if dim == 3 else 0.5 if l else 1.0 for l in range(degree + 1)]
    return torch.stack([q / math.sqrt(v) for q, v in zip(p, variance, strict=False)], -1)


def design_strength(
    points: Float[Tensor, "orientations dim"], weights: Float[Tensor, " orientations"]
) -> int:
    r"""The degree up to which a rule averages all polynomials exactly.

    .. math::
        \sum_{ab} w_a w_b\, P_l(o_a \cdot o_b) = \tfrac{4\pi}{2l+1} \sum_m \Big( \sum_a w_a
        Y_{lm}(o_a) \Big)^2 = 0

    for all :math:`1 \le l \le` strength (on the circle with :math:`\cos l\theta`).
    """
    cosines = (points @ points.T).clamp(-1, 1)
    p = zonal_polynomials(HIGHEST_STRENGTH, cosines, points.shape[1])
    moments = torch.einsum("a,abl,b->l", weights, p, weights)
    wrong = (moments[1:].abs() > 1e-12).nonzero()
    return int(wrong[0]) if len(wrong) else HIGHEST_STRENGTH


def antipodes(
    points: Float[Tensor, "orientations dim"], weights: Float[Tensor, " orientations"]
) -> Int[Tensor, " orientations"] | None:
    """The place of the opposite of every point, or ``None`` if one is missing or weighs other."""
    distance = (points[:, None] + points).norm(dim=-1)
    opposite = distance.argmin(1)
    paired = (distance.amin(1) < 1e-9) & ((weights[opposite] - weights).abs() < 1e-12)
    return opposite if bool(paired.all()) else None


def rotation_group(
    grid: OrientationGrid,
) -> tuple[Float[Tensor, "rotations dim dim"], Int[Tensor, "rotations orientations"]]:
    r"""All rotations that permute the points of a grid, and how.

    .. math::
        R\, o_a = o_{\pi(a)}, \qquad w_{\pi(a)} = w_a

    The identity is among them. Cost: :math:`O(n^3)`.

    Returns:
        The matrices, float64, and :math:`\pi` for each.
    """
    points, weights = grid._exact["points"], grid._exact["weights"]
    cosines = points @ points.T
    second = int(cosines[0].abs().argmin())  # far from parallel to the first
    first_frame = torch.linalg.inv(_frame(points[0], points[second]))
    rotations, permutations = [], []
    for a in range(grid.num):
        for b in range(grid.num) if grid.dim == 3 else [second]:
            if grid.dim == 3 and (cosines[a, b] - cosines[0, second]).abs() > 1e-9:
                continue
            turn = _frame(points[a], points[b]) @ first_frame
            distance = torch.cdist(points @ turn.T, points)
            to = distance.argmin(1)
            if distance.amin(1).max() < 1e-7 and (weights[to] - weights).abs().max() < 1e-9:
                rotations.append(turn)
                permutations.append(to)
    return torch.stack(rotations), torch.stack(permutations)


def _frame(a: Tensor, b: Tensor) -> Tensor:
    """Columns that a rotation turns along with two directions (in the plane, with the first)."""
    if len(a) == 2:
        return torch.stack([a, torch.stack([-a[1], a[0]])], 1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], 1)


def _tensor_duals(points: Tensor, weights: Tensor) -> Tensor:
    r"""Symmetric tensors :math:`D_o` with :math:`\sum_o D_o\, (o \cdot T o) = T`; NaN if none.

    Those of least norm in the metric of the weights.
    """
    dim = points.shape[1]
    rows, columns = torch.triu_indices(dim, dim)
    scale = 1 + (math.sqrt(2) - 1) * (rows != columns).double()  # an orthonormal basis
    products = points[:, rows] * points[:, columns] * scale
    root = weights.abs().sqrt().unsqueeze(1)
    if torch.linalg.matrix_rank(root * products, rtol=1e-4) < products.shape[1]:
        return points.new_full((len(points), dim, dim), torch.nan)
    flat = root * torch.linalg.pinv(root * products).T / scale
    duals = points.new_zeros(len(points), dim, dim)
    duals[:, rows, columns] = flat
    duals[:, columns, rows] = flat
    return duals
