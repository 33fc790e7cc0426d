r"""Products on grids of rings, by one transform along meridians and one along rings."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.tensor_products.pointwise import Field, PointwiseProduct


class SeparableProduct(PointwiseProduct):
    r"""Product of functions on a grid of rings, with :math:`O(L^3)` operations.

    .. math::
        f(\theta_b, \varphi_a) = \sum_{m \ge 0} c_m(\varphi_a) \sum_l \Theta_{m b l}\, x_{l m} +
        \sum_{m > 0} s_m(\varphi_a) \sum_l \Theta_{m b l}\, x_{l,-m}

    with :math:`c_m = \sqrt 2 \cos m\varphi` (:math:`c_0 = 1`) and :math:`s_m = \sqrt 2 \sin
    m\varphi`. The polar matrices :math:`\Theta` of the three operands decide what the product is;
    for a product on the sphere they are associated Legendre functions. The sum over degrees is one
    matrix product for each :math:`m`, the sum over :math:`m` a dense Fourier transform along the
    rings: :math:`O(L^3)` multiply-adds per row and channel, against :math:`O(L^4)` for dense
    matrices on the same points.

    The mirror :math:`\varphi \to -\varphi` halves the work: cosines are even and sines odd, the
    azimuths :math:`\varphi_a = 2\pi (a + \tfrac12) / n_\varphi` come in pairs, and products of even
    and odd parts are again even or odd,

    .. math::
        (f h)_e = f_e h_e + f_o h_o, \qquad (f h)_o = f_e h_o + f_o h_e .

    Args:
        polar: :math:`\Theta` of the three operands, ``[m, rings, degrees]``, 0 where ``l < m``; the
            third includes the quadrature weights of the rings.
        steps: :math:`n_\varphi`, even.
    """

    def __init__(self, polar: Sequence[Float[Tensor, "m rings degrees"]], steps: int) -> None:
        dim1, dim2, dim3 = (len(p) ** 2 for p in polar)
        super().__init__((dim1, dim2, dim3), 2 * polar[0].shape[1] * steps // 2)
        self.block = max(64, min(4096, 2**19 // (polar[0].shape[1] * steps)))
        self.rings = polar[0].shape[1]
        azimuths = (torch.arange(steps // 2, dtype=torch.float64) + 0.5) * (2 * math.pi / steps)
        self._degrees = [len(p) for p in polar]
        for n, matrices in enumerate(polar):
            size = len(matrices)
            angles = azimuths[:, None] * torch.arange(size, dtype=torch.float64)
            even, odd = math.sqrt(2) * angles.cos(), math.sqrt(2) * angles.sin()[:, 1:]
            even[:, 0] = 1
            self.register_constant(f"polar_even_{n}", matrices)
            self.register_constant(f"polar_odd_{n}", matrices[1:, :, 1:])
            self.register_constant(f"even_{n}", even)
            self.register_constant(f"odd_{n}", odd)
            # (m, l) -> component l, m and l, -m; any component where l < m, met by a 0
            m, l = (t.flatten() for t in _squares(0, size))
            self.register_buffer(f"pick_even_{n}", l * l + l + torch.minimum(m, l), False)
            m, l = (t.flatten() for t in _squares(1, size))
            self.register_buffer(f"pick_odd_{n}", l * l + l - torch.minimum(m, l), False)
            # component -> (m, l) among those, even ones first
            where = [
                abs(m) * size + l if m >= 0 else size**2 + (abs(m) - 1) * (size - 1) + l - 1
                for l in range(size)
                for m in range(-l, l + 1)
            ]
            self.register_buffer(f"where_{n}", torch.tensor(where), False)

    def field(self, operand: int, x: Float[Tensor, "rows lm channels"]) -> Field:
        rows, _, channels = x.shape
        size, columns = self._degrees[operand], x.transpose(0, 1)
        parts = []
        for name, count in (("even", size), ("odd", size - 1)):
            waves: Tensor = getattr(self, f"{name}_{operand}")
            shape = (waves.shape[0] * self.rings, rows, channels)
            if not count:
                parts.append(x.new_zeros(shape))
                continue
            picked = columns.index_select(0, getattr(self, f"pick_{name}_{operand}"))
            polar: Tensor = getattr(self, f"polar_{name}_{operand}")
            along = torch.bmm(polar, picked.view(count, count, rows * channels))
            parts.append((waves @ along.view(count, -1)).view(shape))
        return parts[0], parts[1]

    def multiply(self, f: Field, h: Field) -> Field:
        return torch.addcmul(f[0] * h[0], f[1], h[1]), torch.addcmul(f[0] * h[1], f[1], h[0])

    def pieces(self, operand: int, field: Field) -> Sequence[Float[Tensor, "lm rows channels"]]:
        rows, channels = field[0].shape[1:]
        size, parts = self._degrees[operand], []
        for name, f, count in (("even", field[0], size), ("odd", field[1], size - 1)):
            if count:
                waves: Tensor = getattr(self, f"{name}_{operand}")
                polar: Tensor = getattr(self, f"polar_{name}_{operand}")
                around = waves.T @ f.reshape(waves.shape[0], self.rings * rows * channels)
                along = torch.bmm(polar.mT, around.view(count, self.rings, rows * channels))
                parts.append(along.view(count * count, rows, channels))
        return [torch.cat(parts).index_select(0, getattr(self, f"where_{operand}"))]


def _squares(first: int, size: int) -> tuple[Tensor, Tensor]:
    m, l = torch.meshgrid(torch.arange(first, size), torch.arange(first, size), indexing="ij")
    return m, l
