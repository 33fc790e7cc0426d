"""The long-range part of finite systems: nested bases on Chebyshev boxes, or one smooth box."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.long_range.boxes import Boxes, BoxTransfer, moments
from equiv.long_range.finite import TuckerKernel, contract
from equiv.long_range.nested_basis import NestedBasis, axis_nodes, nested_basis
from equiv.long_range.pairs import PairSums
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.splitting import Splitting


@lru_cache(maxsize=128)
def gaussian_basis(
    split: Splitting, boxes: int, side: float, nodes: int, dtype: torch.dtype, device: torch.device
) -> NestedBasis:
    """The nested basis of the Gaussians of a splitting on boxes side by side."""
    points = axis_nodes(boxes, nodes, side)
    steps = np.subtract.outer(points, points) ** 2
    kernels = [np.exp(-(t**2) * steps) for t in split.t]
    basis = nested_basis(points, kernels, split.w, 0.1 * split.error)
    return basis.to(torch.empty(0, dtype=dtype, device=device))


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
        offset: where in its box the centre of the atoms lies, in units of the edge. With 0.5, a box
            that holds all atoms makes the energy infinitely differentiable: the format of Benner et
            al. proper.
    """

    def __init__(self, split: Splitting, *, side: float, nodes: int, offset: float = 0.0) -> None:
        self.split, self.side, self.nodes, self.offset = split, side, nodes, offset

    def count(self, system: PointCharges) -> float:
        """How many boxes there are, empty ones included."""
        x = system.positions.detach()
        return float(((x.max(0).values - x.min(0).values) / self.side + 1).prod())

    def _boxes(self, system: PointCharges) -> tuple[Tensor, Boxes]:
        x = system.positions
        scaled = (x - x.mean(0)) / self.side + self.offset
        cells = scaled.detach().floor()
        lowest = cells.min(0).values
        shape = tuple((cells.max(0).values - lowest + 1).long().tolist())
        local = (2 * (scaled - cells) - 1).to(system.charges.dtype)
        return local, Boxes.sorted((cells - lowest).long(), shape)

    def _kernel(self, boxes: Boxes, like: Tensor) -> TuckerKernel:
        axes = [
            gaussian_basis(self.split, count, self.side, self.nodes, like.dtype, like.device)
            for count in boxes.shape
        ]
        return TuckerKernel(axes, self.split.w.tolist())

    def energy(self, system: PointCharges) -> Float[Tensor, " graphs"]:
        local, boxes = self._boxes(system)
        kernel = self._kernel(boxes, system.charges)
        grid = moments(local, system.charges, boxes, self.nodes)
        c = contract(grid, [axis.basis for axis in kernel.axes])
        return kernel.energy(c)[None]

    @torch.no_grad()
    def sums(self, system: PointCharges, *, strain: bool) -> PairSums:
        local, boxes = self._boxes(system)
        kernel = self._kernel(boxes, system.charges)
        bases = [axis.basis for axis in kernel.axes]
        transfer = BoxTransfer(local, boxes, bases)
        product = kernel.apply(transfer.coefficients(system.charges))
        potentials, slopes = transfer.fields(product)
        fields = slopes * (-2 / self.side)
        forces = system.charges[:, None] * fields
        # The boxes move with the centre of all atoms, so there is no net force.
        forces = forces - forces.mean(0)
        return PairSums(potentials, fields, forces, PairSums.zeros(system).virials)
