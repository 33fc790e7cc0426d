"""The long-range part in crystals: waves at every charge, or waves on Chebyshev boxes."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.long_range.box_transfer import CompiledTransfer, transfer
from equiv.long_range.boxes import Boxes, moments, series_in_boxes
from equiv.long_range.crystal_energy import crystal_energy, crystal_product
from equiv.long_range.finite import contract
from equiv.long_range.nested_basis import axis_nodes
from equiv.long_range.pairs import PairSums
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.potential import sums_by_gradient
from equiv.long_range.splitting import Splitting
from equiv.long_range.waves import most_waves, wave_table

# Numbers in the tables of one group of structures.
GROUP = 2**25

Shape = tuple[int, int, int]


def background(system: PointCharges, split: Splitting) -> Float[Tensor, " graphs"]:
    r""":math:`-Q^2 \hat K_S(0) / 2V`: a net charge is neutralised by a uniform background."""
    volume = torch.linalg.det(system.cell).abs().double()
    return -0.5 * split.short_volume * system.per_graph(system.charges).square() / volume


class CrystalWaves:
    r"""Waves evaluated at every charge: infinitely differentiable, and for batches of small cells.

    .. math:: C_{abc} = \sum_i q_i\, f_a(s_i^1) f_b(s_i^2) f_c(s_i^3)

    with the functions of :func:`equiv.long_range.waves.wave_table` of the fractional coordinates.
    Structures are padded to the largest of their group. Cost: atoms times waves, so quadratic in
    the size of a structure.
    """

    def __init__(self, split: Splitting) -> None:
        self.split = split

    def energy(self, system: PointCharges) -> Float[Tensor, " graphs"]:
        q = system.charges
        cell = system.cell.to(q.dtype)
        inverse = torch.linalg.inv(system.cell)
        if system.num_graphs == 1:
            fractions = system.positions @ inverse[0]
        else:
            fractions = torch.einsum("ax,axs->as", system.positions, inverse[system.batch])
        fractions = fractions - fractions.detach().floor()
        angles = (2 * math.pi * fractions).to(q.dtype)
        most = [max(column) for column in zip(*_waves_of(system, self.split), strict=True)]
        # Tables per axis over all atoms, then their products structure by structure.
        tables = [wave_table(angles[:, axis], most[axis]) for axis in range(3)]
        tables[2] = tables[2] * q[:, None]
        x, y, z = (_padded(table, system) for table in tables)
        xy = (x[..., :, None] * y[..., None, :]).flatten(-2)
        c = (xy.mT @ z).unflatten(1, (x.shape[-1], y.shape[-1]))
        return crystal_energy(c, cell, self.split) + background(system, self.split)

    def sums(self, system: PointCharges, *, strain: bool) -> PairSums:
        return sums_by_gradient(self.energy, system, strain=strain)

    def changes(self, system: PointCharges, moves: Tensor) -> Tensor | None:
        return None

    def groups(self, system: PointCharges, graphs: list[int]) -> list[list[int]]:
        """Structures whose padded tables fit into memory together, similar sizes together."""
        if len(graphs) < 2:
            return [graphs] if graphs else []
        waves = _waves_of(system, self.split)
        sizes = {
            graph: system.counts[graph] * (2 * waves[graph][0] + 1) * (2 * waves[graph][1] + 1)
            for graph in graphs
        }
        groups: list[list[int]] = []
        for graph in sorted(graphs, key=lambda graph: sizes[graph]):
            if groups and (len(groups[-1]) + 1) * sizes[graph] <= GROUP:
                groups[-1].append(graph)
            else:
                groups.append([graph])
        return [sorted(group) for group in groups]


def _waves_of(system: PointCharges, split: Splitting) -> list[list[int]]:
    return [most_waves(cell, split.bandwidth) for cell in system.cell]


def _padded(values: Tensor, system: PointCharges) -> Tensor:
    """From [atoms, ...] to [graphs, most atoms, ...], zero beyond the end of a structure."""
    if system.num_graphs == 1:
        return values[None]
    counts = torch.tensor(system.counts, device=values.device)
    most = int(counts.max())
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(values), device=values.device) - first[system.batch]
    zeros = values.new_zeros(system.num_graphs * most, *values.shape[1:])
    places = system.batch * most + rank
    return zeros.index_copy(0, places, values).unflatten(0, (system.num_graphs, most))


@lru_cache(maxsize=64)
def waves_in_boxes(
    boxes: int, nodes: int, most: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The waves of one lattice vector as Chebyshev coefficients on the boxes along it."""
    points = torch.from_numpy(2 * math.pi * axis_nodes(boxes, nodes, 1.0 / boxes))
    return series_in_boxes(wave_table(points, most), nodes).to(dtype=dtype, device=device)


@lru_cache(maxsize=64)
def _geometry(numbers: tuple[float, ...]) -> tuple[list[float], list[list[float]], float]:
    """Lengths of the rows, inverse and volume of a cell; torch takes 0.1 ms for each of them."""
    cell = np.array(numbers).reshape(3, 3)
    lengths = np.linalg.norm(cell, axis=1)
    return lengths.tolist(), np.linalg.inv(cell).tolist(), abs(float(np.linalg.det(cell)))


class CrystalBoxes:
    r"""Chebyshev moments of boxes, then waves on their nodes: linear in the number of charges.

    The boxes divide the lattice vectors; the waves at their nodes are three small matrices, so no
    sine or cosine of an atom is ever taken. Continuous, with jumps of the forces below the
    tolerance where an atom passes from one box to the next. One structure at a time.

    Args:
        split: the kernel.
        side: the longest edge of a box, Angstrom.
        nodes: Chebyshev nodes along each edge.
    """

    def __init__(self, split: Splitting, *, side: float, nodes: int) -> None:
        self.split, self.side, self.nodes = split, side, nodes

    def _boxes(self, system: PointCharges) -> tuple[Tensor, Tensor, Tensor, Shape]:
        """Coordinates in the boxes, what they were scaled with, boxes of the atoms, how many."""
        cell = system.cell[0]
        lengths, inverse, _ = _geometry(tuple(cell.flatten().tolist()))
        n1, n2, n3 = shape = tuple(max(1, math.ceil(x / self.side - 1e-9)) for x in lengths)
        counts = cell.new_tensor(shape)
        known = cell.new_tensor(inverse) if not cell.requires_grad else torch.linalg.inv(cell)
        scale = known * counts
        scaled = system.positions @ scale
        scaled = scaled - (scaled.detach() / counts).floor_().mul_(counts)
        boxes = torch.minimum(scaled.detach().floor(), counts - 1).clamp_(min=0)
        local = ((scaled - boxes) * 2 - 1).to(system.charges.dtype)
        return local, scale.detach(), boxes.long(), (n1, n2, n3)

    def _waves(self, system: PointCharges, shape: Shape) -> list[Tensor]:
        (most,) = _waves_of(system, self.split)
        q = system.charges
        return [
            waves_in_boxes(count, self.nodes, n, q.dtype, q.device)
            for count, n in zip(shape, most, strict=True)
        ]

    def energy(self, system: PointCharges) -> Float[Tensor, " graphs"]:
        local, _, boxes, shape = self._boxes(system)
        grid = moments(local, system.charges, Boxes.sorted(boxes, shape), self.nodes)
        c = contract(grid, self._waves(system, shape))
        cell = system.cell.to(system.charges.dtype)
        return crystal_energy(c[None], cell, self.split) + background(system, self.split)

    @torch.no_grad()
    def sums(self, system: PointCharges, *, strain: bool) -> PairSums:
        q = system.charges
        local, scale, boxes, shape = self._boxes(system)
        between = transfer(local, boxes, shape, self._waves(system, shape))
        c = between.coefficients(q)
        virials = system.cell.new_zeros(1, 3, 3, dtype=torch.float64)
        if strain:
            product, virials = self._with_strain(c, system)
        else:
            product = crystal_product(c, system.cell[0], self.split)
        potentials, slopes = between.fields(product)
        fields = slopes @ (-2 * scale.T).to(q.dtype)
        potentials = potentials + self._shift(q, system)
        return PairSums(potentials, fields, q[:, None] * fields, virials)

    @torch.no_grad()
    def changes(self, system: PointCharges, moves: Tensor) -> Tensor | None:
        q = system.charges
        local, scale, boxes, shape = self._boxes(system)
        between = transfer(local, boxes, shape, self._waves(system, shape))
        if not isinstance(between, CompiledTransfer):
            return None
        out = between.changes(
            q,
            torch.cat([moves[:, :1], moves[:, 1:] @ (2 * scale).to(q.dtype)], 1),
            lambda c: crystal_product(c, system.cell[0], self.split),
        )
        out[:, 0] += self._shift(moves[:, 0], system)
        out[:, 1:] = out[:, 1:] @ (-2 * scale.T).to(q.dtype)
        return out

    def _shift(self, charges: Tensor, system: PointCharges) -> Tensor:
        """What the background adds to every potential."""
        if not self.split.short_volume:
            return charges.new_zeros(())
        volume = _geometry(tuple(system.cell[0].flatten().tolist()))[2]
        return (-self.split.short_volume / volume * charges.sum()).to(charges.dtype)

    def _with_strain(self, c: Tensor, system: PointCharges) -> tuple[Tensor, Tensor]:
        """Derivatives of the energy with respect to the coefficients and to a strain."""
        with torch.enable_grad():
            c = c.detach().requires_grad_()
            deformed = torch.zeros_like(system.cell).requires_grad_()
            cell = system.cell + system.cell @ deformed
            energy = crystal_energy(c[None], cell.to(c.dtype), self.split)
            total = energy.sum() + background(replace(system, cell=cell), self.split).sum()
            product, virials = torch.autograd.grad(total, (c, deformed))
        return product, (virials + virials.mT).double() / 2
