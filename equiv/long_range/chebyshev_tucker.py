"""Chebyshev-Tucker potentials: linear in the number of charges, finite or periodic."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from equiv.errors import EquivError
from equiv.long_range.changes import changes_by_gradient
from equiv.long_range.crystal import CrystalBoxes, CrystalWaves
from equiv.long_range.direct_sum import direct_changes, direct_energy, direct_sums
from equiv.long_range.finite_boxes import FiniteBoxes, extent
from equiv.long_range.fused import FusedPotential
from equiv.long_range.mixed import MixedBoxes
from equiv.long_range.pairs import (
    Pairs,
    PairSums,
    RadialFunction,
    pair_changes,
    pair_energies,
    pair_sums,
)
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.range_separation import SMALLEST_ERROR
from equiv.long_range.splitting import LongRange, Splitting
from equiv.long_range.tuning import MOST_NODES, cached_splitting, nodes_needed, screened_splitting
from equiv.units import COULOMB

# Nanoseconds on one core, for choosing: a pair of charges, a charge and a node of its box, a node
# of the grid, and a whole evaluation with boxes. Without compiled kernels all of them are several
# times as long.
PAIR, CHARGE_NODE, GRID_NODE, FLOOR = 3.4, 0.2, 16.0, 1.2e6
# Waves at every atom are as fast as boxes if many small crystals are computed together, and smooth.
WAVE_ATOMS = 200
# Below this tolerance the optimised splitting has no more digits, and the one of Ewald serves.
FINEST = 1e-8
# So many charges in a cube of the length of the cutoff may stand around a charge on average.
CROWD = 20


class LongPart(Protocol):
    r""":math:`\tfrac12 \sum_{ij} q_i q_j K_L(r_{ij})` for one kind of structure, i = j included."""

    def energy(self, system: PointCharges) -> Tensor:
        """Of each structure, differentiable."""
        ...

    def sums(self, system: PointCharges, *, strain: bool) -> PairSums:
        """Potentials, fields and, if ``strain``, virials, without a graph."""
        ...

    def changes(self, system: PointCharges, moves: Tensor) -> Tensor | None:
        """Changes of potentials and forces with charges and positions, if that is a short cut."""
        ...


class ChebyshevTucker(FusedPotential):
    r"""Electrostatics in linear time for finite systems and crystals.

    The kernel is split, :math:`r^{-p} = K_S + K_L`, at a cutoff: :math:`K_S` vanishes beyond it
    together with its slope and is summed over pairs; :math:`K_L = \sum_k w_k e^{-t_k^2 r^2}` with
    :math:`w_k \ge 0` is as smooth as that allows and separates into the three axes.

    - Finite systems: moments on Chebyshev nodes of local boxes, brought into one Tucker basis per
      axis that is nested over the Gaussians. No image, no vacuum, no mesh to choose.
    - Crystals, rectangular or oblique: the same moments, brought into plane waves. The transform of
      :math:`K_L` is the exact complement of that of :math:`K_S`, so cutting off waves is the only
      error of the splitting. Conducting surrounding; a net charge has a uniform background.
    - A few hundred atoms: the direct sum if finite, waves at every atom if periodic; both are
      infinitely differentiable.

    Which of them computes a structure is chosen here by its size. Energies are differentiable
    to any order in positions, charges and cell. They are continuous; the variants with boxes have
    steps of the forces, smaller than the tolerance, where an atom changes its box.

    Cost on one core: about a microsecond for each charge at a tolerance of 1e-4, and memory
    of about 2 kB for each of them.

    The method is that of Benner, Khoromskij, Khoromskaia and Sun (2025, arXiv:2503.01696), with
    a splitting optimised for its bandwidth, boxes that make it local, and waves as the
    basis of periodic axes.

    Args:
        tolerance: root mean square error of the forces relative to their root mean square, in a
            disordered system of charges (about the force between two of them 1 Angstrom apart);
            from 1e-9 to 1e-2. Where neighbours screen each other, as in a molten salt, forces are
            smaller but their errors are not: ask for a fifth.
        cutoff: of the short-range part, Angstrom. The cost depends on it weakly, and 6 suits
            condensed matter (12 below a tolerance of 3e-9; up to eight times as much in thin finite
            systems whose pairs are not given); a potential that is part of a model takes the cutoff
            of the model and shares its neighbour list.
        exponent: :math:`p`, for instance 6 for dispersion.
        prefactor: in eV Angstrom^p (per squared charge); the default belongs to :math:`p = 1`.
        smooth: only variants that are infinitely differentiable, whatever the size.
        short_range: ``False`` leaves out the sum of :math:`K_S` over pairs, for a model that learns
            everything inside of its cutoff anyway.
    """

    def __init__(
        self,
        tolerance: float = 1e-4,
        *,
        cutoff: float | None = None,
        exponent: float = 1.0,
        prefactor: float = COULOMB,
        smooth: bool = False,
        short_range: bool = True,
    ) -> None:
        super().__init__()
        if not 1e-9 <= tolerance <= 0.1:
            raise EquivError(f"tolerance must lie between 1e-9 and 0.1, got {tolerance}")
        adaptive = cutoff is None and short_range
        if cutoff is None:
            cutoff = 6.0 if tolerance > 3e-9 else 12.0
        if not (math.isfinite(cutoff) and cutoff > 0):
            raise EquivError(f"cutoff must be a positive number of Angstrom, got {cutoff}")
        if not exponent > 0:
            raise EquivError(f"exponent must be positive, got {exponent}")
        self.tolerance, self.cutoff, self.exponent = tolerance, float(cutoff), float(exponent)
        self.prefactor, self.smooth, self.short_range = prefactor, smooth, short_range
        self.adaptive = adaptive

    def energy(self, system: PointCharges, pairs: Pairs | None = None) -> Tensor:
        total = torch.zeros(system.num_graphs, dtype=torch.float64, device=system.cell.device)
        for split, graphs, part in self._plan(system, pairs):
            chosen, atoms = system.subset(graphs)
            energy = part.energy(chosen)
            if split is not None:
                own = 0.5 * split.self_value * chosen.per_graph(chosen.charges.square())
                energy = energy - own
                if self.short_range:
                    near = self._pairs(split, system, chosen, atoms, pairs)
                    energy = energy + pair_energies(split.short, chosen, near)
            total = total.index_add(0, torch.tensor(graphs, device=total.device), energy)
        return self.prefactor * total

    @torch.no_grad()
    def sums(
        self, system: PointCharges, pairs: Pairs | None = None, *, strain: bool = True
    ) -> PairSums:
        plan = self._plan(system, pairs)
        parts = []
        for split, graphs, part in plan:
            chosen, atoms = system.subset(graphs)
            sums = part.sums(chosen, strain=strain)
            if split is not None:
                sums.potentials.sub_(split.self_value * chosen.charges)
                if self.short_range:
                    near = self._pairs(split, system, chosen, atoms, pairs)
                    sums.add_(pair_sums(split.short, chosen, near, strain=strain))
            if len(plan) == 1 and chosen is system:
                return sums.scaled_(self.prefactor)
            parts.append((sums, torch.tensor(graphs, device=atoms.device), atoms))
        total = PairSums.zeros(system)
        for sums, graphs, atoms in parts:
            total.potentials.index_add_(0, atoms, sums.potentials)
            total.fields.index_add_(0, atoms, sums.fields)
            total.forces.index_add_(0, atoms, sums.forces)
            total.virials.index_add_(0, graphs, sums.virials)
        return total.scaled_(self.prefactor)

    @torch.no_grad()
    def changes(self, system: PointCharges, pairs: Pairs | None, moves: Tensor) -> Tensor:
        total = torch.zeros_like(moves)
        for split, graphs, part in self._plan(system, pairs):
            chosen, atoms = system.subset(graphs)
            moved = moves[atoms]
            out = part.changes(chosen, moved)
            if out is None:
                out = changes_by_gradient(part.energy, chosen, moved)
            if split is not None:
                out[:, 0] -= split.self_value * moved[:, 0]
                if self.short_range:
                    near = self._pairs(split, system, chosen, atoms, pairs)
                    out += pair_changes(split.short, chosen, near, moved)
            total.index_add_(0, atoms, out)
        return self.prefactor * total

    def _pairs(
        self,
        split: Splitting,
        system: PointCharges,
        chosen: PointCharges,
        atoms: Tensor,
        pairs: Pairs | None,
    ) -> Pairs:
        if pairs is None:
            return Pairs.search(chosen.detached(), split.cutoff)
        if chosen is system:
            return pairs
        place = torch.full((len(system.positions),), -1, device=atoms.device)
        place[atoms] = torch.arange(len(atoms), device=atoms.device)
        keep = (place[pairs.first] >= 0).nonzero()[:, 0]
        shifts = None if pairs.shifts is None else pairs.shifts[keep]
        return Pairs(place[pairs.first[keep]], place[pairs.second[keep]], shifts)

    def _plan(
        self, system: PointCharges, pairs: Pairs | None = None
    ) -> "list[tuple[Splitting | None, list[int], LongPart]]":
        """Which part computes which structures, and the splitting that it needs if any."""
        plan: list[tuple[Splitting | None, list[int], LongPart]] = []
        direct: list[int] = []
        small_crystals: list[int] = []
        crystal = self.splitting()
        structures = zip(system.structures(), system.counts, system.periodic, strict=True)
        for graph, (one, atoms, periodic) in enumerate(structures):
            if atoms == 0:
                continue
            if not any(periodic):
                boxes = self._finite(one, adaptive=self.adaptive and pairs is None)
                if boxes is None:
                    direct.append(graph)
                else:
                    plan.append((boxes.split, [graph], boxes))
            elif not all(periodic):
                split = self.splitting(self._mixed_extent(one))
                plan.append(
                    (split, [graph], MixedBoxes(split, side=self.side, nodes=self._nodes(split)))
                )
            elif self.smooth or atoms <= WAVE_ATOMS:
                small_crystals.append(graph)
            else:
                plan.append(
                    (
                        crystal,
                        [graph],
                        CrystalBoxes(crystal, side=self.side, nodes=self._nodes(crystal)),
                    )
                )
        waves = CrystalWaves(crystal)
        for group in waves.groups(system, small_crystals):
            plan.append((crystal, group, waves))
        if direct:
            short = crystal.short
            kernel = short.power if self.short_range else LongRange(short)
            plan.append((None, direct, AllPairs(kernel)))
        return plan

    def _finite(self, system: PointCharges, *, adaptive: bool) -> FiniteBoxes | None:
        """The boxes of a finite structure, or nothing if all pairs are less work."""
        atoms = len(system.positions)
        all_pairs = PAIR * atoms * (atoms - 1) / 2
        # Below this tolerance the splitting itself has no more digits.
        if all_pairs < FLOOR or (self.tolerance < FINEST and atoms <= 20000):
            return None
        cutoff = self.cutoff * (_thinness(system, self.cutoff) if adaptive else 1)
        split = self.splitting(extent(system), cutoff)
        if self.smooth:
            boxes = self._one_box(system, split)
            return boxes if boxes and CHARGE_NODE * boxes.nodes**3 * atoms < all_pairs else None
        side = 1.25 * cutoff
        boxes = FiniteBoxes(split, side=side, nodes=nodes_needed(split, side, self.tolerance))
        nodes = boxes.nodes**3
        per_charge = CHARGE_NODE * nodes + 50 * PAIR
        work = FLOOR + per_charge * atoms + GRID_NODE * nodes * boxes.count(system)
        return boxes if work < all_pairs else None

    def _one_box(self, system: PointCharges, split: Splitting) -> FiniteBoxes | None:
        """One box around a finite structure: nothing is ever rounded to one side or the other.

        Its edge is a power of 1.25 cutoffs, so that tables are made rarely; nothing if that would
        need more nodes than make sense.
        """
        x = system.positions.detach()
        radius = float((x - x.mean(0)).abs().max())
        steps = math.ceil(math.log(max(1.0, 2.02 * radius / split.cutoff)) / math.log(1.25))
        side = split.cutoff * 1.25**steps
        nodes = nodes_needed(split, side, 0.7 * self.tolerance)
        return FiniteBoxes(split, side=side, nodes=nodes) if nodes < MOST_NODES else None

    def _mixed_extent(self, system: PointCharges) -> float:
        """How far the Gaussians must reach in slabs and wires."""
        longest = extent(system)
        if sum(system.periodic[0]) == 2 or self.exponent != 1:
            return longest
        # A logarithm needs lines that are long: what is cut off has the weight (r / length)^2.
        return min(longest / math.sqrt(self.tolerance), 4096 * self.cutoff)

    def splitting(self, extent: float | None = None, cutoff: float | None = None) -> Splitting:
        """The splitting of the kernel for finite structures of that extent (Angstrom), or crystals.

        Tables are made for reaches of 8, 16, 32, ... cutoffs. Crystals do not see the error of the
        long-range part beyond the cutoff, only that of waves left out; to more than eight digits
        they have the splitting of Ewald.
        """
        cutoff = self.cutoff if cutoff is None else cutoff
        if extent is None and self.exponent == 1 and self.tolerance < FINEST:
            return screened_splitting(cutoff, 0.3 * self.tolerance)
        doublings, epsilon = 3, self.tolerance / 10
        if extent is not None:
            doublings = max(3, math.ceil(math.log2(max(1.0, extent / cutoff))))
            epsilon = self.tolerance / 8
            if doublings > 9:  # the long lines of wires: finer tables would take minutes
                epsilon = max(epsilon, 1e-8)
        return cached_splitting(
            cutoff,
            max(epsilon, SMALLEST_ERROR),
            2.0**doublings * cutoff,
            self.exponent,
            0.3 * self.tolerance,
        )

    @property
    def side(self) -> float:
        """The longest edge of a box, Angstrom; the cost hardly depends on it."""
        return 1.25 * self.cutoff

    def _nodes(self, split: Splitting) -> int:
        # The estimate is one and a half to three times what comes out.
        return nodes_needed(split, self.side, self.tolerance)

    @property
    def parameters_chosen(self) -> dict[str, float]:
        """What the tolerance led to, for crystals; see also :meth:`splitting`.

        The relative error of the splitting, the number of Gaussians, the largest wave number
        (1/Angstrom), the degree of the short-range polynomial, the edge of a box (Angstrom) and its
        nodes.
        """
        split = self.splitting()
        return {
            "splitting_error": split.gaussians.epsilon,
            "gaussians": len(split.t),
            "bandwidth": split.bandwidth,
            "short_range_degree": split.short.smooth.degree,
            "box": self.side,
            "nodes": self._nodes(split),
        }

    def extra_repr(self) -> str:
        return f"tolerance={self.tolerance:g}, cutoff={self.cutoff:g}, exponent={self.exponent:g}"


def _thinness(system: PointCharges, cutoff: float) -> int:
    """By how much the cutoff can grow before an atom has many neighbours: 8, 4, 2 or 1."""
    x = system.positions.detach()
    lowest, highest = x.min(0).values, x.max(0).values
    for factor in (8, 4, 2):
        cells = ((x - lowest) / (factor * cutoff)).floor()
        size = ((highest - lowest) / (factor * cutoff) + 1).floor()
        flat = (cells[:, 0] * size[1] + cells[:, 1]) * size[2] + cells[:, 2]
        if len(x) > CROWD * float(size.prod()):
            continue
        counts = torch.unique(flat, return_counts=True)[1].double()
        if float(counts.square().sum()) <= CROWD * len(x):
            return factor
    return 1


@dataclass(frozen=True)
class AllPairs:
    """Small finite structures, pair by pair."""

    kernel: RadialFunction

    def energy(self, system: PointCharges) -> Tensor:
        return direct_energy(self.kernel, system)

    def sums(self, system: PointCharges, *, strain: bool) -> PairSums:
        return direct_sums(self.kernel, system)

    def changes(self, system: PointCharges, moves: Tensor) -> Tensor | None:
        return direct_changes(self.kernel, system, moves)
