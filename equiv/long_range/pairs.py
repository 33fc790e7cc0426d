"""Every pair of atoms once, and sums of a radial function over pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import vesin
from jaxtyping import Float, Int, Num
from torch import Tensor

from equiv.graph import neighbor_list
from equiv.graph.adjoint import with_gradient
from equiv.graph.neighbors import MAX_SEARCH_BOXES, SPARSE
from equiv.long_range import pair_kernels
from equiv.long_range.changes import changes_by_gradient
from equiv.long_range.pair_kernels import PairRows, RadialPolynomial
from equiv.long_range.point_charges import PointCharges

# So many pairs are worked on at a time where no graph is kept: their numbers stay in the cache.
CHUNK = 16384
# From here on the neighbour list of the package is too slow: it lists and sorts both directions.
LARGE = 1000


@dataclass(frozen=True)
class Pairs:
    r"""Pairs of atoms (or of an atom and an image), each of them once.

    .. math:: d_p = r_{\mathrm{second}[p]} + \mathrm{shifts}[p]\, C - r_{\mathrm{first}[p]}

    ``shifts`` counts cell rows; ``None`` means that no pair reaches into another cell.
    """

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    shifts: Num[Tensor, "pairs 3"] | None = None

    @classmethod
    def from_edges(cls, senders: Tensor, receivers: Tensor, shifts: Tensor) -> "Pairs":
        """Half of a directed edge list that holds every pair in both directions."""
        x, y, z = shifts.unbind(-1)
        ahead = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
        keep = ((senders > receivers) | ((senders == receivers) & ahead)).nonzero()[:, 0]
        keep = _apart(keep)
        return cls(receivers[keep], senders[keep], shifts[keep])

    @classmethod
    def search(cls, charges: PointCharges, cutoff: float) -> "Pairs":
        """All pairs closer than the cutoff (Angstrom), structure by structure."""
        firsts, seconds, shifts, start = [], [], [], 0
        for one, periodic in zip(charges.structures(), charges.periodic, strict=True):
            half = _search(
                one.positions.detach().cpu().double().numpy(),
                one.cell[0].detach().cpu().double().numpy(),
                np.array(periodic),
                cutoff,
            )
            firsts.append(half.first + start)
            seconds.append(half.second + start)
            shifts.append(half.shifts)
            start += len(one.positions)
        device, periodic = charges.positions.device, any(map(any, charges.periodic))
        return cls(
            torch.cat(firsts).to(device),
            torch.cat(seconds).to(device),
            torch.cat(shifts).to(device) if periodic else None,
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

    @cached_property
    def images(self) -> "Images":
        """The few cells that pairs reach into, once, and which of them each pair does."""
        if self.shifts is None:
            none = self.first.new_zeros(0)
            return Images(self.first.new_zeros(1, 3), none)
        columns = [column.contiguous().long() for column in self.shifts.unbind(-1)]
        most = [int(column.abs().max()) if len(self) else 0 for column in columns]
        code = torch.zeros_like(self.first)
        for column, n in zip(columns, most, strict=True):
            code.mul_(2 * n + 1).add_(column).add_(n)
        ranges = [torch.arange(-n, n + 1, device=code.device) for n in most]
        return Images(torch.cartesian_prod(*ranges), code)

    def rows(self, atoms: int) -> PairRows:
        """The pairs sorted by their first atom, made once; for the compiled sums."""
        made = self.__dict__.setdefault("_rows", {})
        if atoms not in made:
            image = self.images.code if self.shifts is not None else None
            made[atoms] = pair_kernels.sorted_pairs(self.first, self.second, image, atoms)
        return made[atoms]


def _search(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    """All pairs of one structure, with shifts."""
    box, origin = cell, np.zeros(3)
    if len(positions) > LARGE and not pbc.any():
        origin = positions.min(axis=0)
        box = np.diag(np.ptp(positions, axis=0) + cutoff)
    if len(positions) <= LARGE or pbc.any() != pbc.all() or not _is_roomy(box, positions, cutoff):
        found = neighbor_list(positions, cell, pbc, cutoff)
        shifts = torch.from_numpy(found.shifts)
        return Pairs.from_edges(
            torch.from_numpy(found.senders), torch.from_numpy(found.receivers), shifts
        )
    # Both directions of every pair, sorted, would be four times the memory and ten times the time.
    wraps = np.floor((positions - origin) @ np.linalg.inv(box)).astype(np.int64) * pbc
    inside = positions - origin - wraps @ box
    search = vesin.NeighborList(cutoff=cutoff, full_list=False)
    i, j, far = search.compute(inside, box, pbc.tolist(), "ijS")
    i, j = i.view(np.int64), j.view(np.int64)
    if wraps.any():
        far = far + (wraps[i] - wraps[j]).astype(far.dtype)
    order = _apart(torch.arange(len(i)))
    return Pairs(*(torch.from_numpy(array)[order] for array in (i, j, far)))


def _is_roomy(box: np.ndarray, positions: np.ndarray, cutoff: float) -> bool:
    """Whether a plain search grid serves: no direction thinner than the cutoff, not too empty."""
    boxes = np.floor(1 / np.linalg.norm(np.linalg.inv(box), axis=0) / cutoff)
    return bool(boxes.min() >= 3 and boxes.prod() < min(MAX_SEARCH_BOXES, SPARSE * len(positions)))


def _apart(index: Tensor) -> Tensor:
    """The same entries in another order, such that neighbours come from far apart.

    Pairs of one atom in a row would all be added to the same place, one waiting for the other.
    """
    strides = 16
    whole = len(index) - len(index) % strides
    return torch.cat([index[:whole].view(strides, -1).T.reshape(-1), index[whole:]])


@dataclass(frozen=True)
class Images:
    """Cells that pairs reach into: ``shifts[code[p]]`` is the shift of pair p."""

    shifts: Int[Tensor, "images 3"]
    code: Int[Tensor, " pairs"]


class Differentiable(Protocol):
    """A function of one variable with its derivatives."""

    def derivative(self, squared: Tensor, order: int) -> Tensor:
        """The derivative of that order with respect to the squared distance or wave number."""
        ...


class RadialFunction(Differentiable, Protocol):
    """A function of the squared distance that is summed over pairs."""

    def value_and_slope(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        """The function and twice its derivative; may overwrite its argument."""
        ...

    @property
    def for_kernels(self) -> RadialPolynomial:
        """The function in the form that compiled sums know."""
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

    def value_and_slope(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        if self.exponent == 1:
            root = squared.rsqrt()
            return root, torch.div(root, squared).neg_()
        value = squared ** (-self.exponent / 2)
        return value, (value / squared).mul_(-self.exponent)

    @property
    def for_kernels(self) -> RadialPolynomial:
        none = torch.zeros(3, 1, dtype=torch.float64)
        return RadialPolynomial(self.exponent, 1.0, 1.0, 0.0, 1.0, none)


def radial(squared: Tensor, function: Differentiable, order: int = 0) -> Tensor:
    """``function.derivative``, differentiable to any order."""
    return with_gradient(
        squared,
        lambda squared: function.derivative(squared, order),
        lambda squared, grad: grad * radial(squared, function, order + 1),
    )


def pair_energies(
    function: Differentiable, charges: PointCharges, pairs: Pairs
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


def _steps(charges: PointCharges, pairs: Pairs) -> Sequence[Tensor] | None:
    """Vectors from each cell to the one of the second atom, a column for each axis."""
    if pairs.shifts is None:
        return None
    shifts, image = pairs.images.shifts.to(charges.cell.dtype), pairs.images.code
    far = torch.matmul(shifts, charges.cell).flatten(0, 1)
    if charges.num_graphs > 1:
        image = image + charges.batch.index_select(0, pairs.first) * len(shifts)
    return [column.index_select(0, image) for column in far.unbind(-1)]


@dataclass(frozen=True)
class PairSums:
    """What a sum over pairs gives to every atom and structure, without the unit of energy.

    Attributes:
        potentials: sum over the partners of their charge times the function.
        fields: minus the gradient of the potential at each atom.
        forces: minus the gradient of the energy.
        virials: derivative of the energy with respect to a strain of positions and cell.
    """

    potentials: Float[Tensor, " atoms"]
    fields: Float[Tensor, "atoms 3"]
    forces: Float[Tensor, "atoms 3"]
    virials: Float[Tensor, "graphs 3 3"]

    @classmethod
    def zeros(cls, charges: PointCharges) -> "PairSums":
        """Nothing yet."""
        q = charges.charges
        strain = torch.zeros(charges.num_graphs, 3, 3, dtype=torch.float64, device=q.device)
        zeros = q.new_zeros(len(q), 3)
        return cls(torch.zeros_like(q), zeros, zeros.clone(), strain)

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums(
            self.potentials + other.potentials,
            self.fields + other.fields,
            self.forces + other.forces,
            self.virials + other.virials,
        )

    def _all(self) -> tuple[Tensor, ...]:
        return self.potentials, self.fields, self.forces, self.virials

    def add_(self, other: "PairSums") -> "PairSums":
        """The other sums are added in place."""
        for mine, more in zip(self._all(), other._all(), strict=True):
            mine.add_(more)
        return self

    def scaled_(self, factor: float) -> "PairSums":
        """All of them times a number, in place."""
        for mine in self._all():
            mine.mul_(factor)
        return self

    def __mul__(self, factor: float) -> "PairSums":
        return PairSums(
            factor * self.potentials,
            factor * self.fields,
            factor * self.forces,
            factor * self.virials,
        )


@torch.no_grad()
def pair_sums(
    function: RadialFunction, charges: PointCharges, pairs: Pairs, *, strain: bool = True
) -> PairSums:
    r"""Potentials :math:`\sum_j q_j f(d_{ij}^2)` and fields, without a graph.

    About 5 ns for each pair on one core if kernels can be compiled, otherwise 30 ns; memory is that
    of the results.
    """
    if (found := compiled_sums(function, charges, pairs, strain=strain)) is not None:
        return found
    x, q = charges.positions, charges.charges
    columns = [column.contiguous() for column in x.unbind(-1)]
    potentials, fields = torch.zeros_like(q), q.new_zeros(3, len(q))
    graphs, size = charges.num_graphs, min(CHUNK, len(pairs))
    shifts = pairs.images.shifts.to(x.dtype)
    # How far it is to the cell of the second atom, for every image of every structure.
    far = torch.matmul(shifts, charges.cell.to(x.dtype)).permute(2, 0, 1).reshape(3, -1)
    far = far.contiguous()
    pulls = q.new_zeros(3, far.shape[1])
    periodic = pairs.shifts is not None
    # Every intermediate has its place: fresh memory would cost more than the arithmetic.
    place = x.new_empty(4, size)
    work = q.new_empty(6, size)
    for start in range(0, len(pairs), CHUNK):
        first, second = pairs.first[start : start + CHUNK], pairs.second[start : start + CHUNK]
        n = len(first)
        other, qi, qj = place[3, :n], work[3, :n], work[4, :n]
        image = pairs.images.code[start : start + CHUNK]
        if periodic and graphs > 1:
            image = image + charges.batch.index_select(0, first) * len(shifts)
        for axis, column in enumerate(columns):
            step = place[axis, :n]
            torch.index_select(column, 0, second, out=step)
            step -= torch.index_select(column, 0, first, out=other)
            if periodic:
                step += torch.index_select(far[axis], 0, image, out=other)
        steps = place[:3, :n] if x.dtype == q.dtype else place[:3, :n].to(q.dtype)
        squared = torch.mul(steps[0], steps[0], out=work[5, :n])
        squared.addcmul_(steps[1], steps[1]).addcmul_(steps[2], steps[2])
        torch.index_select(q, 0, first, out=qi)
        torch.index_select(q, 0, second, out=qj)
        value, slope = function.value_and_slope(squared)
        product = work[0, :n]
        potentials.scatter_add_(0, first, torch.mul(value, qj, out=product))
        potentials.scatter_add_(0, second, torch.mul(value, qi, out=product))
        on_first, on_second = torch.mul(slope, qj, out=work[1, :n]), slope.mul_(qi).neg_()
        for axis in range(3):
            step = steps[axis]
            torch.mul(on_first, step, out=product)
            fields[axis].scatter_add_(0, first, product)
            if periodic and strain:
                pulls[axis].scatter_add_(0, image, product.mul_(qi))
            fields[axis].scatter_add_(0, second, torch.mul(on_second, step, out=product))
    forces = q[:, None] * fields.T
    if not strain:
        return PairSums(potentials, fields.T, forces, PairSums.zeros(charges).virials)
    virials = charges.per_graph(-x[:, :, None] * forces.to(x.dtype)[:, None])
    if periodic:
        pulls, far = pulls.view(3, graphs, -1).double(), far.view(3, graphs, -1).double()
        virials = virials + torch.einsum("agi,bgi->gab", far, pulls)
    return PairSums(potentials, fields.T, forces, virials)


def compiled_sums(
    function: RadialFunction, charges: PointCharges, pairs: Pairs | None, *, strain: bool
) -> PairSums | None:
    """:func:`pair_sums`, or the sums over all pairs of each structure; nothing without kernels."""
    found = _run(function, charges, pairs, None, strain=strain)
    if found is None:
        return None
    out, strains = found
    potentials, fields = out[:, 0], out[:, 1:]
    return PairSums(potentials, fields, charges.charges[:, None] * fields, strains)


def pair_changes(
    function: RadialFunction, charges: PointCharges, pairs: Pairs, moves: Float[Tensor, "atoms 4"]
) -> Float[Tensor, "atoms 4"]:
    """How potentials and forces change with ``moves`` of charges and positions; no graph."""
    found = _run(function, charges, pairs, moves, strain=False)
    if found is None:
        return changes_by_gradient(lambda c: pair_energies(function, c, pairs), charges, moves)
    return found[0]


def compiled_changes(
    function: RadialFunction, charges: PointCharges, moves: Tensor
) -> Tensor | None:
    """:func:`pair_changes` for all pairs inside each structure; nothing without kernels."""
    found = _run(function, charges, None, moves, strain=False)
    return None if found is None else found[0]


def _run(
    function: RadialFunction,
    charges: PointCharges,
    pairs: Pairs | None,
    moves: Tensor | None,
    *,
    strain: bool,
) -> tuple[Tensor, Tensor] | None:
    """Compiled sums over some pairs, or over all inside each structure; nothing without kernels."""
    x, q = charges.positions, charges.charges
    if not pair_kernels.is_compiled(q) or len(q) > pair_kernels.MOST_ATOMS:
        return None
    graphs = charges.num_graphs
    far = x.new_zeros(graphs, 1, 3, dtype=torch.float64)
    rows = ends = None
    if pairs is None:
        ends = torch.tensor(charges.counts).cumsum(0)[charges.batch]
    else:
        if pairs.shifts is not None:
            if len(pairs.images.shifts) > pair_kernels.MOST_IMAGES:
                return None
            far = torch.matmul(pairs.images.shifts.double(), charges.cell.double())
        rows = pairs.rows(len(q))
    return pair_kernels.run(
        function.for_kernels,
        x,
        q,
        rows,
        far,
        charges.batch if graphs > 1 else None,
        ends,
        moves,
        graphs=graphs,
        strain=strain,
    )
