r"""The Gaunt product by two-dimensional Fourier series."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.choices import choose
from equiv.so3 import Irreps
from equiv.so3.grids import product_grid
from equiv.so3.legendre import normalized_legendre
from equiv.tensor_products.gaunt import GauntTensorProduct, degree_of
from equiv.tensor_products.pointwise import Field, PointwiseProduct
from equiv.tensor_products.separable import SeparableProduct
from equiv.tensor_products.spherical import ChannelMode


class FFTProduct(PointwiseProduct):
    r"""Product of 2D Fourier series by fast Fourier transforms.

    .. math::
        F_{uv} = \sum_i y^i_{uv}\, x_i, \qquad
        F * H = \text{FFT}\big(\text{FFT}^{-1}(F) \odot \text{FFT}^{-1}(H)\big), \qquad
        z_k = \sum_{uv} Z^{uv}_k\, (F * H)_{uv}

    The signals are real, so only :math:`v \ge 0` is kept and the transforms are ``irfft2`` and
    ``rfft2``. The real and imaginary parts of :math:`y` and :math:`Z` meet the components in real
    matrix products, one for each :math:`m` (as :math:`y^{lm}_{uv} = 0` unless :math:`v = \pm m`);
    complex numbers appear between the two transforms' ends alone. Derivatives of any order are
    PyTorch's. ``torch.compile(fullgraph=True)`` traces it, but Inductor has no code for complex
    numbers and hands the transforms to the eager kernels.

    Args:
        polar: polar parts of the harmonics on the torus, ``[m, angles, degrees]``, and of the
            projection, as in :class:`SeparableProduct`.
        steps: number of azimuths.
    """

    def __init__(self, polar: Sequence[Float[Tensor, "m angles degrees"]], steps: int) -> None:
        dim1, dim2, dim3 = (len(p) ** 2 for p in polar)
        self.angles, self.steps = polar[0].shape[1], steps
        super().__init__((dim1, dim2, dim3), self.angles * steps)
        self._sizes = [len(p) for p in polar]
        for n, matrices in enumerate(polar):
            size, m = len(matrices), torch.arange(len(matrices))
            if n < 2:  # series along the torus' polar angle, and half of the azimuthal wave
                series = torch.fft.fft(matrices, dim=1)
                half = torch.ones(size, dtype=torch.float64).index_fill(0, m[1:], math.sqrt(0.5))
                c = series * (half * steps)[:, None, None]
            else:  # the adjoint: sum over the angles of exp(+iu theta) times the projection
                series = torch.fft.ifft(matrices, dim=1)
                half = torch.ones(size, dtype=torch.float64).index_fill(0, m[1:], math.sqrt(2))
                c = series * half[:, None, None]
            self.register_constant(f"real_{n}", c.real)
            self.register_constant(f"imag_{n}", c.imag)
            mm, l = (t.flatten() for t in torch.meshgrid(m, m, indexing="ij"))
            mm = torch.minimum(mm, l)
            self.register_buffer(f"plus_{n}", l * l + l + mm, False)
            self.register_buffer(f"minus_{n}", l * l + l - mm, False)
            self.register_constant(f"sine_{n}", (m > 0).to(torch.float64)[:, None, None])
            where = [
                abs(k) * size + j + (size**2 if k < 0 else 0)
                for j in range(size)
                for k in range(-j, j + 1)
            ]
            self.register_buffer(f"where_{n}", torch.tensor(where), False)

    def forward(
        self,
        x: Float[Tensor, "rows lm1 channels_or_1"],
        y: Float[Tensor, "rows lm2 channels_or_1"],
    ) -> Float[Tensor, "rows lm channels"]:
        return self.plain(x, y)

    def field(self, operand: int, x: Float[Tensor, "rows lm channels"]) -> Field:
        rows, _, channels = x.shape
        size, columns = self._sizes[operand], x.transpose(0, 1)
        shape = (size, size, rows * channels)
        plus = columns.index_select(0, getattr(self, f"plus_{operand}")).view(shape)
        minus = columns.index_select(0, getattr(self, f"minus_{operand}")).view(shape)
        minus = minus * getattr(self, f"sine_{operand}")
        a, b = getattr(self, f"real_{operand}"), getattr(self, f"imag_{operand}")
        # (a + ib) (plus - i minus): cos + and sin - of one wave
        spectrum = torch.complex(a @ plus + b @ minus, b @ plus - a @ minus).transpose(0, 1)
        values = torch.fft.irfft2(spectrum, s=(self.angles, self.steps), dim=(0, 1))
        return (values.reshape(self.angles * self.steps, rows, channels),)

    def pieces(self, operand: int, field: Field) -> Sequence[Float[Tensor, "lm rows channels"]]:
        rows, channels = field[0].shape[1:]
        size = self._sizes[operand]
        values = field[0].view(self.angles, self.steps, rows * channels)
        spectrum = torch.fft.rfft2(values, dim=(0, 1))[:, :size].transpose(0, 1)
        re, im = spectrum.real, spectrum.imag
        a, b = getattr(self, f"real_{operand}").mT, getattr(self, f"imag_{operand}").mT
        plus = a @ re - b @ im
        minus = -(a @ im + b @ re)
        parts = torch.cat([plus, minus]).view(2 * size * size, rows, channels)
        return [parts.index_select(0, getattr(self, f"where_{operand}"))]


def torus_projection(l_max: int, degree: int, angles: int) -> Float[Tensor, "m angles degrees"]:
    r"""Weights that project a function on the torus onto spherical harmonics of the sphere.

    .. math::
        W^{(m)}_{j l} = \frac{1}{N} \sum_{|u| \le U} e^{-iu\theta_j} \int_0^\pi e^{iu\theta}\,
        \bar P_{l m}(\theta) \sin\theta\, d\theta, \qquad \theta_j = \frac{2\pi j}{N}

    for functions with waves up to :math:`U` along the polar angle, even in :math:`\theta` for even
    m and odd for odd m, as functions on the sphere are. With their symmetry the integrand is a
    polynomial in :math:`\cos\theta`, which Gauss-Legendre nodes integrate exactly.

    Args:
        l_max: highest degree of the result.
        degree: :math:`U`.
        angles: :math:`N \ge 2U + 1`.
    """
    grid = product_grid(degree + l_max, steps=1)
    weights = grid.ring_weights / (2 * math.pi)
    nodes = grid.cosines.acos()
    p = normalized_legendre(l_max, grid.cosines, nodes.sin())  # [l, m, nodes]
    u = torch.arange(degree + 1, dtype=torch.float64)
    theta = torch.arange(angles, dtype=torch.float64) * (2 * math.pi / angles)
    out = []
    for m in range(l_max + 1):
        wave = torch.cos if m % 2 == 0 else torch.sin
        integrals = torch.einsum("un,n,ln->ul", wave(u[:, None] * nodes), weights, p[:, m])
        twice = torch.where(u == 0, 1.0, 2.0).to(torch.float64)
        out.append(wave(theta[:, None] * u) @ (twice[:, None] * integrals) / angles)
    return torch.stack(out)


def _torus(scales: Sequence[Float[Tensor, " lm"]], angles: int, steps: int) -> list[Tensor]:
    """Polar matrices of the three operands on a torus."""
    l1, l2, l3 = map(degree_of, scales)
    theta = torch.arange(angles, dtype=torch.float64) * (2 * math.pi / angles)
    p = normalized_legendre(max(l1, l2), theta.cos(), theta.sin()).permute(1, 2, 0)
    projection = torus_projection(l3, l1 + l2, angles) * (2 * math.pi / steps)
    polar = [p[: l1 + 1, :, : l1 + 1], p[: l2 + 1, :, : l2 + 1], projection]
    return [
        matrices * scale[torch.arange(len(matrices)) ** 2]
        for matrices, scale in zip(polar, scales, strict=True)
    ]


def _fft(scales: Sequence[Tensor]) -> PointwiseProduct:
    l1, l2, l3 = map(degree_of, scales)
    angles, steps = _smooth(2 * (l1 + l2) + 1), _smooth(l1 + l2 + l3 + 1)
    return FFTProduct(_torus(scales, angles, steps), steps)


def _matrices(scales: Sequence[Tensor]) -> PointwiseProduct:
    l1, l2, l3 = map(degree_of, scales)
    angles, steps = 2 * (l1 + l2) + 1, l1 + l2 + l3 + 1
    steps += steps % 2
    polar = _torus(scales, angles, steps)
    return SeparableProduct([polar[0], polar[1], 2 * polar[2]], steps)


TRANSFORMS: dict[str, Callable[[Sequence[Tensor]], PointwiseProduct]] = {
    "fft": _fft,
    "matrix": _matrices,
}
"""How Fourier series are multiplied, by the name that ``transform=`` takes."""


class GauntFourierTensorProduct(GauntTensorProduct):
    r"""Gaunt product by 2D Fourier series on the torus that covers the sphere twice.

    .. math::
        Y_{lm}(\theta, \varphi) = \sum_{|u| \le l}\; \sum_{v = \pm m} y^{lm}_{uv}\,
        e^{i(u\theta + v\varphi)}, \qquad z = Z\,\big( (y x_1) * (y x_2) \big)

    The series of both functions are multiplied, which is a convolution (:math:`*`) of their
    coefficients, and the product is projected back to the sphere by :math:`Z`
    (:func:`torus_projection`). All coefficients are exact: no integral is approximated. The sphere
    is covered twice, so this needs about four times the points of :class:`GauntGridTensorProduct`,
    whose map is the same: it is here for comparison. :math:`O(L^3)` (``"matrix"``) or conversions
    :math:`O(L^3)` and a convolution :math:`O(L^2 \log L)` (``"fft"``). (Luo, Chen and Krishnapriyan
    2024, section 3; Xin et al. 2021.)

    Symbols and arguments as in :class:`GauntTensorProduct`, and

    Args:
        transform: ``"matrix"``, the discrete Fourier transforms along both angles as real matrix
            products, or ``"fft"``, as fast transforms with complex numbers (:class:`FFTProduct`).
    """

    def __init__(
        self,
        irreps_in1: str | Irreps,
        irreps_in2: str | Irreps,
        irreps_out: str | Irreps | None = None,
        *,
        mode: ChannelMode | None = None,
        weighted: bool = True,
        rank: int | None = None,
        internal_weights: bool = True,
        transform: str = "matrix",
    ) -> None:
        self.transform = transform
        self._product_of = choose(TRANSFORMS, transform, "transform")
        super().__init__(
            irreps_in1,
            irreps_in2,
            irreps_out,
            mode=mode,
            weighted=weighted,
            rank=rank,
            internal_weights=internal_weights,
        )

    def kernel(
        self,
        scale1: Float[Tensor, " lm1"],
        scale2: Float[Tensor, " lm2"],
        scale: Float[Tensor, " lm"],
    ) -> PointwiseProduct:
        return self._product_of([scale1, scale2, scale])


def _smooth(n: int) -> int:
    """The next number without prime factors above 5, for which transforms are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
