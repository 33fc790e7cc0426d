"""Every pair of atoms once, and sums of a radial function over pairs."""

from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.graph import neighbor_list
from equiv.long_range.point_charges import PointCharges

# So many pairs are worked on at a time where no graph is kept: their numbers stay in the cache.
CHUNK = 16384


@dataclass(frozen=True)
class Pairs:
    r"""Pairs of atoms (or of an atom and an image), each of them once.

    .. math:: d_p = r_{\mathrm{second}[p]} + \mathrm{shifts}[p]\, C - r_{\mathrm{first}[p]}

    ``shifts`` counts cell rows; ``None`` means that no pair reaches into another cell.
    """

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    shifts: Float[Tensor, "pairs 3"] | None = None

    @classmethod
    def from_edges(cls, senders: Tensor, receivers: Tensor, shifts: Tensor) -> "Pairs":
        """Half of a directed edge list that holds every pair in both directions."""
        x, y, z = shifts.unbind(-1)
        ahead = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
        keep = ((senders > receivers) | ((senders == receivers) & ahead)).nonzero()[:, 0]
        return cls(receivers[keep], senders[keep], shifts[keep])

    @classmethod
    def search(cls, charges: PointCharges, cutoff: float) -> "Pairs":
        """All pairs closer than the cutoff (Angstrom), structure by structure."""
        firsts, seconds, shifts, start = [], [], [], 0
        for one, periodic in zip(charges.structures(), charges.periodic, strict=True):
            found = neighbor_list(
                one.positions.detach().cpu().numpy(),
                one.cell[0].detach().cpu().numpy(),
                np.array(periodic),
                cutoff,
            )
            half = cls.from_edges(
                torch.from_numpy(found.senders),
                torch.from_numpy(found.receivers),
                torch.from_numpy(found.shifts.astype(np.float64)),
            )
            firsts.append(half.first + start)
            seconds.append(half.second + start)
            shifts.append(half.shifts)
            start += len(one.positions)
        device = charges.positions.device
        return cls(
            torch.cat(firsts).to(device),
            torch.cat(seconds).to(device),
            torch.cat(shifts).to(device, charges.positions.dtype)
            if any(map(any, charges.periodic))
            else None,
        )

    @classmethod
    def within_structures(cls, charges: PointCharges) -> "Pairs":
        """All pairs inside each structure, however far; no images."""
        firsts, seconds, start = [], [], 0
        for atoms in charges.counts:
            first, second = torch.triu_indices(atoms, atoms, 1, device=charges.positions.device)
            firsts.append(first + start)
            seconds.append(second + start)
            start += atoms
        return cls(torch.cat(firsts), torch.cat(seconds))

    def __len__(self) -> int:
        return len(self.first)


class RadialFunction(Protocol):
    """A function of the squared distance with its derivatives."""

    def derivative(self, squared: Tensor, order: int) -> Tensor:
        """The derivative of that order with respect to the squared distance."""
        ...


class InversePower:
    r""":math:`f(r^2) = r^{-p}`, with all its derivatives with respect to :math:`r^2`."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def derivative(self, squared: Tensor, order: int) -> Tensor:
        power, factor = -self.exponent / 2, 1.0
        for _ in range(order):
            factor *= power
            power -= 1
        if power == -0.5:
            return factor * squared.rsqrt()
        if power == -1.5:
            return squared.rsqrt() / squared * factor
        return factor * squared**power


class _Radial(torch.autograd.Function):
    """The derivative of some order; its own gradient is the derivative of the next."""

    @staticmethod
    def forward(ctx: Any, squared: Tensor, function: RadialFunction, order: int) -> Tensor:
        ctx.save_for_backward(squared)
        ctx.function, ctx.order = function, order
        return function.derivative(squared, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (squared,) = ctx.saved_tensors
        return grads[0] * radial(squared, ctx.function, ctx.order + 1), None, None


def radial(squared: Tensor, function: RadialFunction, order: int = 0) -> Tensor:
    """``function.derivative``, differentiable to any order."""
    return cast(Tensor, _Radial.apply(squared, function, order))


def pair_energies(
    function: RadialFunction, charges: PointCharges, pairs: Pairs
) -> Float[Tensor, " graphs"]:
    r"""Differentiable :math:`\sum_p q_i q_j f(d_p^2)` of each structure, in float64."""
    q = charges.charges
    squared = torch.zeros((), dtype=q.dtype, device=q.device)
    steps = _steps(charges, pairs)
    # One coordinate at a time: gathers and products of contiguous columns are several times as
    # fast as those of rows of three.
    for axis, column in enumerate(charges.positions.unbind(-1)):
        step = column.index_select(0, pairs.second) - column.index_select(0, pairs.first)
        if steps is not None:
            step = step + steps[axis]
        squared = squared + step.to(q.dtype).square()
    energies = q.index_select(0, pairs.first) * q.index_select(0, pairs.second)
    energies = energies * radial(squared, function)
    if charges.num_graphs == 1:
        return energies.sum(0, keepdim=True).double()
    zeros = energies.new_zeros(charges.num_graphs, dtype=torch.float64)
    return zeros.index_add(0, charges.batch.index_select(0, pairs.first), energies.double())


def _steps(charges: PointCharges, pairs: Pairs) -> Tensor | None:
    """Vectors from each cell to the one of the second atom: [3, pairs]."""
    if pairs.shifts is None:
        return None
    if charges.num_graphs == 1:
        return charges.cell[0].T @ pairs.shifts.T
    cells = charges.cell[charges.batch[pairs.first]]
    return torch.einsum("pa,pax->xp", pairs.shifts, cells)


@dataclass(frozen=True)
class PairSums:
    """What a sum over pairs gives to every atom and structure, without the unit of energy.

    Attributes:
        potentials: sum over the partners of their charge times the function.
        fields: minus the gradient of the potential, [atoms, 3].
        virials: derivative of the energy with respect to a strain of positions and cell.
    """

    potentials: Float[Tensor, " atoms"]
    fields: Float[Tensor, "atoms 3"]
    virials: Float[Tensor, "graphs 3 3"]

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums(
            self.potentials + other.potentials,
            self.fields + other.fields,
            self.virials + other.virials,
        )

    def __mul__(self, factor: float) -> "PairSums":
        return PairSums(factor * self.potentials, factor * self.fields, factor * self.virials)


@torch.no_grad()
def pair_sums(function: RadialFunction, charges: PointCharges, pairs: Pairs) -> PairSums:
    r"""Potentials :math:`\sum_j q_j f(d_{ij}^2)` and fields, without a graph, chunk by chunk.

    About 20 ns for each pair on one core; memory is that of the results.
    """
    q, dtype = charges.charges, charges.charges.dtype
    columns = [column.contiguous() for column in charges.positions.unbind(-1)]
    potentials, fields = torch.zeros_like(q), q.new_zeros(3, len(q))
    virials = torch.zeros(charges.num_graphs, 3, 3, dtype=torch.float64, device=q.device)
    for start in range(0, len(pairs), CHUNK):
        rows = slice(start, start + CHUNK)
        first, second = pairs.first[rows], pairs.second[rows]
        steps = torch.stack([c.index_select(0, second) - c.index_select(0, first) for c in columns])
        if pairs.shifts is not None:
            part = Pairs(first, second, pairs.shifts[rows])
            steps += cast(Tensor, _steps(charges, part))
        steps = steps.to(dtype)
        squared = torch.mul(steps[0], steps[0]).addcmul_(steps[1], steps[1])
        squared.addcmul_(steps[2], steps[2])
        q_first, q_second = q.index_select(0, first), q.index_select(0, second)
        value = function.derivative(squared, 0)
        potentials.scatter_add_(0, first, q_second * value)
        potentials.scatter_add_(0, second, q_first * value)
        slope = function.derivative(squared, 1).mul_(2)
        on_first, on_second = slope * q_second, -slope * q_first
        for axis in range(3):
            fields[axis].scatter_add_(0, first, on_first * steps[axis])
            fields[axis].scatter_add_(0, second, on_second * steps[axis])
        if pairs.shifts is not None:
            pulls = steps * (on_first * q_first)
            if charges.num_graphs == 1:
                virials[0] += (steps @ pulls.T).double()
            else:
                outer = torch.einsum("ap,bp->pab", steps, pulls).double()
                virials.index_add_(0, charges.batch.index_select(0, first), outer)
    return PairSums(potentials, fields.T, virials)
