r"""Gated maps of products, which are made once more in the backward pass instead of kept.

A product of features and its weights are the largest tensors of the network. Where few paths are
left, to make them again in blocks that fit into caches costs next to nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.hamiltonian.gated_linear import (
    GatedMaps,
    backward_rows,
    forward_rows,
    row_blocks,
    some_of,
)
from equiv.hamiltonian.pair_functions import (
    Atoms,
    arranged,
    arranged_back,
    path_weights,
    product_of_atoms,
)
from equiv.hamiltonian.row_functions import RowFunction, call, joined, joined_back, possible
from equiv.tensor_products.forms import W, X, Y, Z

if TYPE_CHECKING:
    from equiv.hamiltonian.coupling_paths import PathProduct
    from equiv.tensor_products.couplings import Couplings


class ProductOf(Protocol):
    """A product of features, as a function of some tensors.

    Attributes:
        product: any of its paths.
        selection: the paths that are computed.
        plain: the definition, a function of the tensors.
        begin: one pass over blocks of rows, forward or backward, for a kernel and the tensors.
    """

    @property
    def product(self) -> "PathProduct": ...
    @property
    def selection(self) -> tuple[int, ...]: ...
    @property
    def plain(self) -> Callable[..., Tensor]: ...
    @property
    def begin(self) -> "Callable[..., Pass]": ...


class Pass(Protocol):
    """One pass over blocks of rows of a product.

    Attributes:
        rows: how many there are.
    """

    @property
    def rows(self) -> int: ...

    def forward(self, part: slice) -> Float[Tensor, "block out channels"]:
        """Some rows; what led to them is remembered until the next."""
        ...

    def backward(self, part: slice, g: Float[Tensor, "block out channels"]) -> None:
        """Add up the gradients of these rows, given that by their product."""
        ...

    def gradients(self) -> Sequence[Tensor]:
        """By each of the tensors."""
        ...


def gated_product(
    maps: GatedMaps,
    of: ProductOf,
    tensors: Sequence[Tensor],
    scale: Float[Tensor, " rows"] | None = None,
    *,
    keep: bool,
) -> Float[Tensor, "rows out channels"]:
    r"""The map of a gated product, :math:`g\, W \mathcal{N}(z)`.

    Args:
        maps: a gate and one map.
        of: the product :math:`z`.
        tensors: what it is a function of.
        scale: :math:`g`, if there is one.
        keep: whether the product is kept for the backward pass: for many paths.
    """

    def plain(*given: Tensor) -> Tensor:
        return maps.plain(of.plain(*given[: len(tensors)]), *given[len(tensors) :])[0]

    given = (*tensors, *maps.weights, *(() if scale is None else (scale,)))
    couplings = None
    if not keep and torch.is_grad_enabled() and possible(*given):
        channels, dtype = tensors[0].shape[2], tensors[0].dtype
        couplings = of.product.couplings(of.selection, channels, False, dtype)
    if couplings is None:
        return maps(of.plain(*tensors), scale)[0]
    return call(_GatedProduct, plain, maps, couplings, of, len(tensors), *given)


class _GatedProduct(RowFunction):
    constants = 5

    @staticmethod
    def forward(
        ctx: Any,
        plain: Any,
        maps: GatedMaps,
        couplings: "Couplings",
        of: ProductOf,
        count: int,
        *given: Tensor,
    ) -> Tensor:
        ctx.plain, ctx.maps, ctx.couplings, ctx.of, ctx.count = plain, maps, couplings, of, count
        ctx.save_for_backward(*given)
        work, x = of.begin(couplings, *given[:count]), given[0]
        weights, scale = maps.split(given[count:])
        z = x.new_empty(work.rows, of.product.out.dim, x.shape[2])
        for part in row_blocks(z):
            forward_rows(maps, work.forward(part), weights, some_of(scale, part), [z[part]])
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        given, maps, g = ctx.saved_tensors, ctx.maps, grads[0].contiguous()
        if torch.is_grad_enabled():
            return _GatedProduct.slow(ctx, given, grads)
        work = ctx.of.begin(ctx.couplings, *given[: ctx.count])
        weights, scale = maps.split(given[ctx.count :])
        found = [torch.zeros_like(w) for w in weights]
        g_scale = [] if scale is None else [torch.empty_like(scale)]
        for part in row_blocks(g):
            z, some = work.forward(part), some_of(scale, part)
            g_z, g_some = backward_rows(maps, z, weights, some, [g[part]], found)
            if g_some is not None:
                g_scale[0][part] = g_some
            work.backward(part, g_z)
        return *[None] * 5, *work.gradients(), *found, *g_scale


@dataclass(frozen=True)
class ProductOfAtom:
    r"""The features of an atom coupled with themselves, and added.

    .. math:: z_i = \sum_p w^p \odot (\ell_i \otimes_p r_i) + x_i

    Attributes:
        product: any of its paths.
        selection: the paths that are computed.
    """

    product: "PathProduct"
    selection: tuple[int, ...]

    def plain(
        self,
        left: Float[Tensor, "atoms components channels"],
        right: Float[Tensor, "atoms components channels"],
        weights: Float[Tensor, "1 selected channels"],
        x: Float[Tensor, "atoms components channels"],
    ) -> Float[Tensor, "atoms out channels"]:
        """The product of every atom."""
        coupled, shared = self.product(left, right, weights, self.selection), self.shared
        missing = coupled.shape[1] - shared
        return coupled + torch.nn.functional.pad(x[:, :shared], (0, 0, 0, missing))

    def begin(self, couplings: "Couplings", *tensors: Tensor) -> Pass:
        """One pass over blocks of atoms."""
        return _AtomPass(couplings, self.shared, *tensors)

    @property
    def shared(self) -> int:
        """Components that the features and their product have in common."""
        return min(self.product.first.dim, self.product.out.natural_dim)


class _AtomPass:
    def __init__(
        self,
        couplings: "Couplings",
        shared: int,
        left: Tensor,
        right: Tensor,
        weights: Tensor,
        x: Tensor,
    ) -> None:
        self.couplings, self.shared = couplings, shared
        self.left, self.right, self.weights, self.x = left, right, weights, x
        self.rows, self.found = len(left), [torch.empty_like(t) for t in (left, right)]
        self.found += [torch.zeros_like(weights), torch.zeros_like(x)]

    def forward(self, part: slice) -> Tensor:
        left, right, weights = self._operands(part)
        (z,) = self.couplings.compute((Z,), left, right, None, weights)
        z = z.unflatten(1, (-1, self.left.shape[2]))
        z[:, : self.shared] += self.x[part, : self.shared]
        return z

    def backward(self, part: slice, g: Tensor) -> None:
        left, right, weights = self._operands(part)
        found = self.couplings.compute((X, Y, W), left, right, g.flatten(1), weights)
        for into, piece in zip(self.found, found[:2], strict=False):
            into[part] = piece.view_as(into[part])
        self.found[2] += found[2].view_as(self.weights)
        self.found[3][part, : self.shared] = g[:, : self.shared]

    def gradients(self) -> Sequence[Tensor]:
        return self.found

    def _operands(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        return self.left[part].flatten(1), self.right[part].flatten(1), self.weights.flatten(1)


@dataclass(frozen=True)
class ProductOfPair:
    r"""The product of the features of two atoms (:func:`product_of_atoms`).

    Attributes:
        product: any of its paths.
        selection: the paths that are computed.
        pairs: both atoms of every pair.
        signs: with which the second atom's features enter each factor.
    """

    product: "PathProduct"
    selection: tuple[int, ...]
    pairs: Atoms
    signs: tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]

    def plain(
        self,
        a: Float[Tensor, "atoms components channels"],
        b: Float[Tensor, "atoms components channels"],
        hidden: Float[Tensor, "pairs hidden"],
        rows: Float[Tensor, "paths hidden channels"],
        factors: Float[Tensor, " selected"],
    ) -> Float[Tensor, "pairs out channels"]:
        """The product of every pair, with weights that are made of ``hidden`` and ``rows``."""
        weights = path_weights(hidden, rows, factors, self.selection)
        return product_of_atoms(self.product, a, b, self.pairs, self.signs, weights, self.selection)

    def begin(self, couplings: "Couplings", *tensors: Tensor) -> Pass:
        """One pass over blocks of pairs."""
        return _PairPass(couplings, self, *tensors)


class _PairPass:
    def __init__(
        self,
        couplings: "Couplings",
        of: ProductOfPair,
        a: Tensor,
        b: Tensor,
        hidden: Tensor,
        rows: Tensor,
        factors: Tensor,
    ) -> None:
        self.couplings, self.of, self.atoms = couplings, of, (a, b)
        self.hidden, self.given, self.rows = hidden, (rows, factors), len(hidden)
        self.index = torch.tensor(of.selection, device=a.device)
        self.matrix = arranged(self.index, rows, factors)
        self.operands: list[Tensor] = []
        self.found: list[Tensor] = []

    def forward(self, part: slice) -> Tensor:
        first, second = (atoms[part] for atoms in self.of.pairs)
        both = zip(self.atoms, self.of.signs, strict=True)
        self.operands = [joined(x, first, second, sign).flatten(1) for x, sign in both]
        self.operands.append(self.hidden[part] @ self.matrix)
        left, right, weights = self.operands
        (z,) = self.couplings.compute((Z,), left, right, None, weights)
        return z.unflatten(1, (-1, self.atoms[0].shape[2]))

    def backward(self, part: slice, g: Tensor) -> None:
        left, right, weights = self.operands
        found = self.couplings.compute((X, Y, W), left, right, g.flatten(1), weights)
        *of_atoms, g_hidden, g_matrix = self._gradients()
        first, second = (atoms[part] for atoms in self.of.pairs)
        for piece, sign, into in zip(found[:2], self.of.signs, of_atoms, strict=True):
            joined_back(piece, first, second, sign, into)
        torch.mm(found[2], self.matrix.T, out=g_hidden[part])
        g_matrix.addmm_(self.hidden[part].T, found[2])

    def gradients(self) -> Sequence[Tensor]:
        *found, g_matrix = self._gradients()
        return *found, *arranged_back(self.index, *self.given, g_matrix)

    def _gradients(self) -> list[Tensor]:
        if not self.found:
            self.found = [torch.zeros_like(x) for x in (*self.atoms, self.hidden, self.matrix)]
        return self.found
