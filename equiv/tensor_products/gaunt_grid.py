r"""The Gaunt product on exact grids of the sphere."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.choices import choose
from equiv.so3 import Irreps, SphereGrid, antipodal_half, lebedev_grid, product_grid
from equiv.so3.legendre import normalized_legendre
from equiv.tensor_products.gaunt import GauntTensorProduct, degree_of
from equiv.tensor_products.gaunt_form import gaunt_form
from equiv.tensor_products.grid_form import GridForm, stack_places
from equiv.tensor_products.grid_kernel import grid_library
from equiv.tensor_products.lanes import is_plain
from equiv.tensor_products.pointwise import Field, PointwiseProduct, components_first
from equiv.tensor_products.sectors import NATURAL
from equiv.tensor_products.separable import SeparableProduct
from equiv.tensor_products.spherical import ChannelMode


class GridProduct(PointwiseProduct):
    r"""Gaunt product of natural stacks on one grid, by dense matrices.

    .. math::
        z_k = \sum_g B_{gk} \Big( \sum_i A_{gi}\, x_i \Big) \Big( \sum_j A'_{gj}\, y_j \Big), \qquad
        A_{gi} = \alpha_i Y_i(r_g), \quad A'_{gj} = \beta_j Y_j(r_g), \quad
        B_{gk} = w_g\, \gamma_k Y_k(r_g)

    Exact if the grid integrates polynomials of degree :math:`L_1 + L_2 + L_3`. Cost per row and
    channel: :math:`G (d_1 + d_2 + d_3)` multiply-adds with :math:`d = (L + 1)^2` components and
    G points, :math:`O(L^4)`.

    Args:
        grid: points and weights.
        scales: :math:`\alpha, \beta, \gamma`.
    """

    def __init__(self, grid: SphereGrid, scales: Sequence[Float[Tensor, " lm"]]) -> None:
        dim1, dim2, dim3 = (len(scale) for scale in scales)
        super().__init__((dim1, dim2, dim3), len(grid))
        harmonics = grid.harmonics(max(map(degree_of, scales)))
        for n, scale in enumerate(scales):
            values = harmonics[:, : len(scale)] * scale
            self.register_constant(
                f"values_{n}", values * grid.weights[:, None] if n == 2 else values
            )
        self.grid, self._scales = grid, list(scales)
        self._forms: dict[tuple[int, int], GridForm] = {}

    def forward(
        self,
        x: Float[Tensor, "rows lm1 channels_or_1"],
        y: Float[Tensor, "rows lm2 channels_or_1"],
    ) -> Float[Tensor, "rows lm channels"]:
        if is_plain(x):
            form = self._form(x.shape[2], y.shape[2])
            if form.available(x.dtype):
                z = form.product(x.flatten(1), y.flatten(1), None)
                return z.view(x.shape[0], self.dims[2], form.channels)
        return super().forward(x, y)

    def _form(self, channels1: int, channels2: int) -> GridForm:
        """This product as one kernel, for some numbers of channels."""
        key = channels1, channels2
        if key not in self._forms:
            most = max(key)
            places = [
                stack_places(dim, channels, int(channels == most))
                for dim, channels in zip(self.dims, (*key, most), strict=True)
            ]
            self._forms[key] = GridForm(self.grid, self._scales, places, most)
        return self._forms[key]

    def field(self, operand: int, x: Float[Tensor, "rows lm channels"]) -> Field:
        values: Tensor = getattr(self, f"values_{operand}")
        rows, dim, channels = x.shape
        columns = x.transpose(0, 1).reshape(dim, rows * channels)
        return ((values @ columns).view(values.shape[0], rows, channels),)

    def multiply_(self, f: Field, h: Field) -> Field:
        fits = f[0].shape[2] >= h[0].shape[2]
        return (f[0].mul_(h[0]),) if fits else self.multiply(f, h)

    def pieces(self, operand: int, field: Field) -> Sequence[Float[Tensor, "lm rows channels"]]:
        values: Tensor = getattr(self, f"values_{operand}")
        (f,) = field
        return [(values.T @ f.flatten(1)).view(values.shape[1], *f.shape[1:])]


class FoldedGridProduct(PointwiseProduct):
    r"""Gaunt product of natural stacks on half a grid, even and odd degrees apart.

    .. math::
        z_\text{even} = B_e^T (f_e h_e + f_o h_o), \qquad z_\text{odd} = B_o^T (f_e h_o + f_o h_e)

    where :math:`f_e, f_o` are the parts of :math:`f` that keep and change their sign at the
    antipode, from the even and the odd degrees. Their values on one point of each antipodal pair
    say all; half the multiply-adds of :class:`GridProduct` for the price of more elementwise
    products.

    Args:
        grid: one point of each pair, from :func:`equiv.so3.antipodal_half`.
        scales: :math:`\alpha, \beta, \gamma`.
    """

    def __init__(self, grid: SphereGrid, scales: Sequence[Float[Tensor, " lm"]]) -> None:
        dim1, dim2, dim3 = (len(scale) for scale in scales)
        super().__init__((dim1, dim2, dim3), 2 * len(grid))
        harmonics = grid.harmonics(max(map(degree_of, scales)))
        self._parts: list[tuple[list[slice], list[slice]]] = []
        for n, scale in enumerate(scales):
            values = harmonics[:, : len(scale)] * scale
            values = values * grid.weights[:, None] if n == 2 else values
            degrees = [slice(l**2, (l + 1) ** 2) for l in range(degree_of(scale) + 1)]
            self._parts.append((degrees[::2], degrees[1::2]))
            for name, parts in (("even", degrees[::2]), ("odd", degrees[1::2])):
                empty = [values[:, :0]]
                self.register_constant(
                    f"{name}_{n}", torch.cat(empty + [values[:, part] for part in parts], dim=1)
                )

    def field(self, operand: int, x: Float[Tensor, "rows lm channels"]) -> Field:
        even, odd = self._parts[operand]
        shape = (-1, x.shape[0], x.shape[2])
        f_even = (getattr(self, f"even_{operand}") @ components_first(x, even)).view(shape)
        if not odd:
            return (f_even, torch.zeros_like(f_even))
        return f_even, (getattr(self, f"odd_{operand}") @ components_first(x, odd)).view(shape)

    def multiply(self, f: Field, h: Field) -> Field:
        return torch.addcmul(f[0] * h[0], f[1], h[1]), torch.addcmul(f[0] * h[1], f[1], h[0])

    def pieces(self, operand: int, field: Field) -> Sequence[Float[Tensor, "lm rows channels"]]:
        even, odd = (
            (getattr(self, f"{name}_{operand}").T @ f.flatten(1)).view(-1, *f.shape[1:])
            for name, f in zip(("even", "odd"), field, strict=True)
        )
        pieces, used = [], [0, 0]
        for l in range(len(self._parts[operand][0]) + len(self._parts[operand][1])):
            source, start = (odd if l % 2 else even), used[l % 2]
            pieces.append(source[start : start + 2 * l + 1])
            used[l % 2] += 2 * l + 1
        return pieces


def _dense(degree: int, scales: Sequence[Tensor]) -> PointwiseProduct:
    return GridProduct(product_grid(degree), scales)


def _lebedev(degree: int, scales: Sequence[Tensor]) -> PointwiseProduct:
    return GridProduct(lebedev_grid(degree), scales)


def _folded_lebedev(degree: int, scales: Sequence[Tensor]) -> PointwiseProduct:
    return FoldedGridProduct(antipodal_half(lebedev_grid(degree)), scales)


def _folded(degree: int, scales: Sequence[Tensor]) -> PointwiseProduct:
    steps = degree + 1 + (degree + 1) % 2
    return FoldedGridProduct(antipodal_half(product_grid(degree, steps=steps)), scales)


def _separable(degree: int, scales: Sequence[Tensor]) -> PointwiseProduct:
    steps = degree + 1 + (degree + 1) % 2
    grid = product_grid(degree, steps=steps)
    legendre = normalized_legendre(
        max(map(degree_of, scales)), grid.cosines, (1 - grid.cosines**2).sqrt()
    ).permute(1, 2, 0)  # [m, rings, l]
    polar = []
    for n, scale in enumerate(scales):
        size = degree_of(scale) + 1
        by_degree = scale[torch.arange(size) ** 2]
        p = legendre[:size, :, :size] * by_degree
        polar.append(p * (2 * grid.ring_weights[:, None]) if n == 2 else p)
    return SeparableProduct(polar, steps)


GRIDS: dict[str, Callable[[int, Sequence[Tensor]], PointwiseProduct]] = {
    "product": _dense,
    "lebedev": _lebedev,
    "folded_product": _folded,
    "separable": _separable,
    "folded_lebedev": _folded_lebedev,
}
"""Exact grids by the name that ``grid=`` takes: from the degree and the three scales."""


class GauntGridTensorProduct(GauntTensorProduct):
    r"""Gaunt product on the smallest grid that is exact.

    .. math::
        z_k = \gamma_k \sum_g w_g\, Y_k(r_g)\, f(r_g)\, h(r_g), \qquad
        f = \sum_i \alpha_i x_i Y_i, \quad h = \sum_j \beta_j y_j Y_j

    A product of functions of degree :math:`L_1` and :math:`L_2`, projected on :math:`L_3`, is the
    integral of a polynomial of degree :math:`n = L_1 + L_2 + L_3`, which a grid integrates without
    error: there is no resolution to choose. Symbols and arguments as in
    :class:`GauntTensorProduct`. (Xie, Daigavane, Kotak and Smidt 2025, arXiv:2506.13523.)

    Args:
        grid: one of :data:`GRIDS`, all exact; default the fastest for the degrees.
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
        grid: str | None = None,
    ) -> None:
        if grid is not None:
            choose(GRIDS, grid, "grid")
        self.grid = grid
        super().__init__(
            irreps_in1,
            irreps_in2,
            irreps_out,
            mode=mode,
            weighted=weighted,
            rank=rank,
            internal_weights=internal_weights,
        )
        self._forms: dict[bool, GridForm | None] = {}

    def _form(self, x: Tensor, *, spherical: bool) -> GridForm | None:
        """Weights and product in one kernel, if there is one for tensors like x."""
        if not is_plain(x):
            return None
        if spherical not in self._forms:
            kernel: Any = next(iter(self.kernels.values()))
            dense = isinstance(kernel, GridProduct)
            self._forms[spherical] = (
                gaunt_form(self, kernel.grid, spherical=spherical) if dense else None
            )
        form = self._forms[spherical]
        return form if form is not None and form.available(x.dtype) else None

    def multiply(
        self,
        x1: Float[Tensor, "rows in1"],
        x2: Float[Tensor, "rows in2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows out"]:
        form = self._form(x1, spherical=False)
        if form is None:
            return super().multiply(x1, x2, weight)
        return form.product(x1, x2, weight)

    def multiply_spherical(
        self,
        x1: Float[Tensor, "rows lm1 channels1"],
        x2: Float[Tensor, "rows lm2 channels2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows lm channels"]:
        form = self._form(x1, spherical=True)
        if form is None:
            return super().multiply_spherical(x1, x2, weight)
        z = form.product(x1.flatten(1), x2.flatten(1), weight)
        return z.view(x1.shape[0], (self.sectors.l_max(NATURAL) + 1) ** 2, self.sectors.channels)

    def kernel(
        self,
        scale1: Float[Tensor, " lm1"],
        scale2: Float[Tensor, " lm2"],
        scale: Float[Tensor, " lm"],
    ) -> PointwiseProduct:
        degree = degree_of(scale1) + degree_of(scale2) + degree_of(scale)
        name = self.grid or fastest_grid(degree)
        return GRIDS[name](degree, [scale1, scale2, scale])


def fastest_grid(degree: int) -> str:
    """Name of the fastest exact grid for polynomials of a degree.

    Measured (float32, one thread of a server CPU, 1000 rows x 8 channels, degree 3 L for three
    stacks of degree L; milliseconds forward / forward and backward), first by the kernel
    (:class:`GridForm`), then in matrix products of torch. Only ratios within a row mean anything,
    the machine was shared:

    === ============== ============= ============= ============= =============
    L   kernel         lebedev       folded_leb.   product       separable
    === ============== ============= ============= ============= =============
    2   0.16 / 1.1     0.35 / 1.2    0.63 / 2.0    0.40 / 1.2    0.85 / 2.5
    4   0.66 / 6.5     1.3 / 8.1     2.1 / 13.9    1.5 / 8.5     6.7 / 16.3
    8   4.4 / 21       33 / 98       34 / 109      43 / 125      49 / 142
    10  8.2 / 25       25 / 61       23 / 63       -             31 / 69
    12  17 / 60        67 / 142      57 / 126      -             42 / 106
    16  52 / 168       183 / 551     154 / 437     -             72 / 211
    18  86 / 274       -             -             -             77 / 213
    20  122 / 351      356 / 768     247 / 525     -             115 / 313
    === ============== ============= ============= ============= =============

    Without the kernel, Lebedev rules win up to degree 31, where they are dense and the separable
    transform overtakes; with it up to degree 49. With 64 channels the order is the same.
    """
    return "lebedev" if degree <= (49 if grid_library(torch.float32) else 31) else "separable"
