r"""The Clebsch-Gordan tensor product as dense matrix products, one batch for each path."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3 import Irreps, wigner_3j
from equiv.tensor_products.channelwise import Pair, Plan, couple_channelwise, plan_of
from equiv.tensor_products.couplings import Couplings
from equiv.tensor_products.lanes import is_plain
from equiv.tensor_products.path_couplings import path_couplings
from equiv.tensor_products.paths import (
    Instructions,
    IrrepNormalization,
    Mode,
    PathNormalization,
    PathTensorProduct,
)


class ClebschGordanTensorProduct(PathTensorProduct):
    r"""The tensor product of e3nn, path by path, in a channels-last layout.

    .. math::
        z_{k w} = \sum_{uv} W_{uvw} \sum_{i} B_{k,\, i v}\, x_{i u}, \qquad
        B_{k,\, i v} = \sqrt{\alpha} \sum_j w_{ijk}\, y_{j v}

    for each path, with the symbols of :class:`PathTensorProduct`, whose arguments these are.
    :math:`B` is one matrix product for all paths of a second input; each path is then one batched
    matrix product over :math:`i` and another over the weights, in the cheaper order. Where
    :math:`y` is a scalar, :math:`B` is a number and drops out. In mode ``uuu``, where nothing is
    summed over channels, all products :math:`x_{iu}\, y_{ju}` meet the coefficients of all their
    paths in one matrix product, block by block (:func:`couple_channelwise`). No gather over
    non-zero coefficients, no scatter. Modes ``uvv``, ``uuw`` and ``uvuv`` are for completeness.

    If no path sums over channels (``uuu``; ``uvu`` with one channel in the second input, ``uvv``
    with one in the first) and a C++ compiler is there, a kernel visits the non-zero coefficients
    one by one, with rows and channels in vector registers (:class:`Couplings`).

    Cost per row of a path in multiply-adds, with :math:`d = 2l + 1`: uvw
    :math:`d_1 v w\, (u + d_3)` or :math:`d_3 u v\, (d_1 + w)`, uvu :math:`d_1 d_3\, u v`, uuu
    :math:`d_1 d_2 d_3\, u`.
    """

    def __init__(
        self,
        irreps_in1: str | Irreps,
        irreps_in2: str | Irreps,
        irreps_out: str | Irreps,
        *,
        mode: Mode = "uvw",
        instructions: Instructions | None = None,
        irrep_normalization: IrrepNormalization = "component",
        path_normalization: PathNormalization = "element",
        internal_weights: bool = True,
    ) -> None:
        super().__init__(
            irreps_in1,
            irreps_in2,
            irreps_out,
            mode=mode,
            instructions=instructions,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
            internal_weights=internal_weights,
        )
        # Numbers of the paths that share what is computed first, by the inputs that they share.
        self._scalar: list[tuple[int, float]] = []
        self._by_in2: dict[int, list[int]] = {}
        self._others: list[int] = []
        by_pair: dict[tuple[int, int], list[int]] = {}
        for p, path in enumerate(self.instructions):
            if any(mul == 0 for mul, _ in self.terms[p]):
                continue
            if path.mode == "uuu":
                by_pair.setdefault((path.in1, path.in2), []).append(p)
            elif path.mode in ("uvv", "uuw", "uvuv"):
                self._others.append(p)
                self.register_constant(f"coupling_of_{p}", self._coupling(p).flatten(0, 1).T)
            elif self.terms[p][1][1].l == 0:
                self._scalar.append((p, self._coupling(p)[0, 0, 0].item()))
            else:
                self._by_in2.setdefault(path.in2, []).append(p)
        for i2, paths in self._by_in2.items():
            # [j, (path, k, i)]
            blocks = [self._coupling(p).permute(1, 2, 0).flatten(1) for p in paths]
            self.register_constant(f"coupling_{i2}", torch.cat(blocks, dim=1))
        self._plans: list[tuple[Plan, list[str]]] = []
        by_channels: dict[int, list[tuple[Pair, str]]] = {}
        for (i1, i2), paths in by_pair.items():
            # [(path, k), (i, j)]
            blocks = [self._coupling(p).permute(2, 0, 1).flatten(1) for p in paths]
            self.register_constant(f"coupling_{i1}_{i2}", torch.cat(blocks))
            ends = tuple((p, self.instructions[p].out, self._dims(p)[1]) for p in paths)
            group = by_channels.setdefault(self._shapes[0][i1][0], [])
            group.append((Pair(i1, i2, ends), f"coupling_{i1}_{i2}"))
        for group in by_channels.values():
            pairs, names = [pair for pair, _ in group], [name for _, name in group]
            weighted = sorted(
                p for pair in pairs for p, _, _ in pair.paths if self.instructions[p].has_weight
            )
            self._plans.append((plan_of(pairs, weighted), names))
        self._couplings: dict[bool, list[Couplings]] = {}

    def multiply(
        self,
        x1: Float[Tensor, "rows in1"],
        x2: Float[Tensor, "rows in2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows out"]:
        if is_plain(x1) and (kernels := self._kernels(x1, spherical=False)):
            return _sum([kernel.product(x1, x2, weight) for kernel in kernels])
        blocks = self._blocks(
            _channels_last(x1, self._shapes[0]), _channels_last(x2, self._shapes[1]), weight
        )
        rows = x1.shape[0]
        flat = [
            block.transpose(1, 2).reshape(rows, mul * dim)
            for block, (mul, dim) in zip(blocks, self._shapes[2], strict=True)
            if block is not None
        ]
        return torch.cat(flat, dim=1) if flat else x1.new_zeros(rows, 0)

    def multiply_spherical(
        self,
        x1: Float[Tensor, "rows lm1 channels1"],
        x2: Float[Tensor, "rows lm2 channels2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows lm channels"]:
        if is_plain(x1) and (kernels := self._kernels(x1, spherical=True)):
            x, y, shape = x1.flatten(1), x2.flatten(1), self._spherical_shapes[2]
            z = _sum([kernel.product(x, y, weight) for kernel in kernels])
            return z.view(x1.shape[0], *cast(tuple[int, int], shape))
        if not all(map(_one_term_per_degree, self._shapes)):
            return super().multiply_spherical(x1, x2, weight)
        blocks = self._blocks(
            list(x1.split([dim for _, dim in self._shapes[0]], dim=1)),
            list(x2.split([dim for _, dim in self._shapes[1]], dim=1)),
            weight,
        )
        return torch.cat([block for block in blocks if block is not None], dim=1)

    def _kernels(self, x: Tensor, *, spherical: bool) -> list[Couplings]:
        """The map as sums over coefficients, if that can be used for tensors like x."""
        if spherical not in self._couplings:
            self._couplings[spherical] = path_couplings(self, spherical=spherical)
        couplings = self._couplings[spherical]
        return couplings if all(some.available(x.dtype) for some in couplings) else []

    def _blocks(
        self,
        x: list[Float[Tensor, "rows i u"]],
        y: list[Float[Tensor, "rows j v"]],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> list[Float[Tensor, "rows k w"] | None]:
        """Every output term, None for one without channels."""
        weights = self._split_weights(weight)
        terms: list[list[Tensor]] = [[] for _ in self._shapes[2]]
        for p, coefficient in self._scalar:
            path = self.instructions[p]
            s = coefficient * y[path.in2].squeeze(1)  # [rows, v]
            combine = _uvw_scalar if path.mode == "uvw" else _uvu_scalar
            terms[path.out].append(combine(x[path.in1], s, weights[p]))
        for i2, paths in self._by_in2.items():
            b = y[i2].transpose(1, 2) @ getattr(self, f"coupling_{i2}")
            sizes = [self._dims(p) for p in paths]
            parts = b.split([d1 * d3 for d1, d3 in sizes], dim=2)
            for p, part, (d1, d3) in zip(paths, parts, sizes, strict=True):
                path = self.instructions[p]
                b_path = part.unflatten(2, (d3, d1))  # [rows, v, k, i]
                combine = _uvw if path.mode == "uvw" else _uvu
                terms[path.out].append(combine(x[path.in1], b_path, weights[p]))
        for p in self._others:
            path = self.instructions[p]
            combine = {"uvv": _uvv, "uuw": _uuw, "uvuv": _uvuv}[path.mode]
            coupling: Tensor = getattr(self, f"coupling_of_{p}")
            terms[path.out].append(combine(x[path.in1], y[path.in2], coupling, weights[p]))
        for plan, names in self._plans:
            found = couple_channelwise(
                plan,
                [getattr(self, name) for name in names],
                {term: x[term] for term in plan.terms1},
                {term: y[term] for term in plan.terms2},
                {p: cast(Tensor, weights[p]) for p in plan.weighted},
            )
            for out, block in found.items():
                terms[out].append(block)
        return [_sum(blocks) if blocks else None for blocks in terms]

    def _split_weights(self, weight: Tensor | None) -> list[Float[Tensor, "rows_or_1 ..."] | None]:
        if weight is None:
            return [None] * len(self.instructions)
        parts = weight.split([math.prod(shape) for shape in self.weight_shapes], dim=1)
        return [
            part.unflatten(1, shape) if path.has_weight else None
            for path, shape, part in zip(self.instructions, self.weight_shapes, parts, strict=True)
        ]

    def _coupling(self, p: int) -> Float[Tensor, "i j k"]:
        (_, ir1), (_, ir2), (_, ir) = self.terms[p]
        return self.coefficients[p] * wigner_3j(ir1.l, ir2.l, ir.l)

    def _dims(self, p: int) -> tuple[int, int]:
        path = self.instructions[p]
        return self._shapes[0][path.in1][1], self._shapes[2][path.out][1]


def _sum(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])


def _uvw(
    x: Float[Tensor, "rows i u"],
    b: Float[Tensor, "rows v k i"],
    weight: Float[Tensor, "rows_or_1 u v w"] | None,
) -> Float[Tensor, "rows k w"]:
    assert weight is not None  # checked with the path
    rows, d1, u = x.shape
    v, d3 = b.shape[1:3]
    w = weight.shape[-1]
    if d1 <= d3:  # weights first
        x = _rowwise_matmul(x, weight.reshape(-1, u, v * w)).view(rows, d1 * v, w)
        return _matmul(b.permute(0, 2, 3, 1).reshape(rows, d3, d1 * v), x)
    x = _matmul(b.reshape(rows, v * d3, d1), x)
    x = x.view(rows, v, d3, u).permute(0, 2, 3, 1).reshape(rows, d3, u * v)
    return _rowwise_matmul(x, weight.reshape(-1, u * v, w))


def _uvu(
    x: Float[Tensor, "rows i u"],
    b: Float[Tensor, "rows v k i"],
    weight: Float[Tensor, "rows_or_1 u v"] | None,
) -> Float[Tensor, "rows k u"]:
    if weight is None:
        return _matmul(b.sum(1), x)
    rows, v, d3, d1 = b.shape
    x = (x.unsqueeze(1) * weight.transpose(1, 2).unsqueeze(2)).reshape(rows, v * d1, x.shape[-1])
    return _matmul(b.transpose(1, 2).reshape(rows, d3, v * d1), x)


def _uvw_scalar(
    x: Float[Tensor, "rows i u"],
    s: Float[Tensor, "rows v"],
    weight: Float[Tensor, "rows_or_1 u v w"] | None,
) -> Float[Tensor, "rows i w"]:
    assert weight is not None  # checked with the path
    pairs = x.unsqueeze(-1) * s[:, None, None, :]
    return _rowwise_matmul(pairs.flatten(2), weight.flatten(1, 2))


def _uvu_scalar(
    x: Float[Tensor, "rows i u"],
    s: Float[Tensor, "rows v"],
    weight: Float[Tensor, "rows_or_1 u v"] | None,
) -> Float[Tensor, "rows i u"]:
    if weight is None:
        return x * s.sum(1)[:, None, None]
    return x * _rowwise_matmul(s.unsqueeze(1), weight.transpose(1, 2))


def _uvv(
    x: Float[Tensor, "rows i u"],
    y: Float[Tensor, "rows j v"],
    coupling: Float[Tensor, "k ij"],
    weight: Float[Tensor, "rows_or_1 u v"] | None,
) -> Float[Tensor, "rows k v"]:
    by_x = coupling.view(-1, x.shape[1], y.shape[1]).permute(1, 0, 2).flatten(1)
    b = (x.mT @ by_x).unflatten(2, (-1, y.shape[1]))  # [rows, u, k, j]
    return _uvu(y, b, None if weight is None else weight.mT)


def _uuw(
    x: Float[Tensor, "rows i u"],
    y: Float[Tensor, "rows j u"],
    coupling: Float[Tensor, "k ij"],
    weight: Float[Tensor, "rows_or_1 u w"] | None,
) -> Float[Tensor, "rows k w"]:
    coupled = coupling @ (x.unsqueeze(2) * y.unsqueeze(1)).flatten(1, 2)
    return coupled.sum(2, keepdim=True) if weight is None else _rowwise_matmul(coupled, weight)


def _uvuv(
    x: Float[Tensor, "rows i u"],
    y: Float[Tensor, "rows j v"],
    coupling: Float[Tensor, "k ij"],
    weight: Float[Tensor, "rows_or_1 u v"] | None,
) -> Float[Tensor, "rows k uv"]:
    by_y = coupling.view(-1, x.shape[1], y.shape[1]).permute(2, 0, 1).flatten(1)
    b = (y.mT @ by_y).unflatten(2, (-1, x.shape[1]))  # [rows, v, k, i]
    coupled = (b.flatten(1, 2) @ x).unflatten(1, b.shape[1:3])  # [rows, v, k, u]
    coupled = coupled.permute(0, 2, 3, 1)
    return (coupled if weight is None else coupled * weight.unsqueeze(1)).flatten(2)


def _matmul(
    a: Float[Tensor, "rows k i"], b: Float[Tensor, "rows i w"]
) -> Float[Tensor, "rows k w"]:
    # a batch of outer products is five times faster without the matrix library
    return a * b if a.shape[2] == 1 else a @ b


def _rowwise_matmul(
    x: Float[Tensor, "rows m a"], weight: Float[Tensor, "rows_or_1 a b"]
) -> Float[Tensor, "rows m b"]:
    """``x[n] @ weight[n]``, as one large product if there is one weight for all rows."""
    if weight.shape[0] == 1:
        return (x.reshape(-1, x.shape[-1]) @ weight[0]).unflatten(0, x.shape[:2])
    return x @ weight


def _channels_last(
    x: Float[Tensor, "rows dim"], shape: Sequence[tuple[int, int]]
) -> list[Float[Tensor, "rows m channels"]]:
    parts = x.split([mul * dim for mul, dim in shape], dim=1)
    return [
        part.unflatten(1, size).transpose(1, 2) for part, size in zip(parts, shape, strict=True)
    ]


def _one_term_per_degree(shape: Sequence[tuple[int, int]]) -> bool:
    return [dim for _, dim in shape] == [2 * l + 1 for l in range(len(shape))]
