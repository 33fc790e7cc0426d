"""The tables of the kernel for paths that go channel by channel."""

import itertools
import math
from collections import Counter

import torch
from torch import Tensor

from equiv.so3 import Irreps, spherical_shape, wigner_3j
from equiv.tensor_products.couplings import Couplings
from equiv.tensor_products.lanes import Components
from equiv.tensor_products.paths import PathTensorProduct

ZERO = 1e-12
"""Couplings below vanish, but for rounding."""

Places = list[tuple[list[int], int]]
"""For every term the places of its components in a row, and the step from channel to channel."""


def path_couplings(product: PathTensorProduct, *, spherical: bool) -> list[Couplings]:
    """The map of a product as sums over non-zero coefficients, one for each number of channels.

    Args:
        product: paths and their normalisation.
        spherical: whether rows are spherical tensors, or flat irreps.

    Returns:
        The parts of which the product is the sum; none if a path sums over channels.
    """
    by_channels: dict[int, list[int]] = {}
    for p, path in enumerate(product.instructions):
        (u, _), (v, _), (w, _) = product.terms[p]
        if 0 in (u, v, w):
            continue
        if path.mode != "uuu" and (path.mode, 1) not in (("uvu", v), ("uvv", u)):
            return []
        by_channels.setdefault(w, []).append(p)
    irreps = (product.irreps_in1, product.irreps_in2, product.irreps_out)
    places = [_places(i, spherical) for i in irreps]
    return [_couplings(product, c, paths, places) for c, paths in by_channels.items()]


def _couplings(
    product: PathTensorProduct, channels: int, paths: list[int], places: list[Places]
) -> Couplings:
    offsets: list[list[int]] = [[], [], [], []]
    steps: list[list[int]] = [[], [], [], []]
    first: dict[tuple[int, int], int] = {}  # operand and term -> its first component
    starts = [0, *itertools.accumulate(math.prod(shape) for shape in product.weight_shapes)]
    entries: list[Tensor] = []
    coefficients: list[Tensor] = []
    for p in paths:
        path, terms = product.instructions[p], product.terms[p]
        numbers = []
        for n, term in enumerate((path.in1, path.in2, path.out)):
            if (n, term) not in first:
                first[n, term] = len(offsets[n])
                at, step = places[n][term]
                offsets[n] += at
                steps[n] += [step if terms[n][0] == channels else 0] * len(at)
            numbers.append(first[n, term])
        (_, ir1), (_, ir2), (_, ir) = terms
        coupling = product.coefficients[p] * wigner_3j(ir1.l, ir2.l, ir.l)
        found = (coupling.abs() > ZERO).nonzero()
        number = torch.full((len(found), 1), len(offsets[3]) if path.has_weight else -1)
        entries.append(torch.cat([found + torch.tensor(numbers), number], dim=1))
        coefficients.append(coupling[tuple(found.T)])
        if path.has_weight:
            offsets[3].append(starts[p])
            steps[3].append(1)
    irreps = (product.irreps_in1, product.irreps_in2, product.irreps_out)
    sizes = (*(i.dim for i in irreps), product.weight_numel)
    x, y, z, w = (
        Components(tuple(o), tuple(s), size)
        for o, s, size in zip(offsets, steps, sizes, strict=True)
    )
    return Couplings((x, y, z, w), channels, torch.cat(entries), torch.cat(coefficients))


def _places(irreps: Irreps, spherical: bool) -> Places:
    channels = spherical_shape(irreps)[1] if spherical else 0
    places: Places = []
    start, used = 0, Counter[int]()
    for mul, ir in irreps:
        if spherical:
            at, step = [(ir.l**2 + m) * channels + used[ir.l] for m in range(ir.dim)], 1
        else:
            at, step = [start + m for m in range(ir.dim)], ir.dim
        places.append((at, step))
        used[ir.l] += mul
        start += mul * ir.dim
    return places
