"""Charges in boxes: their Chebyshev moments, and the potential that moments of others make."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.polynomial import chebyshev
from torch import Tensor

# Rows of boxes are worked on in pieces of so many numbers where no graph is kept.
CHUNK = 2**18


def lobatto_nodes(nodes: int) -> np.ndarray:
    r"""The extrema :math:`-\cos(\pi i / (n-1))` of a Chebyshev polynomial, ends included."""
    return -np.cos(np.pi * np.arange(nodes) / (nodes - 1))


@dataclass(frozen=True)
class LagrangeBasis:
    r"""The polynomials :math:`\ell_a` that are 1 at one of the Lobatto nodes and 0 at the others.

    .. math:: \ell_a(\xi) = \sum_n T_n(\xi)\, V^{-1}_{na}, \qquad
              \ell_a'(\xi) = \sum_b \ell_b(\xi)\, D_{ba}

    Attributes:
        inverse: :math:`V^{-1}`, from values of the Chebyshev polynomials to the basis.
        slopes: :math:`D_{ba} = \ell_a'(\xi_b)`.
    """

    inverse: Float[Tensor, "nodes nodes"]
    slopes: Float[Tensor, "nodes nodes"]

    @classmethod
    def of(cls, nodes: int, like: Tensor) -> "LagrangeBasis":
        return _lagrange_basis(nodes, like.dtype, like.device)

    @classmethod
    def _made(cls, nodes: int, dtype: torch.dtype, device: torch.device) -> "LagrangeBasis":
        points = lobatto_nodes(nodes)
        values = chebyshev.chebvander(points, nodes - 1)
        inverse = np.linalg.inv(values)
        derivative = np.zeros((nodes, nodes))
        for n in range(1, nodes):
            c = chebyshev.chebder(np.eye(nodes)[n])
            derivative[: len(c), n] = c
        slopes = values @ derivative @ inverse
        return cls(*(torch.as_tensor(m).to(device, dtype) for m in (inverse, slopes)))

    def __call__(self, x: Tensor) -> Float[Tensor, "*points nodes"]:
        """Values at points in [-1, 1], differentiable to any order."""
        return cast(Tensor, _Lagrange.apply(x, self))

    def values(self, x: Tensor) -> Tensor:
        """Values without a graph."""
        return self.transposed(x.reshape(-1)).T.reshape(*x.shape, len(self.inverse))

    def transposed(self, x: Tensor) -> Float[Tensor, "nodes *points"]:
        """Values without a graph, points last."""
        rows = x.new_empty(len(self.inverse), *x.shape)
        rows[0] = 1
        rows[1] = x
        twice = 2 * x
        for n in range(2, len(rows)):
            torch.mul(twice, rows[n - 1], out=rows[n])
            rows[n] -= rows[n - 2]
        return (self.inverse.T @ rows.flatten(1)).view_as(rows)


@lru_cache(maxsize=64)
def _lagrange_basis(nodes: int, dtype: torch.dtype, device: torch.device) -> LagrangeBasis:
    return LagrangeBasis._made(nodes, dtype, device)


class _Lagrange(torch.autograd.Function):
    """The gradient applies the same function again, so any order costs one table per order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, basis: LagrangeBasis) -> Tensor:
        ctx.save_for_backward(x)
        ctx.basis = basis
        return basis.values(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return (grads[0] @ ctx.basis.slopes.T * ctx.basis(x)).sum(-1), None


@dataclass(frozen=True)
class Boxes:
    """Which atom lies in which box. Integers only; no gradient passes through the choice.

    Atoms of one box share a row of ``width`` places; a crowded box takes several rows, an empty
    one none, so that neither empty space nor a dense spot costs anything.

    Attributes:
        shape: boxes along each direction.
        boxes: for each row the number of its box.
        places: for each atom the number of its place among all rows.
        width: places in a row.
        one_row_each: whether no box has more than one row.
    """

    shape: tuple[int, int, int]
    boxes: Int[Tensor, " rows"]
    places: Int[Tensor, " atoms"]
    width: int
    one_row_each: bool

    @classmethod
    def sorted(cls, cells: Int[Tensor, "atoms 3"], shape: tuple[int, int, int]) -> "Boxes":
        """From the box of each atom along each direction."""
        flat = (cells[:, 0] * shape[1] + cells[:, 1]) * shape[2] + cells[:, 2]
        ranked, order = torch.sort(flat)
        occupied, counts = torch.unique_consecutive(ranked, return_counts=True)
        width = _best_width(counts)
        rows = (counts + (width - 1)) // width
        first_row = torch.cumsum(rows, 0) - rows
        first_atom = torch.cumsum(counts, 0) - counts
        places = torch.empty_like(order)
        in_order = torch.arange(len(order), device=order.device)
        places[order] = in_order + (first_row * width - first_atom).repeat_interleave(counts)
        one = bool((rows == 1).all())
        return cls(shape, occupied.repeat_interleave(rows), places, width, one)

    @property
    def rows(self) -> int:
        return len(self.boxes)

    def padded(self, values: Tensor) -> Tensor:
        """From atoms [atoms, ...] to places [rows, width, ...]; zero where nobody is."""
        zeros = values.new_zeros(self.rows * self.width, *values.shape[1:])
        return zeros.index_copy(0, self.places, values).unflatten(0, (self.rows, self.width))

    def to_grid(self, moments: Float[Tensor, "rows p2 p"]) -> Float[Tensor, "nx ny nz"]:
        """Sums the moments of each box and lays all boxes out side by side."""
        p = moments.shape[-1]
        n1, n2, n3 = self.shape
        boxes = moments.reshape(-1, p**3)
        if self.rows != n1 * n2 * n3 or not self.one_row_each:
            boxes = moments.new_zeros(n1 * n2 * n3, p**3).index_add(0, self.boxes, boxes)
        boxes = boxes.view(n1, n2, n3, p, p, p).permute(0, 3, 1, 4, 2, 5)
        return boxes.reshape(n1 * p, n2 * p, n3 * p)

    def from_grid(self, grid: Float[Tensor, "nx ny nz"], p: int) -> Float[Tensor, "boxes p p p"]:
        """The nodes of each occupied box's grid, for all boxes: the transpose of to_grid."""
        n1, n2, n3 = self.shape
        boxes = grid.view(n1, p, n2, p, n3, p).permute(0, 2, 4, 1, 3, 5)
        return boxes.reshape(n1 * n2 * n3, p, p, p)


def _best_width(counts: Tensor) -> int:
    """Places in a row such that few rows and few empty places are made.

    A row costs about as much as four places, whatever it holds.
    """
    most = int(counts.max()) if len(counts) else 1
    spread = torch.bincount(counts, minlength=most + 1).tolist()
    filled = [(n, times) for n, times in enumerate(spread) if times and n]
    step = max(1, most // 64)
    costs = {
        width: sum(times * -(-n // width) for n, times in filled) * (width + 4)
        for width in range(most, 0, -step)
    }
    return min(costs, key=lambda width: costs[width])


@dataclass(frozen=True)
class BoxTables:
    r"""What the charges of each row know of the nodes of their box; without a graph.

    Places come last: products over all of them are then long vectors.

    Attributes:
        x, y, z: :math:`\ell_a(\xi)` along each axis, [rows, nodes, width].
    """

    boxes: Boxes
    basis: LagrangeBasis
    x: Float[Tensor, "rows nodes width"]
    y: Float[Tensor, "rows nodes width"]
    z: Float[Tensor, "rows nodes width"]

    @classmethod
    def of(cls, local: Float[Tensor, "atoms 3"], boxes: Boxes, p: int) -> "BoxTables":
        """From coordinates in the boxes, in [-1, 1]."""
        basis = LagrangeBasis.of(p, local)
        columns = [boxes.padded(column) for column in local.unbind(-1)]
        tables = (basis.transposed(column).permute(1, 0, 2) for column in columns)
        return cls(boxes, basis, *tables)

    @property
    def nodes(self) -> int:
        return len(self.basis.inverse)

    def chunks(self) -> Iterator[tuple[slice, Float[Tensor, "rows p2 width"]]]:
        r"""Some rows at a time, and :math:`\ell_a(\xi)\, \ell_b(\eta)` of their charges."""
        p, width = self.nodes, self.boxes.width
        step = max(1, CHUNK // (width * p * p))
        products = self.x.new_empty(step, p, p, width)
        for start in range(0, self.boxes.rows, step):
            rows = slice(start, min(start + step, self.boxes.rows))
            out = products[: rows.stop - start]
            torch.mul(self.x[rows, :, None], self.y[rows, None], out=out)
            yield rows, out.flatten(1, 2)

    @torch.no_grad()
    def moments(self, charges: Float[Tensor, " atoms"]) -> Float[Tensor, "nx ny nz"]:
        """The same as :func:`moments`."""
        p = self.nodes
        charged = self.z * self.boxes.padded(charges)[:, None]
        out = charges.new_empty(self.boxes.rows, p * p, p)
        for rows, products in self.chunks():
            torch.bmm(products, charged[rows].mT, out=out[rows])
        return self.boxes.to_grid(out)

    @torch.no_grad()
    def fields(
        self, grid: Float[Tensor, "nx ny nz"]
    ) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "atoms 3"]]:
        r"""Potential and gradient in the local coordinates at each charge, from node values.

        .. math:: \phi(\xi, \eta, \zeta) = \sum_{abc} \Phi_{abc}\,
                  \ell_a(\xi) \ell_b(\eta) \ell_c(\zeta)
        """
        p, slopes = self.nodes, self.basis.slopes
        values = self.boxes.from_grid(grid, p)
        out = grid.new_empty(4, self.boxes.rows, self.boxes.width)
        steep = torch.matmul(slopes.T, self.z)
        for rows, products in self.chunks():
            # Slopes along x and y are taken at the nodes, where they are products of small
            # matrices: sum_a D_{ba} Phi_a is the slope at node b.
            at = values[self.boxes.boxes[rows]]
            along_x = torch.matmul(slopes, at.flatten(2)).unflatten(-1, (p, p))
            along_y = torch.matmul(slopes, at)
            stacked = torch.cat([at, along_x, along_y], -1).flatten(1, 2)
            in_z = torch.bmm(stacked.mT, products).unflatten(1, (3, p))
            out[3, rows] = (in_z[:, 0] * steep[rows]).sum(1)
            out[:3, rows] = in_z.mul_(self.z[rows, None]).sum(2).transpose(0, 1)
        found = out.flatten(1).index_select(1, self.boxes.places)
        return found[0], found[1:].T


def moments(
    local: Float[Tensor, "atoms 3"], charges: Float[Tensor, " atoms"], boxes: Boxes, p: int
) -> Float[Tensor, "nx ny nz"]:
    r"""Chebyshev moments of all boxes as one grid; differentiable.

    .. math:: M_{abc} = \sum_{i \in \text{box}} q_i\, \ell_a(\xi_i) \ell_b(\eta_i) \ell_c(\zeta_i)

    Args:
        local: coordinates of each charge in its box, in [-1, 1].
        charges: :math:`q_i`.
        boxes: who is where.
        p: nodes of a box along each direction.
    """
    basis = LagrangeBasis.of(p, local)
    x, y, z = (basis(boxes.padded(column)) for column in local.unbind(-1))
    xy = (x[..., :, None] * y[..., None, :]).flatten(-2)
    return boxes.to_grid(xy.mT @ (z * boxes.padded(charges)[..., None]))
