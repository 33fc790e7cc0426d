r"""The matrix tensor product, split by parity so that reflections are kept."""

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3 import Irreps, parse_irreps, wigner_3j
from equiv.so3.recoupling import wigner_6j
from equiv.tensor_products.odd_couplings import OddCouplingTensorProduct
from equiv.tensor_products.pointwise import Field, PointwiseProduct
from equiv.tensor_products.spherical import ChannelMode, DegreePath


def accidental_zeros(spin: int) -> list[tuple[int, int, int]]:
    r"""Couplings that the product of matrices of a spin misses although all rules allow them.

    .. math::
        \begin{Bmatrix} l_1 & l_2 & l_3 \\ s & s & s \end{Bmatrix} = 0, \qquad
        l_1 \le l_2 \le l_3 \le 2s

    The symbol is symmetric in the three degrees, so every order of them is missed. None for spins
    1, 2 and 7; (3, 5, 5) for 3; (5, 6, 7) for 4; (4, 9, 9) for 5; (3, 5, 6) for 6.

    Args:
        spin: :math:`s`, the irrep on which the matrices act.
    """
    return [
        (l1, l2, l3)
        for l1, l2, l3 in itertools.combinations_with_replacement(range(2 * spin + 1), 3)
        if l3 <= l1 + l2 and wigner_6j(l1, l2, l3, spin, spin, spin) == 0
    ]


class MatrixTensorProduct(OddCouplingTensorProduct):
    r"""Spherical tensors as matrices, and their product as the product of matrices.

    .. math::
        X_{ab} = \sum_{lm} E^{l}_{ab,m}\, x_{lm}, \qquad
        E^l_{ab,m} = \sqrt{2l+1}\; w^{(s\,s\,l)}_{abm}, \qquad
        z_{lm} = \sum_{ab} E^l_{ab,m}\, (X Y)_{ab}

    The matrices act on the irrep of degree :math:`s` (``spin``), so they are of size :math:`2s+1`
    and hold every degree up to :math:`2s` once; :math:`E` is orthonormal. With
    :math:`w` = ``wigner_3j`` the coupling :math:`(l_1, l_2, l_3)` is computed with the factor

    .. math::
        \rho = (-1)^{l_3} \sqrt{(2l_1+1)(2l_2+1)(2l_3+1)}
        \begin{Bmatrix} l_1 & l_2 & l_3 \\ s & s & s \end{Bmatrix} .

    Matrices of even degree are symmetric, of odd degree antisymmetric, and exchanging the factors
    multiplies a coupling by :math:`(-1)^{l_1+l_2+l_3}`. Of two inputs of natural parity the
    anticommutator therefore holds the outputs of natural parity and the commutator those of pseudo
    parity,

    .. math::
        z^\text{natural} = E^\mathsf{T}\, \tfrac12 (XY + YX), \qquad
        z^\text{pseudo} = E^\mathsf{T}\, \tfrac12 (XY - YX),

    whereas :math:`XY` by itself respects rotations, but not reflections. For inputs with both
    parities, the same is the average over the group of the inversion :math:`I`: with
    :math:`z(x, y) = E^\mathsf{T} X Y` of the sums of both parities,
    :math:`\tfrac12 (z(x, y) \pm (-1)^l z(I x, I y))`. Two products of matrices, whatever the
    parities.

    Couplings whose 6j symbol vanishes by accident (:func:`accidental_zeros`) are missing; if an
    output irrep has no other coupling, that is an error. A larger ``spin`` reaches them. For large
    :math:`s` the even couplings approach those of the Gaunt product in magnitude and the odd ones
    vanish like :math:`1/s`, relative to them; outputs are scaled to unit variance in any case. The
    construction is the fuzzy sphere; as a tensor product it is e3x's (Unke and Maennel 2024) and
    one of those compared by Xie et al. 2025.

    Cost per row and channel, in multiply-adds: :math:`2 (2s+1)^3` for the products and
    :math:`(2s+1)^2 (L+1)^2` for each embedding.

    Args:
        irreps_in1: see :class:`SphericalTensorProduct`.
        irreps_in2: see :class:`SphericalTensorProduct`.
        irreps_out: see :class:`SphericalTensorProduct`.
        mode: see :class:`SphericalTensorProduct`.
        spin: :math:`s`; default half the highest degree of inputs and output, rounded up.
        weighted: see :class:`SphericalTensorProduct`.
        rank: see :class:`SphericalTensorProduct`.
        internal_weights: see :class:`SphericalTensorProduct`.

    Raises:
        EquivError: the matrices are too small for a degree, or as :class:`SphericalTensorProduct`.
    """

    def __init__(
        self,
        irreps_in1: str | Irreps,
        irreps_in2: str | Irreps,
        irreps_out: str | Irreps | None = None,
        *,
        mode: ChannelMode | None = None,
        spin: int | None = None,
        weighted: bool = True,
        rank: int | None = None,
        internal_weights: bool = True,
    ) -> None:
        self.spin = _smallest_spin(irreps_in1, irreps_in2, irreps_out) if spin is None else spin
        if not isinstance(self.spin, int) or isinstance(self.spin, bool) or self.spin < 0:
            raise EquivError(f"spin: expected a non-negative integer, got {spin!r}")
        super().__init__(
            irreps_in1,
            irreps_in2,
            irreps_out,
            mode=mode,
            weighted=weighted,
            rank=rank,
            internal_weights=internal_weights,
        )

    def kernel_of(self, scales: Sequence[dict[int, Float[Tensor, " lm"]]]) -> "MatrixProduct":
        return MatrixProduct(self.spin, scales)

    def coupling(self, l1: int, l2: int, l3: int) -> float:
        s = self.spin
        dims = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
        return (-1) ** l3 * math.sqrt(dims) * wigner_6j(l1, l2, l3, s, s, s)

    @property
    def missing_paths(self) -> list[DegreePath]:
        """Paths between the irreps of this product whose coupling vanishes by accident."""
        out = self.sectors
        return [
            DegreePath(l1, sign1, l2, sign2, l3, sign3)
            for sign1, l1 in self.sectors1.rows
            for sign2, l2 in self.sectors2.rows
            for sign3, l3 in out.rows
            if abs(l1 - l2) <= l3 <= l1 + l2
            and sign3 == sign1 * sign2 * (-1) ** (l1 + l2 + l3)
            and self.coupling(l1, l2, l3) == 0
        ]

    def _check_reached(
        self, out: Irreps, in1: Irreps, in2: Irreps, reached: list[tuple[int, int]]
    ) -> None:
        try:
            super()._check_reached(out, in1, in2, reached)
        except EquivError as error:
            raise EquivError(
                f"{error} Matrices of spin {self.spin} hold degrees up to {2 * self.spin} and miss "
                f"the couplings {accidental_zeros(self.spin)}; another spin= misses others"
            ) from None

    def extra_repr(self) -> str:
        missing = f", {len(self.missing_paths)} missing" if self.missing_paths else ""
        return f"{super().extra_repr()}{missing}, spin {self.spin}"


class MatrixProduct(PointwiseProduct):
    r"""The trace of three matrices, averaged over the inversion.

    .. math::
        T = \tfrac12 \operatorname{tr}(X^+ Y^+ Z^+) + \tfrac12 \operatorname{tr}(X^- Y^- Z^-),
        \qquad X^+ = X^\text{natural} + X^\text{pseudo}, \quad
        X^- = (X^\text{natural} - X^\text{pseudo})^\mathsf{T}

    :math:`X^-` is the matrix of what the inversion makes of the tensor: it changes the sign of odd
    degrees, and so does transposition. Here the "points" are the elements of the matrices; the
    matrices of the third operand are transposed, so that the three enter alike.

    Args:
        spin: :math:`s`, for matrices of size :math:`2s + 1`.
        scales: for each operand, factors of the components of its natural (+1) and pseudo (-1)
            part, of those that it has.
    """

    def __init__(self, spin: int, scales: Sequence[dict[int, Float[Tensor, " lm"]]]) -> None:
        self._size = 2 * spin + 1
        dims = [sum(map(len, some.values())) for some in scales]
        super().__init__((dims[0], dims[1], dims[2]), 2 * self._size**2)
        self.block = max(self.block, 4096)  # many small operations; fastest up to spin 3
        self._dims = [{sign: len(scale) for sign, scale in some.items()} for some in scales]
        for operand, some in enumerate(scales):
            for sign, scale in some.items():
                blocks = [
                    math.sqrt(2 * l + 1) * wigner_3j(spin, spin, l)
                    for l in range(math.isqrt(len(scale)))
                ]
                embedding = scale * torch.cat(blocks, dim=2)
                if operand == 2:
                    embedding = 0.5 * embedding.transpose(0, 1)
                self.register_constant(_name(operand, sign), embedding.flatten(0, 1))

    def field(self, operand: int, x: Float[Tensor, "rows lm channels"]) -> Field:
        rows, _, channels = x.shape
        here = there = None
        for (sign, dim), part in zip(
            self._dims[operand].items(),
            x.split(list(self._dims[operand].values()), dim=1),
            strict=True,
        ):
            columns = part.transpose(0, 1).reshape(dim, rows * channels)
            matrix = getattr(self, _name(operand, sign)) @ columns
            matrix = matrix.view(self._size, self._size, rows, channels)
            here = matrix if here is None else here + matrix
            turned = matrix.transpose(0, 1)
            there = sign * turned if there is None else there + sign * turned
        assert here is not None
        assert there is not None
        return _Matrices((torch.stack([here, there]).flatten(0, 2),), operand)

    def multiply(self, f: Field, h: Field) -> Field:
        i, j = cast(_Matrices, f).operand, cast(_Matrices, h).operand
        if (j - i) % 3 != 1:
            (i, j), (f, h) = (j, i), (h, f)
        shape = (2, self._size, self._size)
        a, b = (t.unflatten(0, shape) for t in (f[0], h[0]))
        # the transpose of the product, in which order the next factor would take it
        z = a[:, None, :, 0] * b[:, 0, :, None]
        for n in range(1, self._size):
            z.addcmul_(a[:, None, :, n], b[:, n, :, None])
        return _Matrices((z.flatten(0, 2),), 3 - i - j)

    def pieces(self, operand: int, field: Field) -> Sequence[Float[Tensor, "lm rows channels"]]:
        here, there = field[0].unflatten(0, (2, self._size, self._size))
        there = there.transpose(0, 1)
        pieces = []
        for sign in self._dims[operand]:
            matrix = here + there if sign == 1 else here - there
            z = getattr(self, _name(operand, sign)).T @ matrix.flatten(0, 1).flatten(1)
            pieces.append(z.view(-1, *matrix.shape[2:]))
        return pieces


class _Matrices(tuple):
    """A field of matrices, which knows whose they are: their product depends on the order."""

    operand: int

    def __new__(cls, parts: Field, operand: int) -> "_Matrices":
        field = super().__new__(cls, parts)
        field.operand = operand
        return field


def _name(operand: int, sign: int) -> str:
    return f"embedding_{operand}_{'natural' if sign == 1 else 'pseudo'}"


def _smallest_spin(
    irreps_in1: str | Irreps, irreps_in2: str | Irreps, irreps_out: str | Irreps | None
) -> int:
    """Whose matrices hold every degree; without irreps_out, every degree that can be reached."""
    l1, l2 = (
        parse_irreps(irreps, name).lmax
        for irreps, name in ((irreps_in1, "irreps_in1"), (irreps_in2, "irreps_in2"))
    )
    l3 = l1 + l2 if irreps_out is None else parse_irreps(irreps_out, "irreps_out").lmax
    return (max(l1, l2, l3) + 1) // 2
