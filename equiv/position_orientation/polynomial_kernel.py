r"""The published kernel: a perceptron of polynomials of what an orientation sees of a vector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import factorial, prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.choices import choose
from equiv.errors import EquivError
from equiv.graph.blocks import NeighborBlocks
from equiv.nn.cutoff import PolynomialCutoff
from equiv.position_orientation.blockwise import blockwise
from equiv.position_orientation.grids import OrientationGrid
from equiv.position_orientation.invariants import (
    planar_attributes,
    published_attributes,
    smooth_attributes,
)
from equiv.position_orientation.projected_form import direct_convolution, projected_convolution
from equiv.position_orientation.samples import Kernel, SpatialConvolution

ATTRIBUTES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "published": published_attributes,
    "smooth": smooth_attributes,
}


@dataclass(frozen=True)
class PolynomialSamples:
    """Samples of a :class:`PolynomialKernel`.

    Attributes:
        basis: at the pairs; without antipodes a second time, at their reverses. Shape ``[kernels,
            orientations, basis]``.
        self_basis: at :math:`r = 0`. Shape ``[1 or rows, 1, basis]``.
        antipodes: the place of the opposite of every orientation; ``None`` if the grid has none.
    """

    basis: Float[Tensor, "kernels orientations basis"]
    self_basis: Float[Tensor, "rows 1 basis"]
    antipodes: Int[Tensor, " orientations"] | None


class PolynomialKernel(Kernel):
    r"""Two layers of a perceptron on all monomials of the attributes, times a window.

    .. math::
        \Phi(r, o) = \mathrm{GELU}\big(W_2\, \mathrm{GELU}(W_1\, m(a) + b_1) + b_2\big)\;
        f(|r| / r_c), \qquad a = (r \cdot o,\; |r - (r \cdot o)\, o|)

    :math:`m` are the monomials of degree 1 to ``degree``, each once: 9 for degree 3. In the plane
    :math:`a = (r \cdot o,\; o \times r)`. Each convolution takes its own linear combinations
    :math:`k_c = \sum_b \Phi_b W_{bc}`. (Bekkers et al. 2024.)

    Since :math:`\Phi(-r, o) = \Phi(r, -o)`, grids with antipodes need one evaluation for both
    directions of a pair. The self term is :math:`\Phi(0)`, evaluated once and not for each atom.

    Smoothness: :math:`|r - (r \cdot o)\, o|` has a cusp where a neighbour lies on an orientation,
    and forces jump there; with ``attributes="smooth"`` its square takes its place, and the kernel
    is smooth.

    Args:
        hidden: width of the first layer.
        basis: number of functions :math:`\Phi`.
        degree: of the polynomials.
        cutoff: :math:`r_c` in Angstrom; ``None`` for no window.
        attributes: ``"published"`` or ``"smooth"`` (in space).
        pair_scalars: numbers that belong to a pair, added to the first layer linearly.
        condition: numbers that belong to a row, likewise, as the mean of both atoms.
    """

    def __init__(
        self,
        hidden: int = 128,
        basis: int = 256,
        degree: int = 3,
        *,
        cutoff: float | None = None,
        attributes: str = "published",
        pair_scalars: int = 0,
        condition: int = 0,
    ) -> None:
        super().__init__()
        if degree < 1:
            raise EquivError(f"PolynomialKernel: degree must be at least 1, got {degree}")
        self.attributes = choose(ATTRIBUTES, attributes, "PolynomialKernel: attributes")
        self.degree, self.cutoff, self.fiber_size = degree, cutoff, basis
        self.exponents, self.fiber_exponents = exponents(2, degree), exponents(1, degree)
        self.pair_scalars, self.condition = pair_scalars, condition
        self.window = PolynomialCutoff(6)
        self.first = _folded_linear(2, degree, hidden)
        self.second = nn.Linear(hidden, basis)
        self.fiber_first = _folded_linear(1, degree, hidden)
        self.fiber_second = nn.Linear(hidden, basis)
        modulation = pair_scalars + condition
        self.modulation = nn.Linear(modulation, hidden, bias=False) if modulation else None

    def forward(
        self,
        vectors: Float[Tensor, "pairs dim"],
        grid: OrientationGrid,
        neighbors: NeighborBlocks,
        pair_scalars: Float[Tensor, "pairs scalars"] | None = None,
        condition: Float[Tensor, "rows condition"] | None = None,
    ) -> PolynomialSamples:
        """Samples at the pairs."""
        extra = self_extra = None
        if self.modulation is not None:
            u = self.modulation.weight
            of_pairs, of_rows = self.modulating(vectors, neighbors, pair_scalars, condition)
            extra, self_extra = of_pairs @ u.T, of_rows @ u.T
        antipodes = None if grid.antipodes is None else grid.antipodes.to(vectors.device)
        if antipodes is None and neighbors.slots.shape[1] > 1:
            vectors = torch.cat([vectors, -vectors])
            extra = None if extra is None else torch.cat([extra, extra])
        see = planar_attributes if grid.dim == 2 else self.attributes
        a = see(vectors.unsqueeze(1), grid.points)
        basis = self._perceptron(a, extra)
        if self.cutoff is not None:
            r = torch.linalg.vector_norm(vectors, dim=-1)
            basis = basis * self.window(r / self.cutoff)[:, None, None]
        at_zero = self._perceptron(a.new_zeros(1, 1, 2), self_extra)
        return PolynomialSamples(basis, at_zero, antipodes)

    def fiber(self, grid: OrientationGrid) -> Float[Tensor, "orientations orientations fiber_size"]:
        r"""The same perceptron, with weights of its own, of :math:`o \cdot p`."""
        cosines = (grid.points @ grid.points.T).unsqueeze(-1)
        hidden = nn.functional.gelu(self.fiber_first(monomials(cosines, self.fiber_exponents)))
        return nn.functional.gelu(self.fiber_second(hidden))

    def convolution(self, channels: int, mean_neighbors: float) -> SpatialConvolution:
        """A layer that convolves with kernels of this family."""
        return PolynomialConvolution(channels, self.fiber_size, mean_neighbors=mean_neighbors)

    def _perceptron(self, a: Tensor, extra: Tensor | None) -> Tensor:
        weights = (self.first.weight, self.first.bias, self.second.weight, self.second.bias)
        rows = monomials(a, self.exponents)
        if extra is not None:
            own = extra.unsqueeze(1) + nn.functional.linear(rows, *weights[:2])
            return nn.functional.gelu(self.second(nn.functional.gelu(own)))
        return blockwise(_two_layers, rows.flatten(0, -2), *weights).unflatten(0, rows.shape[:-1])

    def extra_repr(self) -> str:
        return f"degree={self.degree}, cutoff={self.cutoff}"


def _two_layers(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    linear, activation = nn.functional.linear, nn.functional.gelu
    return activation(linear(activation(linear(x, w1, b1)), w2, b2))


class PolynomialConvolution(SpatialConvolution):
    r"""Convolution with linear combinations of the functions of a :class:`PolynomialKernel`.

    .. math::
        y_i(o) = \sum_b \Phi_b(0) W_{b} \odot x_i(o) + \frac{1}{\sqrt{\bar n}} \sum_{j \to i}
        \sum_b \Phi_b(r_{ij}, o) W_b \odot x_j(o)

    Args:
        channels: of the features.
        basis: number of functions :math:`\Phi_b`.
        mean_neighbors: :math:`\bar n`; 1 in the published code.
    """

    def __init__(self, channels: int, basis: int, *, mean_neighbors: float) -> None:
        super().__init__()
        self.mean_neighbors = mean_neighbors
        self.weight = nn.Linear(basis, channels, bias=False)

    def own(
        self, x: Float[Tensor, "rows orientations channels"], samples: PolynomialSamples
    ) -> Float[Tensor, "rows orientations channels"]:
        """The self term."""
        return self.weight(samples.self_basis) * x

    def received(
        self,
        x: Float[Tensor, "rows orientations channels"],
        samples: PolynomialSamples,
        neighbors: NeighborBlocks,
        emphasis: Float[Tensor, "pairs channels"] | None = None,
    ) -> Float[Tensor, "rows orientations channels"]:
        """The sum over neighbours."""
        if emphasis is None:
            weight = self.weight.weight * self.mean_neighbors**-0.5
            return projected_convolution(x, samples.basis, weight, neighbors, samples.antipodes)
        kernels = self.weight(samples.basis)
        if kernels.shape[0] != emphasis.shape[0]:  # the reverses follow
            emphasis = torch.cat([emphasis, emphasis])
        kernels = kernels * emphasis.unsqueeze(1)
        y = direct_convolution(x, kernels, neighbors, samples.antipodes)
        return y * self.mean_neighbors**-0.5

    def rescale(self, factor: float) -> None:
        """Multiply the kernel by a number."""
        self.weight.weight.data *= factor


def monomials(
    x: Float[Tensor, "*points attributes"], which: Sequence[tuple[int, ...]]
) -> Float[Tensor, "*points monomials"]:
    """Products of attributes, each made of one before it (:func:`exponents`)."""
    columns = x.unbind(-1)
    terms: dict[tuple[int, ...], Tensor] = {(): torch.ones_like(columns[0])}
    out = []
    for factors in which:
        *_, last = factors
        before = factors[:-1]
        terms[factors] = terms[before] * columns[last] if before else columns[last]
        out.append(terms[factors])
    return torch.stack(out, -1)


def exponents(attributes: int, degree: int) -> list[tuple[int, ...]]:
    """The factors of every monomial, sorted by degree: (0,), (1,), (0, 0), (0, 1), (1, 1), ..."""
    return [
        which
        for d in range(1, degree + 1)
        for which in combinations_with_replacement(range(attributes), d)
    ]


def multiplicity(which: tuple[int, ...]) -> int:
    """How many ordered products are one and the same monomial."""
    return factorial(len(which)) // prod(factorial(which.count(k)) for k in set(which))


def _folded_linear(attributes: int, degree: int, out: int) -> nn.Linear:
    """A linear map of monomials that is born as one of all ordered products, twins added up."""
    which = exponents(attributes, degree)
    times = torch.tensor([float(multiplicity(w)) for w in which])
    linear = nn.Linear(len(which), out)
    with torch.no_grad():
        bound = times.sum().rsqrt()
        linear.weight.uniform_(-1, 1).mul_(bound * times.sqrt())
        linear.bias.uniform_(-1, 1).mul_(bound)
    return linear
