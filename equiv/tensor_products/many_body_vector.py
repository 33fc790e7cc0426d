r"""Many-body products of signals on the sphere and their gradients."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3.frames import edge_rotations
from equiv.so3.grids import SphereGrid
from equiv.so3.tensor_harmonics import tensor_harmonics
from equiv.tensor_products.many_body_grid import signal_scales, smallest_grid
from equiv.tensor_products.moments import polynomial_moment
from equiv.tensor_products.powers import PowerProduct, columns, degree_scales, from_columns


class VectorSignalManyBodyProduct(PowerProduct):
    r"""Powers of a signal on the sphere and of the length of its gradient.

    .. math::
        y_{lm,c} = w_{1,z,l,c}\, x_{lm,c} + \sum_{\nu=2}^{\nu_\text{max}} \sum_{k=0}^{\lfloor \nu/2
        \rfloor} w_{\nu k,z,l,c}\, \gamma_{\nu k l} \int Y_{lm}\, f_c^{\nu - 2k}\, \big| \nabla
        \tilde f_c \big|^{2k}\, d\Omega

    .. math::
        f_c = \sum_{lm} \alpha_l\, x_{lm,c}\, Y_{lm}, \qquad
        \tilde f_c = \sum_{l>0, m} \frac{\alpha_l\, x_{lm,c}}{\sqrt{l (l+1)}}\, Y_{lm}

    The terms with :math:`k = 0` are those of
    :class:`equiv.tensor_products.many_body_grid.GauntManyBodyProduct`. The odd couplings that
    :class:`equiv.tensor_products.vector_signal.VectorSignalTensorProduct` adds, the bracket
    :math:`\hat r \cdot (\nabla \tilde f \times \nabla \tilde f)`, vanish in a power of one signal,
    and lead from natural to pseudo parity; the scalar product of the gradients does neither. It
    multiplies the even couplings by :math:`l_1(l_1+1) + l_2(l_2+1) - l_3(l_3+1)` (and constants
    of each degree), so the terms are different maps, and more than powers of a scalar signal.

    :math:`|\nabla \tilde f|^2` is a polynomial of degree :math:`2L` on the sphere, and the same
    grid is exact. Constants :math:`\gamma` give every term mean square 1 for standard normal
    features.

    Cost per atom and channel: three signals instead of one, and one projection for each term.

    Args:
        degree_in: :math:`L`, highest degree of the input.
        degree_out: highest degree of the output, at most ``degree_in``.
        channels: number of channels.
        correlation: :math:`\nu_\text{max}`, 1 to 4.
        num_elements: number of chemical elements.

    Raises:
        EquivError: an argument is out of range.
    """

    def __init__(
        self, degree_in: int, degree_out: int, channels: int, *, correlation: int, num_elements: int
    ) -> None:
        self.terms = [
            (order, k)
            for order in range(2, correlation + 1)
            for k in range(order // 2 + 1 if degree_in else 1)
        ]
        super().__init__(
            degree_in,
            degree_out,
            channels,
            correlation=correlation,
            num_elements=num_elements,
            terms=1 + len(self.terms),
        )
        self.grid = smallest_grid(correlation * degree_in + degree_out)
        scales = degree_scales(signal_scales(degree_in), degree_in)
        fields = _signal_and_gradient(self.grid, degree_in) * scales  # [3, points, lm]
        self.register_constant("signals", fields.flatten(0, 1))
        self.signals: Tensor
        back = self.grid.harmonics(degree_out).T * self.grid.weights
        for order, k in self.terms:
            gamma = degree_scales(_term_scales(fields, back, degree_out, order, k), degree_out)
            self.register_constant(f"projection_{order}_{k}", gamma[:, None] * back)

    def powers(
        self, x: Float[Tensor, "atoms lm channels"]
    ) -> list[Float[Tensor, "atoms lm_out channels"]]:
        if not self.terms:
            return []
        f, u, v = (self.signals @ columns(x)).chunk(3)
        squares = u * u + v * v
        made: dict[tuple[int, int], Tensor] = {(1, 0): f, (2, 1): squares}
        out = []
        for order, k in self.terms:
            if (order, k) not in made:
                made[order, k] = (
                    made[order - 1, k] * f if order > 2 * k else made[order - 2, k - 1] * squares
                )
            projection = getattr(self, f"projection_{order}_{k}")
            out.append(from_columns(projection @ made[order, k], x))
        return out


def _term_scales(
    fields: Float[Tensor, "3 points lm"],
    back: Float[Tensor, "lm_out points"],
    degree_out: int,
    order: int,
    k: int,
) -> list[float]:
    """The inverse root of the mean square of a term, for each degree."""
    f, u, v = fields
    squares = torch.einsum("gi,gj->gij", u, u) + torch.einsum("gi,gj->gij", v, v)
    factors = [squares] * k + [f] * (order - 2 * k)
    half = len(factors) // 2
    left, right = _outer(factors[:half], len(f)), _outer(factors[half:], len(f))
    components = [f.shape[1]] * order
    scales = []
    for l in range(degree_out + 1):
        # m = 0: all components of a degree have the same mean square
        t = (left * back[l * l + l, :, None]).T @ right
        scales.append(polynomial_moment(t.reshape(components)) ** -0.5)
    return scales


def _outer(factors: Sequence[Tensor], points: int) -> Float[Tensor, "points products"]:
    """Products of all components of the factors, point by point."""
    t = torch.ones(points, 1, dtype=torch.float64)
    for factor in factors:
        t = (t[:, :, None] * factor.flatten(1)[:, None]).flatten(1)
    return t


def _signal_and_gradient(grid: SphereGrid, degree: int) -> Float[Tensor, "3 points lm"]:
    r"""Harmonics, and two components of their gradients over :math:`\sqrt{l(l+1)}`.

    The gradients are turned by a right angle about the direction, which no scalar product sees.
    """
    turned = torch.cat(
        [
            tensor_harmonics(l, 1, l, grid.points) if l else grid.points.new_zeros(len(grid), 3, 1)
            for l in range(degree + 1)
        ],
        dim=2,
    )
    tangents = edge_rotations(grid.points)[:, :, [2, 0]]
    return torch.cat([grid.harmonics(degree)[None], torch.einsum("gat,gam->tgm", tangents, turned)])
