"""Tensor products whose channels meet one by one, by any selection of their paths."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.hamiltonian.degrees import Degrees
from equiv.so3 import wigner_3j
from equiv.tensor_products.couplings import Couplings
from equiv.tensor_products.lanes import Components, is_plain


@dataclass(frozen=True)
class CouplingPath:
    """One way of two irreps to a third: numbers of the irreps, and their degrees.

    Attributes:
        in1: irrep of the first factor.
        in2: irrep of the second factor.
        out: irrep of the product.
        degrees: ``(l1, l2, l3)``.
    """

    in1: int
    in2: int
    out: int
    degrees: tuple[int, int, int]

    @property
    def cost(self) -> int:
        """Multiply-adds per row and channel: coupling coefficients that are not zero."""
        return len(_brackets(*self.degrees)[1])


def coupling_paths(
    first: Degrees, second: Degrees, out: Degrees, *, parity: bool = True
) -> tuple[CouplingPath, ...]:
    """All paths that the selection rules allow, ordered by first, second and third irrep.

    Args:
        first: irreps of the first factor.
        second: irreps of the second.
        out: irreps that are wanted.
        parity: whether parity is conserved; without, odd couplings of natural tensors are called
            natural, which holds for rotations but not for reflections.
    """
    paths = []
    for i, (s1, l1) in enumerate(first.irreps):
        for j, (s2, l2) in enumerate(second.irreps):
            for k, (s3, l3) in enumerate(out.irreps):
                triangle = abs(l1 - l2) <= l3 <= l1 + l2
                if triangle and (not parity or s3 == s1 * s2 * (-1) ** (l1 + l2 + l3)):
                    paths.append(CouplingPath(i, j, k, (l1, l2, l3)))
    return tuple(paths)


class PathProduct(nn.Module):
    r"""The tensor product over any of its paths.

    .. math::
        z^{o}_{m_3 c} = \sum_{p \to o,\; p \in S} w_{pc} \sum_{m_1 m_2}
        \begin{pmatrix} l_1 & l_2 & l_3 \\ m_1 & m_2 & m_3 \end{pmatrix} x_{m_1 c}\, y_{m_2 c}

    The bracket is :func:`equiv.so3.wigner_3j`, :math:`S` a selection of the paths. What is not
    selected is not computed, and the weights that are given are those of the selection only. Cost:
    :math:`\sum_{p \in S}` of the non-zero brackets, times rows and channels.

    Args:
        first: irreps of :math:`x`.
        second: irreps of :math:`y`.
        out: irreps of :math:`z`.
        paths: all paths, by default those of :func:`coupling_paths`.
    """

    def __init__(
        self,
        first: Degrees,
        second: Degrees,
        out: Degrees,
        paths: Sequence[CouplingPath] | None = None,
    ) -> None:
        super().__init__()
        self.first, self.second, self.out = first, second, out
        self.paths = tuple(coupling_paths(first, second, out) if paths is None else paths)
        reached = {path.out for path in self.paths}
        missing = [out.irreps[k] for k in range(len(out)) if k not in reached]
        if missing:
            raise EquivError(f"no path reaches the irreps (sign, l) {missing}")
        self._tables: dict[object, Any] = {}

    def forward(
        self,
        x: Float[Tensor, "rows components1 channels"],
        y: Float[Tensor, "rows components2 channels_or_1"],
        weights: Float[Tensor, "rows_or_1 selected channels"],
        selection: tuple[int, ...],
    ) -> Float[Tensor, "rows components channels"]:
        """The product over the selected paths; ``y`` may have a single channel."""
        if is_plain(x) and is_plain(y) and is_plain(weights):
            single = y.shape[2] == 1 != x.shape[2]
            couplings = self.couplings(selection, x.shape[2], single, x.dtype)
            if couplings is not None:
                rows = couplings.product(x.flatten(1), y.flatten(1), weights.flatten(1))
                return rows.unflatten(1, (self.out.dim, x.shape[2]))
        return self.by_matrices(x, y, weights, selection)

    def couplings(
        self, selection: tuple[int, ...], channels: int, single: bool, dtype: torch.dtype
    ) -> Couplings | None:
        """The kernel for a selection, for a ``single`` channel of ``y`` or all, if there is one."""
        table = self._table(selection, channels, single)
        return table if table.available(dtype) else None

    def by_matrices(
        self,
        x: Float[Tensor, "rows components1 channels"],
        y: Float[Tensor, "rows components2 channels_or_1"],
        weights: Float[Tensor, "rows_or_1 selected channels"],
        selection: tuple[int, ...],
    ) -> Float[Tensor, "rows components channels"]:
        """The same by one matrix product for every two irreps, where there is no kernel."""
        chosen = sorted(enumerate(selection), key=lambda e: self._ends(e[1]))
        parts, owners, places = [], [], []
        for (i, j), group in groupby(chosen, key=lambda e: self._ends(e[1])[:2]):
            members = list(group)
            matrices = [wigner_3j(*self.paths[p].degrees).flatten(0, 1).T for _, p in members]
            x_i, y_j = (
                z[:, some.starts[n] : some.starts[n] + 2 * some.irreps[n][1] + 1]
                for z, some, n in ((x, self.first, i), (y, self.second, j))
            )
            outer = (x_i[:, :, None] * y_j[:, None]).flatten(1, 2)
            parts.append(torch.cat(matrices).to(outer) @ outer)
            for n, p in members:
                start, size = self.out.starts[self.paths[p].out], 2 * self.paths[p].degrees[2] + 1
                owners += [n] * size
                places += range(start, start + size)
        coupled = torch.cat(parts, 1) * weights[:, torch.tensor(owners, device=x.device)]
        out = x.new_zeros(x.shape[0], self.out.dim, x.shape[2])
        return out.index_add(1, torch.tensor(places, device=x.device), coupled)

    def _ends(self, p: int) -> tuple[int, int, int]:
        return self.paths[p].in1, self.paths[p].in2, self.paths[p].out

    def _table(self, selection: tuple[int, ...], channels: int, single: bool) -> Couplings:
        key = (selection, channels, single)
        if key not in self._tables:
            if len(self._tables) > 8:  # a new selection in every step: do not keep them all
                self._tables.clear()
            self._tables[key] = self._couplings(selection, channels, single)
        return self._tables[key]

    def entries(
        self, selection: Sequence[int]
    ) -> tuple[Int[Tensor, "entries 4"], Float[Tensor, " entries"]]:
        """The brackets that are not zero: components of x, y, z, which path; and their values."""
        entries, coefficients = [], []
        for n, p in enumerate(selection):
            indices, values = _brackets(*self.paths[p].degrees)
            i, j, k = self._ends(p)
            starts = (self.first.starts[i], self.second.starts[j], self.out.starts[k])
            shifted = indices + torch.tensor(starts)
            entries.append(torch.cat([shifted, torch.full((len(values), 1), n)], 1))
            coefficients.append(values)
        return torch.cat(entries), torch.cat(coefficients)

    def _couplings(self, selection: tuple[int, ...], channels: int, single: bool) -> Couplings:
        """The table of the kernel for a selection."""
        sizes = (self.first.dim, self.second.dim, self.out.dim, len(selection))
        operands = [
            Components(
                tuple(range(0, size * width, width)), (0 if width == 1 else 1,) * size, size * width
            )
            for size, width in zip(
                sizes, (channels, 1 if single else channels) + (channels,) * 2, strict=True
            )
        ]
        if channels == 1:
            operands = [Components(o.offsets, (1,) * len(o), o.size) for o in operands]
        x, y, z, w = operands
        return Couplings((x, y, z, w), channels, *self.entries(selection))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    def extra_repr(self) -> str:
        return f"{len(self.paths)} paths, {self.first.dim} x {self.second.dim} -> {self.out.dim}"


@cache
def _brackets(l1: int, l2: int, l3: int) -> tuple[Tensor, Tensor]:
    """Places and values of the brackets that are not zero."""
    bracket = wigner_3j(l1, l2, l3)
    indices = (bracket.abs() > 1e-12).nonzero()
    return indices, bracket[tuple(indices.T)]


def balanced(paths: Sequence[CouplingPath], selection: Sequence[int]) -> list[float]:
    r"""Factor of every selected path that gives the product unit variance.

    .. math:: c_p = \sqrt{\frac{2 l_3 + 1}{\#\{p' \in S \to o\}}}
    """
    outputs = [paths[p].out for p in selection]
    return [
        math.sqrt((2 * paths[p].degrees[2] + 1) / outputs.count(paths[p].out)) for p in selection
    ]
