"""The long-range part of finite systems: nested bases on Chebyshev boxes, or one smooth box."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.long_range.box_transfer import CompiledTransfer, transfer
from equiv.long_range.boxes import Boxes, moments, series_in_boxes
from equiv.long_range.finite import TuckerKernel, contract
from equiv.long_range.nested_basis import NestedBasis, axis_nodes, nested_basis
from equiv.long_range.pairs import PairSums
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.splitting import Splitting


@lru_cache(maxsize=128)
def gaussian_basis(
    split: Splitting, boxes: int, side: float, nodes: int, dtype: torch.dtype, device: torch.device
) -> NestedBasis:
    """The nested basis of the Gaussians of a splitting, as Chebyshev series in a row of boxes."""
    points = axis_nodes(boxes, nodes, side)
    steps = np.subtract.outer(points, points) ** 2
    kernels = [np.exp(-(t**2) * steps) for t in split.t]
    basis = nested_basis(points, kernels, split.w, 0.1 * split.error)
    series = NestedBasis(series_in_boxes(basis.basis, nodes), basis.cores)
    return series.to(torch.empty(0, dtype=dtype, device=device))


def extent(system: PointCharges) -> float:
    """The longest distance in a finite structure, or somewhat more, Angstrom."""
    x = system.positions.detach()
    return float((x.max(0).values - x.min(0).values).norm())


class FiniteBoxes:
    r"""Charges to Chebyshev moments of boxes to nested Tucker coefficients, and back.

    Boxes of a fixed side are laid around the centre of the atoms, as many as are needed, so that
    the energy does not change under translations and the tables are made once. Continuous, with
    jumps of the forces below the tolerance where an atom passes from one box to the next. One
    structure at a time.

    Args:
        split: the kernel; its reach must be that of the whole system.
        side: edge of a box, Angstrom.
        nodes: Chebyshev nodes along each edge.
        offset: where in its box the centre of the atoms lies, in units of the edge. With 0.5, the
            middle, a box that holds all atoms makes the energy infinitely differentiable: the
            format of Benner et al. proper.
    """

    def __init__(self, split: Splitting, *, side: float, nodes: int, offset: float = 0.5) -> None:
        self.split, self.side, self.nodes, self.offset = split, side, nodes, offset

    def count(self, system: PointCharges) -> float:
        """How many boxes there are, empty ones included."""
        x = system.positions.detach()
        return float(((x.max(0).values - x.min(0).values) / self.side + 1).prod())

    def _boxes(self, system: PointCharges) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
        """Coordinates in the boxes, boxes of the atoms, how many there are."""
        x = system.positions
        scaled = (x - x.mean(0)) / self.side + self.offset
        cells = scaled.detach().floor()
        lowest = cells.min(0).values
        n1, n2, n3 = (cells.max(0).values - lowest + 1).long().tolist()
        local = (2 * (scaled - cells) - 1).to(system.charges.dtype)
        return local, (cells - lowest).long(), (n1, n2, n3)

    def _kernel(self, shape: tuple[int, int, int], like: Tensor) -> TuckerKernel:
        axes = [
            gaussian_basis(self.split, count, self.side, self.nodes, like.dtype, like.device)
            for count in shape
        ]
        return TuckerKernel(axes, self.split.w.tolist())

    def energy(self, system: PointCharges) -> Float[Tensor, " graphs"]:
        local, cells, shape = self._boxes(system)
        kernel = self._kernel(shape, system.charges)
        grid = moments(local, system.charges, Boxes.sorted(cells, shape), self.nodes)
        c = contract(grid, [axis.basis for axis in kernel.axes])
        return kernel.energy(c)[None]

    @torch.no_grad()
    def sums(self, system: PointCharges, *, strain: bool) -> PairSums:
        local, cells, shape = self._boxes(system)
        kernel = self._kernel(shape, system.charges)
        between = transfer(local, cells, shape, [axis.basis for axis in kernel.axes])
        product = kernel.apply(between.coefficients(system.charges))
        potentials, slopes = between.fields(product)
        fields = slopes * (-2 / self.side)
        forces = system.charges[:, None] * fields
        # The boxes move with the centre of all atoms, so there is no net force.
        forces = forces - forces.mean(0)
        return PairSums(potentials, fields, forces, PairSums.zeros(system).virials)

    @torch.no_grad()
    def changes(self, system: PointCharges, moves: Tensor) -> Tensor | None:
        local, cells, shape = self._boxes(system)
        kernel = self._kernel(shape, system.charges)
        between = transfer(local, cells, shape, [axis.basis for axis in kernel.axes])
        if not isinstance(between, CompiledTransfer):
            return None
        moves = moves.clone()
        moves[:, 1:] -= moves[:, 1:].mean(0)
        moves[:, 1:] *= 2 / self.side
        out = between.changes(system.charges, moves, kernel.apply)
        out[:, 1:] *= -2 / self.side
        out[:, 1:] -= out[:, 1:].mean(0)
        return out
