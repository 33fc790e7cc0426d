"""Charges in boxes: their Chebyshev moments, and the potential that moments of others make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.polynomial import chebyshev
from torch import Tensor

from equiv.graph.adjoint import with_gradient

# Rows of boxes are worked on in pieces of so many numbers where no graph is kept.
CHUNK = 2**17
# Values of all charges at all nodes are kept if they are no more numbers than that.
TABLES = 2**21


def lobatto_nodes(nodes: int) -> np.ndarray:
    r"""The extrema :math:`-\cos(\pi i / (n-1))` of a Chebyshev polynomial, ends included."""
    return -np.cos(np.pi * np.arange(nodes) / (nodes - 1))


@lru_cache(maxsize=64)
def _inverse_of_values(nodes: int) -> np.ndarray:
    return np.linalg.inv(chebyshev.chebvander(lobatto_nodes(nodes), nodes - 1))


def series_in_boxes(values: Float[Tensor, "nodes functions"], nodes: int) -> Tensor:
    """Chebyshev coefficients in each box, from values on the Lobatto nodes of boxes in a row."""
    boxes = values.unflatten(0, (-1, nodes))
    return torch.matmul(torch.from_numpy(_inverse_of_values(nodes)).to(values), boxes).flatten(0, 1)


@dataclass(frozen=True)
class ChebyshevBasis:
    r"""The polynomials :math:`T_0 \dots T_{p-1}`.

    .. math:: T_n'(\xi) = \sum_m T_m(\xi)\, D_{mn}

    Attributes:
        slopes: :math:`D`, strictly upper triangular.
    """

    slopes: Float[Tensor, "nodes nodes"]

    @classmethod
    def of(cls, nodes: int, like: Tensor) -> "ChebyshevBasis":
        return _chebyshev_basis(nodes, like.dtype, like.device)

    def __call__(self, x: Tensor) -> Float[Tensor, "*points nodes"]:
        """Values at points in [-1, 1], differentiable to any order."""

        def gradient(x: Tensor, grad: Tensor) -> Tensor:
            return (grad @ self.slopes.T * self(x)).sum(-1)

        return with_gradient(x, self.values, gradient)

    def values(self, x: Tensor) -> Tensor:
        """Values without a graph."""
        return self.transposed(x.reshape(-1)).T.reshape(*x.shape, len(self.slopes))

    def transposed(self, x: Tensor) -> Float[Tensor, "nodes *points"]:
        """Values without a graph, points last."""
        rows = x.new_empty(len(self.slopes), *x.shape)
        rows[0] = 1
        rows[1] = x
        twice = 2 * x
        for n in range(2, len(rows)):
            torch.mul(twice, rows[n - 1], out=rows[n])
            rows[n] -= rows[n - 2]
        return rows


@lru_cache(maxsize=64)
def _chebyshev_basis(nodes: int, dtype: torch.dtype, device: torch.device) -> ChebyshevBasis:
    derivative = np.zeros((nodes, nodes))
    for n in range(1, nodes):
        c = chebyshev.chebder(np.eye(nodes)[n])
        derivative[: len(c), n] = c
    return ChebyshevBasis(torch.as_tensor(derivative).to(device, dtype))


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


class BoxTransfer:
    r"""Between charges and coefficients, layer of boxes by layer of boxes; without a graph.

    Whatever lies between charges and coefficients exists for one layer of boxes at a time, so that
    it stays in the cache and no memory is asked for again and again.

    Args:
        local: coordinates of each charge in its box, in [-1, 1].
        boxes: who is where.
        matrices: for each axis the functions whose coefficients are wanted, as Chebyshev
            coefficients on each of its boxes.
    """

    def __init__(
        self,
        local: Float[Tensor, "atoms 3"],
        boxes: Boxes,
        matrices: Sequence[Float[Tensor, "nodes functions"]],
    ) -> None:
        self.boxes, self.matrices = boxes, matrices
        self.nodes = len(matrices[0]) // boxes.shape[0]
        self.basis = ChebyshevBasis.of(self.nodes, local)
        self.local = boxes.padded(local).transpose(1, 2).contiguous()
        self._tables: Tensor | None = None
        if self.local.numel() * self.nodes <= TABLES:
            self._tables = self._values(slice(None))

    def _values(self, rows: slice) -> Float[Tensor, "3 rows nodes width"]:
        r""":math:`T_a` of the three coordinates of each charge; places come last."""
        if self._tables is not None:
            return self._tables[:, rows]
        return self.basis.transposed(self.local[rows]).permute(2, 1, 0, 3)

    def _layers(self) -> list[tuple[int, slice]]:
        """Layers along the first axis that hold charges, and their rows."""
        n1, n2, n3 = self.boxes.shape
        first = torch.arange(n1 + 1, device=self.boxes.boxes.device) * (n2 * n3)
        ends = torch.searchsorted(self.boxes.boxes, first).tolist()
        return [(i, slice(ends[i], ends[i + 1])) for i in range(n1) if ends[i] < ends[i + 1]]

    def _chunks(self, layer: slice) -> Iterator[tuple[slice, Tensor, Tensor]]:
        r"""Some rows, :math:`T_a(\xi)\, T_b(\eta)` [rows, p2, width], and the third."""
        p, width = self.nodes, self.boxes.width
        values = self._values(layer)
        step = max(1, CHUNK // (width * p * p))
        count = layer.stop - layer.start
        products = self.local.new_empty(min(step, count), p, p, width)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            x, y, z = values[:, rows]
            out = products[: rows.stop - start]
            torch.mul(x[:, :, None], y[:, None], out=out)
            yield slice(layer.start + start, layer.start + rows.stop), out.flatten(1, 2), z

    @torch.no_grad()
    def coefficients(self, charges: Float[Tensor, " atoms"]) -> Float[Tensor, "rx ry rz"]:
        r"""The moments of all boxes (:func:`moments`) times the matrices."""
        p, (_, n2, n3) = self.nodes, self.boxes.shape
        along_x, along_y, along_z = self.matrices
        q = self.boxes.padded(charges)[:, None]
        layers = charges.new_zeros(len(along_x), along_y.shape[1] * along_z.shape[1])
        grid = charges.new_empty(n2 * n3, p * p, p)
        for i, layer in self._layers():
            grid.zero_()
            for rows, products, z in self._chunks(layer):
                found = torch.bmm(products, (z * q[rows]).mT)
                grid.index_add_(0, self.boxes.boxes[rows] - i * n2 * n3, found)
            slab = grid.view(n2, n3, p, p, p).permute(2, 0, 3, 1, 4).reshape(-1, n3 * p)
            in_z = (slab @ along_z).view(p, n2 * p, -1)
            layers[i * p : (i + 1) * p] = torch.matmul(along_y.T, in_z).flatten(1)
        return (along_x.T @ layers).view(-1, along_y.shape[1], along_z.shape[1])

    @torch.no_grad()
    def fields(
        self, coefficients: Float[Tensor, "rx ry rz"]
    ) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "atoms 3"]]:
        r"""Potential and gradient in the local coordinates at each charge, from coefficients.

        .. math:: \phi(\xi, \eta, \zeta) = \sum_{abc} \Phi_{abc}\,
                  T_a(\xi) T_b(\eta) T_c(\zeta)
        """
        p, slopes, (_, n2, n3) = self.nodes, self.basis.slopes, self.boxes.shape
        along_x, along_y, along_z = self.matrices
        flat = coefficients.flatten(1)
        out = flat.new_empty(4, self.boxes.rows, self.boxes.width)
        for i, layer in self._layers():
            slab = (along_x[i * p : (i + 1) * p] @ flat).view(p, *coefficients.shape[1:])
            slab = torch.matmul(along_y, slab) @ along_z.T
            grid = slab.view(p, n2, p, n3, p).permute(1, 3, 0, 2, 4).reshape(n2 * n3, p, p, p)
            for rows, products, z in self._chunks(layer):
                # Slopes along x and y are taken of the coefficients: sum_a D_{ba} Phi_a is the
                # coefficient b of the slope.
                at = grid[self.boxes.boxes[rows] - i * n2 * n3]
                by_x = torch.matmul(slopes, at.flatten(2)).unflatten(-1, (p, p))
                by_y = torch.matmul(slopes, at)
                stacked = torch.cat([at, by_x, by_y], -1).flatten(1, 2)
                in_z = torch.bmm(stacked.mT, products).unflatten(1, (3, p))
                out[3, rows] = (in_z[:, 0] * torch.matmul(slopes.T, z)).sum(1)
                out[:3, rows] = in_z.mul_(z[:, None]).sum(2).transpose(0, 1)
        found = out.flatten(1).index_select(1, self.boxes.places)
        return found[0], found[1:].T


def moments(
    local: Float[Tensor, "atoms 3"], charges: Float[Tensor, " atoms"], boxes: Boxes, p: int
) -> Float[Tensor, "nx ny nz"]:
    r"""Chebyshev moments of all boxes as one grid; differentiable.

    .. math:: M_{abc} = \sum_{i \in \text{box}} q_i\, T_a(\xi_i) T_b(\eta_i) T_c(\zeta_i)

    Args:
        local: coordinates of each charge in its box, in [-1, 1].
        charges: :math:`q_i`.
        boxes: who is where.
        p: nodes of a box along each direction.
    """
    basis = ChebyshevBasis.of(p, local)
    x, y, z = (basis(boxes.padded(column)) for column in local.unbind(-1))
    xy = (x[..., :, None] * y[..., None, :]).flatten(-2)
    return boxes.to_grid(xy.mT @ (z * boxes.padded(charges)[..., None]))
