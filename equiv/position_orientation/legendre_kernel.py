r"""A smooth kernel: radial functions times polynomials of the angle to the orientation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.graph.blocks import NeighborBlocks
from equiv.nn.mlp import SILU_GAIN
from equiv.nn.radial import BesselBasis, ChebyshevBasis
from equiv.position_orientation.grids import OrientationGrid, zonal_polynomials
from equiv.position_orientation.radial import LogRadialBasis
from equiv.position_orientation.samples import Kernel, SpatialConvolution
from equiv.position_orientation.zonal_form import zonal_convolution


@dataclass(frozen=True)
class LegendreSamples:
    """Samples of a :class:`LegendreKernel`.

    Attributes:
        zonal: polynomials of the angle, of unit variance. Shape ``[pairs, orientations, degrees]``.
        radial: functions of the distance. Shape ``[pairs, functions]``.
        modulation: what else modulates the kernel. Shape ``[pairs, scalars + condition]``.
        self_modulation: the same at the self terms. Shape ``[rows or 1, scalars + condition]``.
    """

    zonal: Float[Tensor, "pairs orientations degrees"]
    radial: Float[Tensor, "pairs functions"]
    modulation: Float[Tensor, "pairs modulation"] | None
    self_modulation: Float[Tensor, "rows modulation"] | None


class LegendreKernel(Kernel):
    r"""Radial functions times Legendre polynomials of the angle to the orientation.

    .. math::
        k_c(r, o) = \frac{1}{\sqrt{L+1}} \sum_{l=0}^{L} R_{lc}(|r|)\; \sqrt{2l+1}\; P_l(\hat r
        \cdot o)

    in the plane :math:`\cos l\theta` for :math:`P_l`. Each convolution has its own perceptron
    :math:`R` (:class:`LegendreConvolution`), evaluated once per pair and not once per orientation.
    The kernel is smooth wherever a neighbour stands, and band limited: degree ``l_max`` in the
    direction, so on a grid of strength :math:`\ge 2 L` the first layer is exactly equivariant.

    Between orientations, :math:`\sum_l F_{lc}\, (2l+1) P_l(o \cdot p)` up to ``fiber_degree``:
    multiplies what a function has of degree :math:`l` by :math:`F_{lc}`.

    Args:
        l_max: highest degree :math:`L`.
        radial: basis for the radial functions, which vanish where it vanishes.
        hidden: widths of the radial perceptrons.
        fiber_degree: by default ``l_max``.
        pair_scalars: numbers that belong to a pair (a product of charges); they modulate the
            radial functions.
        condition: numbers that belong to a row (time, noise); they do the same.
    """

    def __init__(
        self,
        l_max: int,
        radial: BesselBasis | ChebyshevBasis | LogRadialBasis,
        hidden: Sequence[int] = (64,),
        *,
        fiber_degree: int | None = None,
        pair_scalars: int = 0,
        condition: int = 0,
    ) -> None:
        super().__init__()
        if l_max < 0:
            raise EquivError(f"LegendreKernel: l_max cannot be negative, got {l_max}")
        self.l_max, self.radial, self.hidden = l_max, radial, tuple(hidden)
        self.cutoff = radial.cutoff
        self.fiber_degree = l_max if fiber_degree is None else fiber_degree
        self.fiber_size = self.fiber_degree + 1
        self.pair_scalars, self.condition = pair_scalars, condition

    def forward(
        self,
        vectors: Float[Tensor, "pairs dim"],
        grid: OrientationGrid,
        neighbors: NeighborBlocks,
        pair_scalars: Float[Tensor, "pairs scalars"] | None = None,
        condition: Float[Tensor, "rows condition"] | None = None,
    ) -> LegendreSamples:
        """Samples at the pairs."""
        r = torch.linalg.vector_norm(vectors, dim=-1)
        # A vector of length zero has no direction.
        inverse = torch.where(r > 0, 1 / torch.where(r > 0, r, 1), 0)
        cosines = (vectors * inverse.unsqueeze(-1)) @ grid.points.T
        zonal = zonal_polynomials(self.l_max, cosines, grid.dim) * (self.l_max + 1) ** -0.5
        of_pairs = of_rows = None
        if self.pair_scalars + self.condition:
            of_pairs, of_rows = self.modulating(vectors, neighbors, pair_scalars, condition)
        return LegendreSamples(zonal, self.radial(r), of_pairs, of_rows)

    def fiber(self, grid: OrientationGrid) -> Float[Tensor, "orientations orientations fiber_size"]:
        r"""Reproducing kernels of the degrees, :math:`(2l+1) P_l(o \cdot p)`."""
        cosines = grid.points @ grid.points.T
        p = zonal_polynomials(self.fiber_degree, cosines, grid.dim)
        at_pole = zonal_polynomials(self.fiber_degree, cosines.new_ones(1), grid.dim)
        return p * at_pole

    def convolution(self, channels: int, mean_neighbors: float) -> SpatialConvolution:
        """A layer that convolves with kernels of this family."""
        return LegendreConvolution(
            channels,
            self.l_max,
            [self.radial.num, *self.hidden],
            modulation=self.pair_scalars + self.condition,
            mean_neighbors=mean_neighbors,
        )

    def extra_repr(self) -> str:
        return f"l_max={self.l_max}, fiber_degree={self.fiber_degree}, cutoff={self.cutoff}"


class LegendreConvolution(SpatialConvolution):
    r"""Convolution with a kernel of a :class:`LegendreKernel`.

    .. math::
        y_i(o) = s \odot x_i(o) + \frac{1}{\sqrt{\bar n}} \sum_{j \to i} k(r_{ij}, o) \odot x_j(o),
        \qquad R(|r|) = \mathrm{MLP}(b(|r|))

    The perceptron has no biases, so it vanishes with the basis :math:`b` at the cutoff. What
    modulates the kernel (:math:`u`) multiplies the hidden layers, :math:`\mathrm{silu}(x W)
    \odot (1 + u V)`, and the self term, :math:`s \odot (1 + u V_s)`; :math:`V = 0` at birth.

    Args:
        channels: of the features.
        l_max: highest degree.
        widths: of the radial perceptron, the basis first.
        modulation: how many numbers modulate the kernel.
        mean_neighbors: :math:`\bar n`.
    """

    def __init__(
        self,
        channels: int,
        l_max: int,
        widths: Sequence[int],
        *,
        modulation: int = 0,
        mean_neighbors: float,
    ) -> None:
        super().__init__()
        self.channels, self.l_max, self.mean_neighbors = channels, l_max, mean_neighbors
        sizes = [*widths, (l_max + 1) * channels]
        self.weights = nn.ParameterList(torch.randn(a, b) for a, b in pairwise(sizes))
        self.self_weight = nn.Parameter(torch.ones(channels))
        self.gates = nn.ParameterList(
            torch.zeros(modulation, size) for size in [*sizes[1:-1], channels] if modulation
        )

    def own(
        self, x: Float[Tensor, "rows orientations channels"], samples: LegendreSamples
    ) -> Float[Tensor, "rows orientations channels"]:
        """The self term."""
        if samples.self_modulation is None:
            return self.self_weight * x
        gate = 1 + samples.self_modulation @ self.gates[-1]
        return self.self_weight * gate.unsqueeze(1) * x

    def received(
        self,
        x: Float[Tensor, "rows orientations channels"],
        samples: LegendreSamples,
        neighbors: NeighborBlocks,
        emphasis: Float[Tensor, "pairs channels"] | None = None,
    ) -> Float[Tensor, "rows orientations channels"]:
        """The sum over neighbours."""
        radial = self.radial(samples)
        if emphasis is not None:
            radial = radial * emphasis.unsqueeze(1)
        return zonal_convolution(x, samples.zonal, radial, neighbors)

    def radial(self, samples: LegendreSamples) -> Float[Tensor, "pairs degrees channels"]:
        r"""The radial functions :math:`R_{lc} / \sqrt{\bar n}`."""
        *hidden, last = self.weights
        b = samples.radial
        for k, weight in enumerate(hidden):
            b = nn.functional.silu(b @ (weight * weight.shape[0] ** -0.5)) * SILU_GAIN
            if samples.modulation is not None:
                b = b * (1 + samples.modulation @ self.gates[k])
        last = last * (last.shape[0] * self.mean_neighbors) ** -0.5
        return (b @ last).unflatten(-1, (self.l_max + 1, self.channels))

    def rescale(self, factor: float) -> None:
        """Multiply the kernel by a number."""
        self.weights[-1].data *= factor
        self.self_weight.data *= factor

    def extra_repr(self) -> str:
        widths = " -> ".join(str(w.shape[0]) for w in self.weights)
        return f"l_max={self.l_max}, radial={widths} -> {self.l_max + 1} x {self.channels}"
