r"""Functions of atoms and of their pairs that keep what atoms have, not what all pairs have.

What belongs to a pair is often had from its two atoms by one addition or multiplication. It is made
when it is needed, once more in the backward pass, and not kept in between. As in
:mod:`equiv.hamiltonian.row_functions`, each function is defined by a few lines of torch, ``plain``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.hamiltonian.pair_kernels import pair_library
from equiv.hamiltonian.row_functions import (
    RowFunction,
    Rows,
    call,
    ints,
    joined,
    joined_back,
    pointers,
    possible,
    together,
)
from equiv.tensor_products.couplings import Couplings
from equiv.tensor_products.forms import W, X, Y, Z

if TYPE_CHECKING:
    from equiv.hamiltonian.coupling_paths import PathProduct

Atoms = tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]
"""Both atoms of every pair."""


def product_of_atoms(
    product: "PathProduct",
    a: Float[Tensor, "atoms components channels"],
    b: Float[Tensor, "atoms components channels"],
    pairs: Atoms,
    signs: tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]],
    weights: Float[Tensor, "pairs selected channels"],
    selection: tuple[int, ...],
) -> Float[Tensor, "pairs out channels"]:
    r"""The product :math:`(a_i + \sigma a_j) \otimes (b_i + \sigma' b_j)` of every pair."""

    def plain(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
        left, right = (together(x, *pairs, s) for x, s in zip((a, b), signs, strict=True))
        return product(left, right, weights, selection)

    couplings = _couplings(product, selection, a.shape[2], a, b, weights)
    if couplings is None:
        return plain(a, b, weights)
    return call(_ProductOfAtoms, plain, couplings, pairs, signs, a, b, weights)


def spread(
    rows: Rows,
    total: int,
    signs: Float[Tensor, "irreps channels"],
    pairs: Atoms,
    scalars: Float[Tensor, "atoms channels"],
    y: Float[Tensor, "pairs dim"],
    weights: Float[Tensor, "pairs irreps channels"],
) -> Float[Tensor, "pairs total channels"]:
    r"""The tensors :math:`y^l_{ij}\, w^l_{ij} (s_i + \tau_l s_j)` in every channel; then zeros."""

    def plain(scalars: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        s_i, s_j = (scalars.index_select(0, atoms) for atoms in pairs)
        weights = weights * torch.addcmul(s_i[:, None], signs, s_j[:, None])
        found = y.unsqueeze(-1) * weights.index_select(1, rows.owners.to(y.device))
        return torch.nn.functional.pad(found, (0, 0, 0, total - y.shape[1]))

    if not possible(scalars, y, weights, signs):
        return plain(scalars, y, weights)
    return call(_Spread, plain, rows, total, signs, pairs, scalars, y, weights)


def neighbors(
    rows: Rows,
    signs: Float[Tensor, " irreps"],
    pairs: Atoms,
    scalars: Float[Tensor, "atoms channels"],
    y: Float[Tensor, "pairs dim"],
    weights: Float[Tensor, "pairs irreps channels"],
) -> Float[Tensor, "atoms dim channels"]:
    r"""What every atom hears of the scalars of all others and of where they are.

    .. math::
        z^l_i = \sum_{ij} w^l_{ij}\, s_j\, y^l_{ij} + \sum_{ji} w^l_{ji}\, s_j\, \sigma_l y^l_{ji}
    """

    def plain(scalars: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        first, second = pairs
        owners = rows.owners.to(y.device)
        both = torch.cat([y, y * signs[owners]]).unsqueeze(-1)
        some = torch.cat([weights, weights]) * scalars[torch.cat([second, first])].unsqueeze(1)
        told = both * some.index_select(1, owners)
        zero = scalars.new_zeros(len(scalars), *told.shape[1:])
        return zero.index_add(0, torch.cat([first, second]), told)

    if not possible(scalars, y, weights):
        return plain(scalars, y, weights)
    return call(_Neighbors, plain, rows, signs, pairs, scalars, y, weights)


def tell(
    pairs: Atoms,
    phi: Float[Tensor, "atoms 3*channels"],
    weights: Float[Tensor, "pairs 3*channels"],
    vectors: Float[Tensor, "atoms 3 channels"],
    directions: Float[Tensor, "pairs 3"],
) -> Float[Tensor, "atoms 4 channels"]:
    r"""Scalars and vectors that every atom hears from the others.

    .. math::
        \sum_j a_{ij}, \quad \sum_j b_{ij} v_j + c_{ij} d_{ij}, \qquad
        (a, b, c)_{ij} = \varphi_j \odot w_{ij}
    """

    def plain(phi: Tensor, weights: Tensor, vectors: Tensor, directions: Tensor) -> Tensor:
        first, second = pairs
        senders = torch.cat([second, first])
        a, b, c = (phi.index_select(0, senders) * torch.cat([weights, weights])).chunk(3, 1)
        moved = vectors.index_select(0, senders) * b[:, None]
        signed = torch.cat([directions, -directions]).unsqueeze(-1)
        both = torch.cat([a[:, None], torch.addcmul(moved, c[:, None], signed)], 1)
        zero = phi.new_zeros(len(phi), 4, vectors.shape[2])
        return zero.index_add(0, torch.cat([first, second]), both)

    if not possible(phi, weights, vectors, directions):
        return plain(phi, weights, vectors, directions)
    return call(_Tell, plain, pairs, phi, weights, vectors, directions)


def path_weights(
    hidden: Float[Tensor, "pairs hidden"],
    rows: Float[Tensor, "paths hidden channels"],
    factors: Float[Tensor, " selected"],
    selection: Sequence[int] | None,
) -> Float[Tensor, "pairs selected channels"]:
    """Hidden numbers of every pair times those rows of a matrix that belong to selected paths."""
    chosen = tuple(range(len(rows))) if selection is None else tuple(selection)
    index = torch.tensor(chosen, device=rows.device)

    def plain(hidden: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
        some = rows if len(chosen) == len(rows) else rows.index_select(0, index)
        matrix = (some * factors[:, None, None]).transpose(0, 1).flatten(1)
        return (hidden @ matrix).unflatten(1, (-1, rows.shape[2]))

    if not possible(hidden, rows, factors):
        return plain(hidden, rows, factors)
    return call(_PathWeights, plain, index, hidden, rows, factors)


def _couplings(
    product: "PathProduct",
    selection: tuple[int, ...],
    channels: int,
    *tensors: Tensor,
) -> Couplings | None:
    if not possible(*tensors):
        return None
    return product.couplings(selection, channels, False, tensors[0].dtype)


class _ProductOfAtoms(RowFunction):
    constants = 4

    @staticmethod
    def forward(
        ctx: Any, plain: Any, couplings: Couplings, pairs: Atoms, signs: Any, *given: Tensor
    ) -> Tensor:
        a, b, weights = given
        ctx.plain, ctx.couplings, ctx.pairs, ctx.signs = plain, couplings, pairs, signs
        ctx.save_for_backward(a, b, weights)
        left, right = _ProductOfAtoms.factors(ctx, a, b)
        (z,) = couplings.compute((Z,), left, right, None, weights.flatten(1))
        return z.unflatten(1, (-1, a.shape[2]))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        a, b, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _ProductOfAtoms.slow(ctx, (a, b, weights), grads)
        left, right = _ProductOfAtoms.factors(ctx, a, b)
        (first, second), g = ctx.pairs, grads[0].flatten(1)
        found = ctx.couplings.compute((X, Y, W), left, right, g, weights.flatten(1))
        results = []
        for x, part, sign in zip((a, b), found[:2], ctx.signs, strict=True):
            gx = torch.zeros_like(x)
            joined_back(part, first, second, sign, gx)
            results.append(gx)
        return None, None, None, None, *results, found[2].view_as(weights)

    @staticmethod
    def factors(ctx: Any, *given: Tensor) -> list[Tensor]:
        first, second = ctx.pairs
        both = zip(given, ctx.signs, strict=True)
        return [joined(x, first, second, sign).flatten(1) for x, sign in both]


class _Spread(RowFunction):
    constants = 5

    @staticmethod
    def forward(
        ctx: Any, plain: Any, rows: Rows, total: int, signs: Any, pairs: Any, *given: Tensor
    ) -> Tensor:
        scalars, y, weights = given
        ctx.plain, ctx.rows, ctx.pairs, ctx.signs = plain, rows, pairs, signs
        ctx.sizes = ints(*rows.sizes(len(y)), rows.channels, total)
        ctx.save_for_backward(scalars, y, weights)
        z = scalars.new_empty(len(y), total, scalars.shape[1])
        given = (scalars, *pairs, ctx.signs, y, weights, z)
        _pair_library(z).spread(*ctx.sizes, *pointers(*given))
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        scalars, y, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Spread.slow(ctx, (scalars, y, weights), grads)
        g, gs, gw = grads[0].contiguous(), torch.zeros_like(scalars), torch.empty_like(weights)
        gy = torch.empty_like(y) if ctx.needs_input_grad[6] else None
        given = pointers(scalars, *ctx.pairs, ctx.signs, y, weights, g, gs, gy, gw)
        _pair_library(g).spread_back(*ctx.sizes, *given)
        return None, None, None, None, None, gs, gy, gw


class _Neighbors(RowFunction):
    constants = 4

    @staticmethod
    def forward(
        ctx: Any, plain: Any, rows: Rows, signs: Tensor, pairs: Atoms, *given: Tensor
    ) -> Tensor:
        scalars, y, weights = given
        ctx.plain, ctx.rows, ctx.pairs, ctx.signs = plain, rows, pairs, signs
        ctx.sizes = ints(*rows.sizes(len(y)), rows.channels)
        ctx.save_for_backward(scalars, y, weights)
        z = scalars.new_zeros(len(scalars), y.shape[1], scalars.shape[1])
        where = pointers(*pairs, signs, scalars, y, weights, z)
        _pair_library(z).neighbors(*ctx.sizes, *where)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        scalars, y, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Neighbors.slow(ctx, (scalars, y, weights), grads)
        g, gs, gw = grads[0].contiguous(), torch.zeros_like(scalars), torch.empty_like(weights)
        gy = torch.empty_like(y) if ctx.needs_input_grad[5] else None
        given = pointers(*ctx.pairs, ctx.signs, scalars, y, weights, g, gs, gw, gy)
        _pair_library(g).neighbors_back(*ctx.sizes, *given)
        return None, None, None, None, gs, gy, gw


class _Tell(RowFunction):
    constants = 2

    @staticmethod
    def forward(ctx: Any, plain: Any, pairs: Atoms, *given: Tensor) -> Tensor:
        phi, weights, vectors, directions = given
        ctx.plain, ctx.pairs = plain, pairs
        ctx.save_for_backward(phi, weights, vectors, directions)
        n, _, channels = vectors.shape
        state = phi.new_zeros(n, 4, channels)
        given = (*pairs, phi, weights, vectors, directions, state)
        _pair_library(phi).tell(*ints(len(pairs[0]), channels), *pointers(*given))
        return state

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        phi, weights, vectors, directions = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Tell.slow(ctx, (phi, weights, vectors, directions), grads)
        g = grads[0].contiguous()
        gphi, gv, gw = torch.zeros_like(phi), torch.zeros_like(vectors), torch.empty_like(weights)
        gd = torch.empty_like(directions) if ctx.needs_input_grad[5] else None
        given = (*ctx.pairs, phi, weights, vectors, directions, g, gphi, gw, gv, gd)
        sizes = ints(len(weights), vectors.shape[2])
        _pair_library(phi).tell_back(*sizes, *pointers(*given))
        return None, None, gphi, gw, gv, gd


class _PathWeights(RowFunction):
    constants = 2

    @staticmethod
    def forward(ctx: Any, plain: Any, index: Tensor, *given: Tensor) -> Tensor:
        hidden, rows, factors = given
        ctx.plain, ctx.index = plain, index
        ctx.save_for_backward(hidden, rows, factors)
        found = hidden @ arranged(index, rows, factors)
        return found.unflatten(1, (len(index), rows.shape[2]))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, rows, factors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _PathWeights.slow(ctx, (hidden, rows, factors), grads)
        index, g = ctx.index, grads[0].flatten(1)
        g_hidden = g @ arranged(index, rows, factors).T
        return None, None, g_hidden, *arranged_back(index, rows, factors, hidden.T @ g)


def arranged(
    index: Int[Tensor, " selected"],
    rows: Float[Tensor, "paths hidden channels"],
    factors: Float[Tensor, " selected"],
) -> Float[Tensor, "hidden selected*channels"]:
    """The matrix of :func:`path_weights`."""
    matrix = rows.new_empty(rows.shape[1], len(index) * rows.shape[2])
    given = pointers(index, rows, factors, matrix)
    _pair_library(rows).arrange(*ints(len(index), *rows.shape[1:]), *given)
    return matrix


def arranged_back(
    index: Int[Tensor, " selected"],
    rows: Float[Tensor, "paths hidden channels"],
    factors: Float[Tensor, " selected"],
    grad: Float[Tensor, "hidden selected*channels"],
) -> tuple[Float[Tensor, "paths hidden channels"], Float[Tensor, " selected"]]:
    """Gradients by ``rows`` and ``factors``, given that by the matrix."""
    new = torch.empty_like if len(index) == len(rows) else torch.zeros_like
    g_rows, g_factors = new(rows), torch.empty_like(factors)
    given = (index, rows, factors, grad, g_rows, g_factors)
    _pair_library(rows).arrange_back(*ints(len(index), *rows.shape[1:]), *pointers(*given))
    return g_rows, g_factors


def _pair_library(x: Tensor) -> Any:
    return pair_library(x.dtype)
