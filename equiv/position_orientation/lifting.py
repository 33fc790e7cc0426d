r"""From scalars, vectors and tensors to functions of an orientation, and back."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.position_orientation.grids import OrientationGrid


@dataclass(frozen=True)
class Channels:
    """How many quantities of each kind there are.

    Attributes:
        scalars: numbers.
        vectors: vectors.
        tensors: symmetric tensors of rank 2 (a trace, and the five components of degree 2).
    """

    scalars: int = 0
    vectors: int = 0
    tensors: int = 0

    @property
    def total(self) -> int:
        """Channels of the function that carries them."""
        return self.scalars + self.vectors + self.tensors


@dataclass(frozen=True)
class Quantities:
    """Quantities at every point; those that there are none of have zero channels.

    Attributes:
        scalars: shape ``[rows, scalars]``.
        vectors: shape ``[rows, vectors, dim]``.
        tensors: symmetric. Shape ``[rows, tensors, dim, dim]``.
    """

    scalars: Float[Tensor, "*rows scalars"]
    vectors: Float[Tensor, "*rows vectors dim"]
    tensors: Float[Tensor, "*rows tensors dim dim"]


def lift(
    grid: OrientationGrid,
    scalars: Float[Tensor, "*rows scalars"] | None = None,
    vectors: Float[Tensor, "*rows vectors dim"] | None = None,
    tensors: Float[Tensor, "*rows tensors dim dim"] | None = None,
) -> Float[Tensor, "*rows orientations channels"]:
    r"""Functions of an orientation that carry scalars, vectors and symmetric tensors.

    .. math::
        f(o) = s, \qquad f(o) = v \cdot o, \qquad f(o) = o \cdot T o

    Rotations commute with it: lifting :math:`R v` gives :math:`f(R^{-1} o)`.

    Raises:
        EquivError: there is nothing to lift.
    """
    o = grid.points
    parts = []
    if scalars is not None:
        parts.append(scalars.unsqueeze(-2).expand(*scalars.shape[:-1], grid.num, -1))
    if vectors is not None:
        parts.append(torch.einsum("...ci,oi->...oc", vectors, o))
    if tensors is not None:
        squares = o.unsqueeze(-1) * o.unsqueeze(-2)
        parts.append(torch.einsum("...cij,oij->...oc", tensors, squares))
    if not parts:
        raise EquivError("lift: there is nothing to lift; give scalars, vectors or tensors")
    return torch.cat(parts, -1)


def readout(
    grid: OrientationGrid, f: Float[Tensor, "*rows orientations channels"], channels: Channels
) -> Quantities:
    r"""Scalars, vectors and symmetric tensors of functions of an orientation: undoes :func:`lift`.

    .. math::
        s = \sum_o w_o\, f(o), \qquad
        v = M \sum_o w_o\, f(o)\, o, \qquad
        T = \sum_o D_o\, f(o)

    :math:`M = (\sum_o w_o\, o\, o^\mathsf{T})^{-1}` and the dual tensors :math:`D_o` make this the
    exact inverse on every grid; on grids of strength 4 they are isotropic, :math:`M = 3` and
    :math:`D_o = w_o (\tfrac{15}{2} o o^\mathsf{T} - \tfrac32)` in space.

    Raises:
        EquivError: the channels do not add up, or tensors are asked of a grid that has too few
            axes to tell them apart.
    """
    if f.shape[-2:] != (grid.num, channels.total):
        raise EquivError(
            f"readout: expected [..., {grid.num} orientations, {channels.total} channels], "
            f"got shape {tuple(f.shape)}"
        )
    s, v, t = f.split([channels.scalars, channels.vectors, channels.tensors], -1)
    if channels.tensors:
        check_tensors(grid)
    return Quantities(
        torch.einsum("...oc,o->...c", s, grid.weights),
        torch.einsum("...oc,oi->...ci", v, grid.vector_duals),
        torch.einsum("...oc,oij->...cij", t, grid.tensor_duals),
    )


def check_tensors(grid: OrientationGrid) -> None:
    """Raise an error if symmetric tensors cannot be read off a grid."""
    if not grid.tells_tensors_apart:
        raise EquivError(
            f"readout: {grid.num} orientations cannot tell the {grid.dim * (grid.dim + 1) // 2} "
            "components of symmetric tensors apart; take a grid with more axes, the icosahedron "
            "for one"
        )
