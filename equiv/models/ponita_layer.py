r"""Layers on functions of position and orientation that are band limited in the orientation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.choices import choose
from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.graph.blocks import NeighborBlocks
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.nn.gate import Gate
from equiv.nn.linear import ElementLinear, SphericalLinear
from equiv.nn.mlp import RadialMLP
from equiv.position_orientation.grids import OrientationGrid
from equiv.position_orientation.zonal_form import zonal_convolution
from equiv.so3 import spherical_harmonics
from equiv.tensor_products.many_body_choice import MANY_BODY_PRODUCTS

POINTWISE = "pointwise"
PRODUCTS = (POINTWISE, *MANY_BODY_PRODUCTS)
"""How features of one atom are multiplied: on the grid, or by a product of the package."""


class SphereSampling(ExactConstants):
    r"""To the values of a function of the orientation on a grid, and back.

    .. math::
        f(o) = \frac{1}{L+1} \sum_{lm} f_{lm} Y_{lm}(o), \qquad
        f_{lm} = (L+1) \sum_o w_o\, Y_{lm}(o)\, f(o)

    with :math:`Y` in component normalisation. If coefficients have unit variance, so have values.
    Products of functions are of higher degree; what they have up to :math:`L` is found exactly if
    the grid averages polynomials exactly up to :math:`L` plus the degree of the product.

    Args:
        grid: orientations and their weights.
        degree: :math:`L`.
    """

    def __init__(self, grid: OrientationGrid, degree: int) -> None:
        super().__init__()
        self.degree = degree
        exact = grid.state_dict()  # float64 whatever the dtype
        harmonics = spherical_harmonics(degree, exact["points"])
        self.register_constant("synthesis", harmonics / (degree + 1))
        self.register_constant("analysis", (harmonics * exact["weights"][:, None]).T * (degree + 1))
        self.synthesis: Tensor
        self.analysis: Tensor

    def values(
        self, x: Float[Tensor, "rows lm channels"]
    ) -> Float[Tensor, "rows orientations channels"]:
        """Values of functions given by coefficients, up to :attr:`degree` or less."""
        return self.synthesis[:, : x.shape[1]] @ x

    def coefficients(
        self, f: Float[Tensor, "rows orientations channels"], degree: int | None = None
    ) -> Float[Tensor, "rows lm channels"]:
        """Coefficients of functions given by values, up to ``degree``."""
        size = self.analysis.shape[0] if degree is None else (degree + 1) ** 2
        return self.analysis[:size] @ f


@dataclass(frozen=True)
class PairGeometry:
    """What all layers know of the pairs.

    Attributes:
        harmonics: of the directions, in component normalisation. Shape ``[pairs, lm]``.
        zonal: polynomials of the angle to the orientations, of unit variance. Shape ``[pairs,
            orientations, degrees]``.
        radial: basis functions of the distance. Shape ``[pairs, num_radial]``.
    """

    harmonics: Float[Tensor, "pairs lm"]
    zonal: Float[Tensor, "pairs orientations degrees"]
    radial: Float[Tensor, "pairs num_radial"]


class SphereConvolution(nn.Module):
    r"""Convolution over positions, for each orientation by itself.

    .. math::
        y_i(o) = \frac{1}{\sqrt{\bar n\,(L+1)}} \sum_{j \to i} k(r_{ij}, o) \odot x_j(o), \qquad
        k_c(r, o) = \sum_{l=0}^{L} R_{lc}(|r|)\, \sqrt{2l+1}\, P_l(\hat r \cdot o)

    projected onto degrees up to :math:`L`. Functions that do not depend on the orientation (degree
    0) are convolved without a grid. What is of degree :math:`l` in :math:`y` is scaled by the
    linear map that follows, which is the convolution over orientations.

    Cost per edge and channel: :math:`n_o (L + 2)` multiply-adds for :math:`n_o` orientations.

    Args:
        grid: orientations.
        degree: :math:`L`.
        degree_in: highest degree of the features, 0 or :math:`L`.
        channels: of the features.
        mean_neighbors: :math:`\bar n`.
    """

    def __init__(
        self,
        grid: OrientationGrid,
        degree: int,
        degree_in: int,
        channels: int,
        mean_neighbors: float,
    ) -> None:
        super().__init__()
        self.sampling = SphereSampling(grid, degree)
        self.channels, self.degree = channels, degree
        self.scale = (mean_neighbors * (self.degree + 1)) ** -0.5
        self.isotropic = (
            ClebschGordanConvolution(0, self.degree, self.degree, channels)
            if degree_in == 0
            else None
        )

    @property
    def weight_numel(self) -> int:
        """Radial weights per pair."""
        return (self.degree + 1) * self.channels

    def forward(
        self,
        features: Float[Tensor, "rows lm_in channels"],
        pairs: PairGeometry,
        weights: Float[Tensor, "pairs degrees_channels"],
        neighbors: NeighborBlocks,
    ) -> Float[Tensor, "rows lm channels"]:
        """The convolution; ``weights`` are :math:`R`, degree by degree."""
        weights = weights * self.scale
        if self.isotropic is not None:
            messages = self.isotropic(features, pairs.harmonics, weights, neighbors)
            factor = self.degree + 1
            parts = [m * (factor * (2 * l + 1) ** -0.5) for l, m in enumerate(messages)]
            return torch.cat(parts, dim=1)
        radial = weights.unflatten(-1, (self.degree + 1, self.channels))
        values = self.sampling.values(features)
        return self.sampling.coefficients(zonal_convolution(values, pairs.zonal, radial, neighbors))


class PointwiseProducts(nn.Module):
    r"""Products of functions of the orientation, taken on the grid.

    .. math::
        p_1 = U_1 x, \qquad p_k = \Pi_L \big[ (U_k x) \cdot p_{k-1} \big], \qquad
        y = (p_2, \dots, p_\nu)

    The linear maps :math:`U` mix channels; :math:`\Pi_L` keeps degrees up to :math:`L`. Products of
    two functions of degree :math:`L` are known exactly on a grid of strength :math:`3L`, so the map
    is equivariant under all rotations and not only under those of the grid.

    Args:
        grid: orientations.
        degree: :math:`L`, highest degree of the features.
        degree_out: highest degree of the results.
        channels: of the features.
        correlation: :math:`\nu`, at least 2.
    """

    def __init__(
        self, grid: OrientationGrid, degree: int, degree_out: int, channels: int, correlation: int
    ) -> None:
        super().__init__()
        self.sampling = SphereSampling(grid, degree)
        self.degree_out, self.correlation = degree_out, correlation
        self.mix = SphericalLinear(channels, correlation * channels, degree)
        self.channels_out = (correlation - 1) * channels

    def forward(
        self, x: Float[Tensor, "rows lm channels"], counts: Sequence[int]
    ) -> Float[Tensor, "rows lm_out channels_out"]:
        """Products at atoms; the elements, with ``counts`` atoms each, do not matter."""
        factors = self.sampling.values(self.mix(x)).chunk(self.correlation, dim=-1)
        product, results = factors[0], []
        for k, factor in enumerate(factors[1:]):
            last = k == self.correlation - 2
            degree = self.degree_out if last else None
            kept = self.sampling.coefficients(factor * product, degree)
            results.append(_up_to(self.degree_out, kept))
            product = product if last else self.sampling.values(kept)
        return torch.cat(results, dim=-1)


class TensorProducts(nn.Module):
    """Products of one atom's features by a tensor product of the package.

    The many-body product of the functions' coefficients (:data:`MANY_BODY_PRODUCTS`), with weights
    of the atom's element.

    Args:
        product: its name.
        degree: highest degree of the features.
        degree_out: highest degree of the results.
        channels: of the features.
        correlation: highest power.
        num_elements: number of elements.
    """

    def __init__(
        self,
        product: str,
        degree: int,
        degree_out: int,
        channels: int,
        correlation: int,
        num_elements: int,
    ) -> None:
        super().__init__()
        self.product = choose(MANY_BODY_PRODUCTS, product, "product")(
            degree, degree_out, channels, correlation=correlation, num_elements=num_elements
        )
        self.channels_out = channels

    def forward(
        self, x: Float[Tensor, "rows lm channels"], counts: Sequence[int]
    ) -> Float[Tensor, "rows lm_out channels_out"]:
        """Products at atoms sorted by element, with ``counts`` atoms of each."""
        return self.product(x, counts)


class PonitaLayer(nn.Module):
    r"""Convolution, gate, products and mixing of functions of position and orientation.

    .. math::
        y = \tfrac{1}{\sqrt 2} \big( V \, (k * U x) + S_z x \big), \qquad
        g = \mathrm{gate}(y), \qquad
        x' = x + W \big( g, p_2(g), \dots, p_\nu(g) \big)

    Functions of the orientation are held as spherical-harmonic coefficients up to degree :math:`L`
    and sampled where they are multiplied: in the convolution :math:`k *`
    (:class:`SphereConvolution`) and in the products :math:`p` (:class:`PointwiseProducts`). All
    matrices act degree by degree, which is the convolution over orientations and the mixing of
    channels in one. The gate takes the place of an activation: it is a function of what does not
    turn, so that the degree stays bounded.

    Args:
        grid: orientations, of strength :math:`3L` at least.
        degree: :math:`L`.
        degree_in: highest degree of the features, 0 or :math:`L`.
        degree_out: highest degree of the result, at most :math:`L`.
        channels: of the features.
        correlation: highest power of the features in one layer.
        product: one of :data:`PRODUCTS`.
        radial_widths: of the radial network, from the basis on.
        num_elements: number of elements.
        mean_neighbors: mean number of neighbours of an atom.
    """

    def __init__(
        self,
        grid: OrientationGrid,
        *,
        degree: int,
        degree_in: int,
        degree_out: int,
        channels: int,
        correlation: int,
        product: str,
        radial_widths: Sequence[int],
        num_elements: int,
        mean_neighbors: float,
    ) -> None:
        super().__init__()
        require_strength(grid, degree)
        choose(dict.fromkeys(PRODUCTS), product, "product")
        self.degree_out = degree_out
        self.linear_up = SphericalLinear(channels, channels, degree_in)
        self.convolution = SphereConvolution(grid, degree, degree_in, channels, mean_neighbors)
        self.radial_mlp = RadialMLP([*radial_widths, self.convolution.weight_numel])
        self.linear_down = SphericalLinear(channels, channels, degree)
        self.skip = ElementLinear(channels, channels, degree_in, num_elements=num_elements)
        self.shift = nn.Parameter(torch.zeros(channels))
        self.gate = Gate(degree)
        self.gates = nn.Parameter(torch.randn(channels, degree * channels))
        wide = channels
        self.products = None
        if correlation > 1:
            self.products = (
                PointwiseProducts(grid, degree, degree_out, channels, correlation)
                if product == POINTWISE
                else TensorProducts(
                    product, degree, degree_out, channels, correlation, num_elements
                )
            )
            wide += self.products.channels_out
        self.mix = SphericalLinear(wide, channels, degree_out)

    def forward(
        self,
        features: Float[Tensor, "rows lm_in channels"],
        pairs: PairGeometry,
        neighbors: NeighborBlocks,
        counts: Sequence[int],
    ) -> Float[Tensor, "rows lm_out channels"]:
        """New features of atoms sorted by element, ``counts`` atoms of each."""
        messages = self.convolution(
            self.linear_up(features), pairs, self.radial_mlp(pairs.radial), neighbors
        )
        y = _added(self.linear_down(messages), self.skip(features, counts)) * math.sqrt(0.5)
        scalars, tensors = y.split([1, y.shape[1] - 1], dim=1)
        scalars = scalars + self.shift
        gates = scalars.squeeze(1) @ (self.gates * self.gates.shape[0] ** -0.5)
        g = self.gate(torch.cat([scalars, tensors], 1), gates)
        parts = [_up_to(self.degree_out, g)]
        if self.products is not None:
            parts.append(self.products(g, counts))
        return _added(self.mix(torch.cat(parts, -1)), _up_to(self.degree_out, features))


def _up_to(degree: int, x: Tensor) -> Tensor:
    """What a spherical tensor has up to a degree; split, for the gradient of a slice is slower."""
    size = (degree + 1) ** 2
    return x if x.shape[1] <= size else x.split([size, x.shape[1] - size], dim=1)[0]


def _added(x: Tensor, y: Tensor) -> Tensor:
    """The sum of spherical tensors of which the second may end at a lower degree."""
    return x + nn.functional.pad(y, (0, 0, 0, x.shape[1] - y.shape[1]))


def require_strength(grid: OrientationGrid, degree: int) -> None:
    """Raise an error if products of functions of this degree are not exact on a grid."""
    if grid.strength < 3 * degree:
        raise EquivError(
            f"degree = {degree} needs a grid that averages polynomials up to degree "
            f"{3 * degree} exactly; this one has strength {grid.strength}. Take a lower degree, "
            f"at most {grid.strength // 3}, a stronger grid, or block = 'convnext'"
        )
