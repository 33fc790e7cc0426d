r"""A smooth kernel for particles that move: it sees distances, charges and relative velocities."""

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks
from equiv.position_orientation.grids import OrientationGrid, zonal_polynomials
from equiv.position_orientation.legendre_kernel import (
    LegendreConvolution,
    LegendreKernel,
    LegendreSamples,
)
from equiv.position_orientation.radial import LogRadialBasis
from equiv.position_orientation.samples import SpatialConvolution

FEATURES = 4  # of a pair beside its distance


class MovingKernel(LegendreKernel):
    r"""Functions of distance, charges and relative velocity times functions of the orientation.

    .. math::
        k_c(o) = \sum_a R_{ac}(\phi)\, Z_a(o), \qquad
        Z = \big(P_0(c), \dots, P_L(c),\; c\, w,\; w \big)

    Here :math:`c = \hat r \cdot o`, and :math:`w = v \cdot o / \sqrt{1 + v^2}` with the relative
    velocity :math:`v`. The perceptrons :math:`R` see what exchanging two particles leaves as it
    is: bumps of :math:`\ln r`, the same times :math:`q_i q_j`, the speed :math:`\hat r \cdot v`
    at which they part, and the sizes of :math:`v` and of :math:`r \times v`. Velocities enter as
    differences only, and charges as products: moving frames and the opposite charges make no
    difference.

    Args:
        l_max: highest degree :math:`L`, odd, so that odd and even functions alternate.
        radial: basis for the distance.
        hidden: widths of the perceptrons.
    """

    def __init__(self, l_max: int, radial: LogRadialBasis, hidden: tuple[int, ...]) -> None:
        super().__init__(l_max, radial, hidden)

    def pairs(
        self,
        vectors: Float[Tensor, "pairs 3"],
        velocities: Float[Tensor, "pairs 3"],
        charges: Float[Tensor, " pairs"],
        grid: OrientationGrid,
    ) -> LegendreSamples:
        """Samples at the pairs.

        Args:
            vectors: from the first to the second particle.
            velocities: of the second relative to the first.
            charges: the product of the two.
            grid: orientations.
        """
        r = torch.linalg.vector_norm(vectors, dim=-1)
        inverse = torch.where(r > 0, 1 / torch.where(r > 0, r, 1), 0)
        directions = vectors * inverse.unsqueeze(-1)
        cosines = directions @ grid.points.T
        speed2 = velocities.square().sum(-1)
        along = velocities @ grid.points.T * (1 + speed2).rsqrt().unsqueeze(-1)
        legendre = zonal_polynomials(self.l_max, cosines, grid.dim)
        moving = torch.stack([cosines * along * 3, along * 3**0.5], -1)
        zonal = torch.cat([legendre, moving], -1) * (self.l_max + 3) ** -0.5
        bumps = self.radial(r)
        momentum = torch.linalg.cross(vectors, velocities).square().sum(-1)
        features = torch.stack(
            [
                torch.ones_like(r),
                (directions * velocities).sum(-1),
                torch.log1p(speed2),
                torch.log1p(momentum),
            ],
            -1,
        )
        known = torch.cat([bumps, bumps * charges.unsqueeze(-1), features], -1)
        return LegendreSamples(zonal, known, None, None)

    def forward(
        self,
        vectors: Float[Tensor, "pairs 3"],
        grid: OrientationGrid,
        neighbors: NeighborBlocks,
        pair_scalars: Float[Tensor, "pairs 4"] | None = None,
        condition: Tensor | None = None,
    ) -> LegendreSamples:
        """The same; ``pair_scalars`` are relative velocity and product of charges."""
        assert pair_scalars is not None
        return self.pairs(vectors, pair_scalars[:, :3], pair_scalars[:, 3], grid)

    def convolution(self, channels: int, mean_neighbors: float) -> SpatialConvolution:
        """A layer that convolves with kernels of this family."""
        widths = [2 * self.radial.num + FEATURES, *self.hidden]
        return LegendreConvolution(channels, self.l_max + 2, widths, mean_neighbors=mean_neighbors)
