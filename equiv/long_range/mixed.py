"""The long-range part in slabs and wires: waves along some axes, nested bases along the others."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.long_range.box_transfer import transfer
from equiv.long_range.boxes import Boxes, moments, series_in_boxes
from equiv.long_range.crystal import waves_in_boxes
from equiv.long_range.finite import contract
from equiv.long_range.nested_basis import NestedBasis, axis_nodes, nested_basis
from equiv.long_range.pairs import PairSums
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.potential import sums_by_gradient
from equiv.long_range.splitting import Splitting
from equiv.long_range.waves import combine, most_waves


class MixedBoxes:
    r"""Structures that repeat in one or two directions and end in the others. No vacuum, no images.

    Along periodic axes the kernel is a sum over waves, along the others it is what it is:

    .. math:: \frac12 \sum_\kappa \sum_k w_k \Big(\frac{\sqrt\pi}{t_k}\Big)^d
              \frac{e^{-\kappa^2 / 4 t_k^2}}{A}\; S_\kappa^\dagger B_k S_\kappa

    where :math:`d` directions with cell vectors of volume :math:`A` repeat and :math:`B_k` is the
    Gaussian along the others, in a nested basis. The term :math:`\kappa = 0` diverges with the
    number of images; what is kept of it decides the convention for charged structures:

    - slab: :math:`-2\pi |z| / A`, the potential of charged planes, exactly. A dipole across the
      slab acts as it does between two vacua; there is nothing to correct. A net charge is not
      neutralised: its potential falls linearly away from the slab.
    - wire: :math:`-2 \ln(\rho / 1\,\text{Angstrom}) / A`, the potential of charged lines.

    Rows of the cell that do not repeat are ignored. Continuous, with jumps of the forces below the
    tolerance where an atom passes from one box to the next. One structure at a time.
    """

    def __init__(self, split: Splitting, *, side: float, nodes: int) -> None:
        self.split, self.side, self.nodes = split, side, nodes

    def energy(self, system: PointCharges) -> Float[Tensor, " graphs"]:
        local, cells, shape, _ = self._boxes(system)
        bases, tables = self._bases(system, shape)
        grid = moments(local, system.charges, Boxes.sorted(cells, shape), self.nodes)
        return self._energy(contract(grid, tables), bases, system)[None]

    def sums(self, system: PointCharges, *, strain: bool) -> PairSums:
        q = system.charges
        virials = PairSums.zeros(system).virials
        if strain:
            virials = sums_by_gradient(self.energy, system).virials
        with torch.no_grad():
            local, cells, shape, slopes_of = self._boxes(system)
            bases, matrices = self._bases(system, shape)
            between = transfer(local, cells, shape, matrices)
            c = between.coefficients(q)
        with torch.enable_grad():
            c.requires_grad_()
            held = q.detach().requires_grad_()
            frozen = replace(system, charges=held)
            energy = self._energy(c, bases, frozen)
            product, own = torch.autograd.grad(energy, (c, held), materialize_grads=True)
        with torch.no_grad():
            potentials, slopes = between.fields(product)
            fields = -slopes @ slopes_of.to(q.dtype)
            forces = q[:, None] * fields
            # The boxes move with the centre along the axes that do not repeat.
            free = torch.nn.functional.normalize(slopes_of[self._periodic(system).sum() :], dim=-1)
            forces = forces - forces.mean(0) @ (free.T @ free).to(q.dtype)
        return PairSums(potentials + own, fields, forces, virials)

    def changes(self, system: PointCharges, moves: Tensor) -> Tensor | None:
        return None

    def _periodic(self, system: PointCharges) -> np.ndarray:
        return np.array(system.periodic[0])

    def _boxes(self, system: PointCharges) -> tuple[Tensor, Tensor, tuple[int, int, int], Tensor]:
        """Coordinates in boxes, boxes of the atoms, how many, d coordinate / d position.

        Periodic axes come first.
        """
        x, periodic = system.positions, self._periodic(system)
        rows = system.cell[0][torch.from_numpy(periodic)]
        inverse = torch.linalg.pinv(rows)
        lengths = rows.detach().norm(dim=1)
        along = (lengths / self.side - 1e-9).ceil().clamp(min=1)
        fractions = x @ inverse
        scaled = (fractions - fractions.detach().floor()) * along
        cells = torch.minimum(scaled.detach().floor(), along - 1)
        normals = _normals(rows)
        free = (x - x.mean(0)) @ normals.T / self.side
        free_cells = free.detach().floor()
        lowest = free_cells.min(0).values
        n1, n2, n3 = torch.cat([along, free_cells.max(0).values - lowest + 1]).long().tolist()
        local = 2 * (torch.cat([scaled, free], 1) - torch.cat([cells, free_cells], 1)) - 1
        boxes = torch.cat([cells, free_cells - lowest], 1).long()
        slopes = 2 * torch.cat([along[:, None] * inverse.T, normals / self.side])
        return local.to(system.charges.dtype), boxes, (n1, n2, n3), slopes

    def _bases(
        self, system: PointCharges, shape: tuple[int, int, int]
    ) -> tuple[list[NestedBasis], list[Tensor]]:
        """The nested bases of the free axes, and the series in the boxes of all three axes."""
        q, periodic = system.charges, self._periodic(system)
        rows = system.cell[0][torch.from_numpy(periodic)]
        repeated = int(periodic.sum())
        most = most_waves(rows, self.split.bandwidth)
        bases = [
            _free_basis(self.split, count, self.side, self.nodes, repeated, q.dtype, q.device)
            for count in shape[repeated:]
        ]
        matrices = [
            waves_in_boxes(count, self.nodes, n, q.dtype, q.device)
            for count, n in zip(shape, most, strict=False)
        ]
        return bases, matrices + [basis.basis for basis in bases]

    def _energy(self, c: Tensor, bases: list[NestedBasis], system: PointCharges) -> Tensor:
        periodic, split = self._periodic(system), self.split
        rows = system.cell[0][torch.from_numpy(periodic)].to(c.dtype)
        repeated = len(rows)
        volume = torch.linalg.det(rows @ rows.T).sqrt()
        reciprocal = 2 * math.pi * torch.linalg.pinv(rows).T
        sums = combine(c, 0, half=True)
        if repeated == 2:
            sums = combine(sums, 1, half=False)
        ranges = [
            torch.arange(0 if axis == 0 else -(n // 2), n if axis == 0 else n // 2 + 1)
            for axis, n in enumerate(sums.shape[:repeated])
        ]
        numbers = torch.cartesian_prod(*ranges).reshape(-1, repeated).to(c)
        squared = (numbers @ reciprocal).square().sum(-1)
        twice = torch.where(numbers[:, 0] == 0, 1.0, 2.0).to(c)
        rest = sums.shape[repeated:]
        s = torch.view_as_real(sums.reshape(-1, *rest)).movedim(-1, 0)
        total = torch.zeros((), dtype=torch.float64, device=c.device)
        counts = (squared.detach() <= split.bandwidth**2) & (twice > 0)
        if repeated == 2:
            zero = (numbers == 0).all(dim=1)
            counts = counts & ~zero
            flat = s[0][zero][0]
            total = total + (flat @ bases[0].cores[-1] @ flat).double()
        for k, (t, w) in enumerate(zip(split.t.tolist(), split.w.tolist(), strict=True)):
            factor = w * (math.sqrt(math.pi) / t) ** repeated
            weights = factor * twice * torch.exp(squared * (-0.25 / t**2)) * counts
            b = bases[0].cores[k]
            if repeated == 2:
                part = s[..., : len(b)]
                powers = ((part @ b) * part).sum((0, 2))
            else:
                b2 = bases[1].cores[k]
                part = s[..., : len(b), : len(b2)]
                powers = ((b @ part @ b2) * part).sum((0, 2, 3))
            total = total + (weights * powers).double().sum()
        if repeated == 1:
            # Gaussians end somewhere; what a logarithm has at the cutoff fixes their constant.
            at_cutoff = split.w * math.sqrt(math.pi) / split.t
            constant = float((at_cutoff * np.exp(-((split.t * split.cutoff) ** 2))).sum())
            constant += 2 * math.log(split.cutoff)
            total = total - constant * system.charges.double().sum().square()
        return total / (2 * volume.double())


def _normals(rows: Tensor) -> Tensor:
    """Orthonormal vectors perpendicular to one or two rows; differentiable."""
    if len(rows) == 2:
        normal = torch.linalg.cross(rows[0], rows[1])
        return (normal / normal.norm())[None]
    axis = rows[0] / rows[0].norm()
    helper = torch.zeros_like(axis)
    helper[int(axis.detach().abs().argmin())] = 1
    first = helper - (helper @ axis) * axis
    first = first / first.norm()
    return torch.stack([first, torch.linalg.cross(axis, first)])


@lru_cache(maxsize=64)
def _free_basis(
    split: Splitting,
    boxes: int,
    side: float,
    nodes: int,
    repeated: int,
    dtype: torch.dtype,
    device: torch.device,
) -> NestedBasis:
    """The nested basis of an axis that does not repeat; in slabs its last kernel is the plane's."""
    points = axis_nodes(boxes, nodes, side)
    steps = np.abs(np.subtract.outer(points, points))
    kernels = [np.exp(-((t * steps) ** 2)) for t in split.t]
    weights = split.w
    if repeated == 2:
        kernels.append(_plane(split, steps))
        weights = np.append(weights, 4 / split.cutoff**2)
    basis = nested_basis(points, kernels, weights, 0.1 * split.error)
    series = NestedBasis(series_in_boxes(basis.basis, nodes), basis.cores)
    return series.to(torch.empty(0, dtype=dtype, device=device))


def _plane(split: Splitting, z: np.ndarray) -> np.ndarray:
    r"""What a charged plane does beyond the short range: :math:`-2\pi|z| - \int K_S\, d^2\rho`.

    For :math:`1/r` that is :math:`-2\pi|z|` beyond the cutoff, and inside of it
    :math:`-2\pi r_c + \pi \sum_k w_k (e^{-t_k^2 z^2} - e^{-t_k^2 r_c^2}) / t_k^2`. Other powers
    have the plain sum of Gaussians.
    """
    weights = math.pi * split.w / split.t**2
    if split.exponent != 1:
        return np.exp(-np.multiply.outer(z**2, split.t**2)) @ weights
    near = np.minimum(z, split.cutoff)
    ends = np.exp(-((split.t * split.cutoff) ** 2)) @ weights
    inside = np.exp(-np.multiply.outer(near**2, split.t**2)) @ weights - ends
    return inside - 2 * math.pi * np.maximum(z, split.cutoff)
