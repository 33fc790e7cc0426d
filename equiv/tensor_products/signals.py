r"""Pointwise products of signals on the sphere and of their gradients."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3.frames import edge_rotations
from equiv.so3.grids import SphereGrid
from equiv.so3.tensor_harmonics import tensor_harmonics
from equiv.tensor_products.gaunt import degree_of
from equiv.tensor_products.pointwise import Field, PointwiseProduct
from equiv.tensor_products.sectors import SIGNS

Scales = Mapping[int, Float[Tensor, " lm"]]
"""Factors of the components of the natural (+1) and of the pseudo (-1) part of a tensor."""


class SignalProduct(PointwiseProduct):
    r"""Even and odd couplings of two tensors of one parity each.

    .. math::
        T = \sum_g w_g \big( k^\text{even} f h + k^\text{odd} (f_1 h_2 - f_2 h_1) \big)_g

    :math:`f` are the values of the first operand at a point of the grid, :math:`f_1, f_2` the
    components of its vector field in two directions along the sphere, :math:`h, h_1, h_2` those of
    the second, :math:`k` the values of the two parts of the third. What is kept of the second are
    :math:`h, h_2, -h_1`, so that the bracket is a dot product.

    Args:
        grid: points and weights.
        scales: of the three operands; two of one parity and the result.
    """

    def __init__(self, grid: SphereGrid, scales: Sequence[Scales]) -> None:
        dims = [sum(map(len, some.values())) for some in scales]
        (sign1,), (sign2,) = scales[0], scales[1]
        even = [sign for sign in (sign1 * sign2, -sign1 * sign2) if sign in scales[2]]
        self._has_even, self._has_odd = even[0] == sign1 * sign2, even[-1] == -sign1 * sign2
        parts = [0] * self._has_even + [1, 2] * self._has_odd
        super().__init__((dims[0], dims[1], dims[2]), len(parts) * len(grid))
        self.block = max(self.block, 1024)
        self._parts, self._points = len(parts), len(grid)
        for operand in (0, 1):
            (scale,) = scales[operand].values()
            values = scale * fields(grid, operand, degree_of(scale))[parts]
            self.register_constant(f"values_{operand}", values.flatten(0, 1))
        # of the result: even part first here, natural part first in the operand
        self._order = [list(even).index(sign) for sign in SIGNS if sign in even]
        self._slices = []
        for n, sign in enumerate(even):
            start = len(scales[2][1]) if sign == -1 and 1 in scales[2] else 0
            self._slices.append(slice(start, start + len(scales[2][sign])))
            values = scales[2][sign] * grid.harmonics(degree_of(scales[2][sign]))
            self.register_constant(f"values_2_{n}", values * grid.weights[:, None])

    def field(self, operand: int, x: Float[Tensor, "rows lm channels"]) -> Field:
        if operand == 2:
            return tuple(
                _evaluate(getattr(self, f"values_2_{n}"), x[:, part], 1)[0]
                for n, part in enumerate(self._slices)
            )
        return _evaluate(getattr(self, f"values_{operand}"), x, self._parts)

    def multiply(self, f: Field, h: Field) -> Field:
        if len(f) == len(h) == self._parts:
            even = (f[0] * h[0],) if self._has_even else ()
            return even + ((_dot(f[-2:], h[-2:]),) if self._has_odd else ())
        (k, f) = (f, h) if len(f) < len(h) else (h, f)
        even = (k[0] * f[0],) if self._has_even else ()
        return even + ((k[-1] * f[-2], k[-1] * f[-1]) if self._has_odd else ())

    def pieces(self, operand: int, field: Field) -> Sequence[Float[Tensor, "lm rows channels"]]:
        if operand == 2:
            return [_project(getattr(self, f"values_2_{n}"), field[n : n + 1]) for n in self._order]
        return [_project(getattr(self, f"values_{operand}"), field)]


class MirroredSignalProduct(PointwiseProduct):
    r"""Even and odd couplings of two tensors of both parities.

    .. math::
        T = \tfrac12 \sum_g w_g \big[ k^+ (f^+ h^+ + f^+_1 h^+_2 - f^+_2 h^+_1)
        + k^- (f^- h^- - f^-_1 h^-_2 + f^-_2 h^-_1) \big]_g, \qquad
        f^\pm = f^\text{natural} \pm f^\text{pseudo}

    with the symbols of :class:`SignalProduct`. A product that respects rotations is made to respect
    the inversion by averaging it with its mirror image, the second term: under the inversion
    :math:`f^+` goes into :math:`f^-` at the antipode, and the bracket changes its sign.

    Args:
        grid: points and weights.
        scales: of the three operands.
    """

    def __init__(self, grid: SphereGrid, scales: Sequence[Scales]) -> None:
        dims = [sum(map(len, some.values())) for some in scales]
        super().__init__((dims[0], dims[1], dims[2]), 6 * len(grid))
        self.block = max(self.block, 1024)
        self._dims = [{sign: len(scale) for sign, scale in some.items()} for some in scales]
        for operand, some in enumerate(scales):
            for sign, scale in some.items():
                if operand < 2:
                    values = scale * fields(grid, operand, degree_of(scale))
                    values = values.flatten(0, 1)
                else:
                    values = 0.5 * scale * grid.harmonics(degree_of(scale)) * grid.weights[:, None]
                self.register_constant(_name(operand, sign), values)

    def field(self, operand: int, x: Float[Tensor, "rows lm channels"]) -> Field:
        parts = x.split(list(self._dims[operand].values()), dim=1)
        signals = {
            sign: _evaluate(getattr(self, _name(operand, sign)), part, 1 if operand == 2 else 3)
            for sign, part in zip(self._dims[operand], parts, strict=True)
        }
        natural, pseudo = signals.get(1), signals.get(-1)
        if natural is None or pseudo is None:
            (sign,) = signals
            return signals[sign] + tuple(
                sign * mirror * f for f, mirror in _mirrored(operand, signals[sign])
            )
        here = tuple(f + h for f, h in zip(natural, pseudo, strict=True))
        there = tuple(
            f - h if mirror == 1 else h - f
            for (f, mirror), h in zip(_mirrored(operand, natural), pseudo, strict=True)
        )
        return here + there

    def multiply(self, f: Field, h: Field) -> Field:
        if len(f) == len(h):
            return _dot(f[:3], h[:3]), _dot(f[3:], h[3:])
        (k, f) = (f, h) if len(f) < len(h) else (h, f)
        return tuple(k[n // 3] * part for n, part in enumerate(f))

    def pieces(self, operand: int, field: Field) -> Sequence[Float[Tensor, "lm rows channels"]]:
        here, there = field[: len(field) // 2], field[len(field) // 2 :]
        pieces = []
        for sign in self._dims[operand]:
            parts = tuple(
                f + h if sign * mirror == 1 else f - h
                for (f, mirror), h in zip(_mirrored(operand, here), there, strict=True)
            )
            pieces.append(_project(getattr(self, _name(operand, sign)), parts))
        return pieces


def fields(grid: SphereGrid, operand: int, l_max: int) -> Float[Tensor, "3 points lm"]:
    r"""Harmonics, and two components along the sphere of :math:`2^{1/4}\, Y^{l,1}_l`.

    The components are taken in a frame with the first direction cross the second pointing outward,
    and turned by a right angle for the second operand.
    """
    vectors = torch.cat(
        [
            tensor_harmonics(l, 1, l, grid.points) if l else grid.points.new_zeros(len(grid), 3, 1)
            for l in range(l_max + 1)
        ],
        dim=2,
    )
    frames = edge_rotations(grid.points)[:, :, [2, 0]]  # z cross x is y, which points outward
    first, second = torch.einsum("gat,gam->tgm", frames, 2**0.25 * vectors)
    values = grid.harmonics(l_max)
    return torch.stack([values, first, second] if operand == 0 else [values, second, -first])


def _evaluate(
    values: Float[Tensor, "part_points lm"], x: Float[Tensor, "rows lm channels"], parts: int
) -> Field:
    rows, dim, channels = x.shape
    columns = x.transpose(0, 1).reshape(dim, rows * channels)
    return (values @ columns).view(parts, values.shape[0] // parts, rows, channels).unbind(0)


def _project(
    values: Float[Tensor, "part_points lm"], field: Field
) -> Float[Tensor, "lm rows channels"]:
    matrices = values.T.chunk(len(field), dim=1)
    out = matrices[0] @ field[0].flatten(1)
    for matrix, part in zip(matrices[1:], field[1:], strict=True):
        out = torch.addmm(out, matrix, part.flatten(1))
    return out.view(values.shape[1], *field[0].shape[1:])


def _dot(f: Field, h: Field) -> Tensor:
    out = f[0] * h[0]
    for a, b in zip(f[1:], h[1:], strict=True):
        out = torch.addcmul(out, a, b)
    return out


def _mirrored(operand: int, field: Field) -> list[tuple[Tensor, int]]:
    """The parts of a field with their sign in the mirror image; the bracket's is negative."""
    return [(f, -1 if operand == 1 and n else 1) for n, f in enumerate(field)]


def _name(operand: int, sign: int) -> str:
    return f"values_{operand}_{'natural' if sign == 1 else 'pseudo'}"
