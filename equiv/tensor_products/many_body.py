"""Many-body products: symmetric powers of an atom's features, weighted by its element."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.so3 import num_symmetric_couplings
from equiv.tensor_products.monomials import (
    ONE,
    Factors,
    columns_of,
    components,
    monomial_couplings,
    num_products,
    row_groups,
)


class SymmetricPolynomial(ExactConstants):
    r"""Every equivariant polynomial of one spherical tensor, up to a given order, into one degree.

    .. math::
        y_{m,c} = \sum_{\nu=1}^{\nu_\text{max}} \sum_k w^{(\nu)}_{z,k,c} \sum_{i_1 \dots i_\nu}
        U^{(\nu)}_{k m,\, i_1 \dots i_\nu}\; x_{i_1 c} \cdots x_{i_\nu c}

    :math:`i = (l, m)` runs over the components of the input, :math:`c` over channels, which do not
    mix; the :math:`U^{(\nu)}_k` are an orthonormal basis of the equivariant maps from the
    symmetric :math:`\nu`-fold power of the input to degree :math:`L`
    (:func:`equiv.so3.symmetric_couplings`), :math:`w` weights of element :math:`z`.

    This module holds the weights; :class:`ManyBodyProduct` evaluates all degrees together. Applied
    by itself it gives its own degree.

    Args:
        degree_in: highest degree of the input.
        degree_out: :math:`L`.
        channels: number of channels.
        correlation: :math:`\nu_\text{max}`, the highest order, 1 to 4.
        num_elements: number of chemical elements.
    """

    def __init__(
        self, degree_in: int, degree_out: int, channels: int, *, correlation: int, num_elements: int
    ) -> None:
        super().__init__()
        if not 1 <= correlation <= 4:
            raise EquivError(f"correlation must be 1, 2, 3 or 4, got {correlation}")
        self.degree_in, self.degree_out, self.correlation = degree_in, degree_out, correlation
        couplings = monomial_couplings(degree_in, degree_out, correlation)
        self.register_constant("couplings", couplings)
        self.couplings: Tensor
        counts = [
            num_symmetric_couplings(degree_in, nu, degree_out) for nu in range(1, correlation + 1)
        ]
        self.weights = nn.ParameterList(
            torch.randn(num_elements, count, channels) / max(count, 1) for count in counts
        )
        self._evaluation = _Evaluation(degree_in, [degree_out], correlation)

    def coefficients(self) -> Float[Tensor, "elements channels slots"]:
        """The polynomial of each element and channel, in the order of its monomials."""
        return torch.cat(list(self.weights), dim=1).mT @ self.couplings

    def forward(
        self, x: Float[Tensor, "atoms lm channels"], counts: Sequence[int]
    ) -> Float[Tensor, "atoms m channels"]:
        """Polynomials of atoms sorted by element, ``counts`` atoms of each."""
        return self._evaluation(x, [self.coefficients()], counts)

    def extra_repr(self) -> str:
        return f"l_in={self.degree_in}, l_out={self.degree_out}, correlation={self.correlation}"


class ManyBodyProduct(nn.Module):
    r"""Product basis: from two-body features to features of body order ``correlation + 1``.

    One :class:`SymmetricPolynomial` for each output degree :math:`0 \dots L_\text{max}`. (Atomic
    cluster expansion, Drautz 2019; MACE, Batatia et al. 2022, eq. 10.) Rotations and reflections
    act on the component axis.

    Most couplings vanish: a half turn about a coordinate axis multiplies every component by 1 or
    -1, so components fall into four classes of nearly equal size, and a component of the output
    contains only monomials of its own class. Sorted by class, the polynomials are a few small dense
    matrix products per channel whose right-hand sides are products of two components
    (:mod:`equiv.tensor_products.monomials`). For degree 3 into degrees 0 and 1 and order 3 they
    take 1545 multiply-adds per atom and channel, against 9800 with dense couplings, on 109 products
    instead of 136. The weights are folded into the couplings once per call and element:
    :math:`\text{channels} \times \text{couplings} \times 1545`.

    Args:
        degree_in: highest degree of the input.
        degree_out: highest degree of the output.
        channels: number of channels.
        correlation: highest order, 1 to 4.
        num_elements: number of chemical elements.
    """

    def __init__(
        self, degree_in: int, degree_out: int, channels: int, *, correlation: int, num_elements: int
    ) -> None:
        super().__init__()
        self.degree_in, self.correlation = degree_in, correlation
        self.polynomials = nn.ModuleList(
            SymmetricPolynomial(
                degree_in, l, channels, correlation=correlation, num_elements=num_elements
            )
            for l in range(degree_out + 1)
        )
        self._evaluation = _Evaluation(degree_in, range(degree_out + 1), correlation)

    def forward(
        self, x: Float[Tensor, "atoms lm channels"], counts: Sequence[int]
    ) -> Float[Tensor, "atoms lm_out channels"]:
        """Products for atoms sorted by element, ``counts`` atoms of each."""
        polynomials = cast(Sequence[SymmetricPolynomial], self.polynomials)
        return self._evaluation(x, [p.coefficients() for p in polynomials], counts)


class _Evaluation(ExactConstants):
    r"""Polynomials of the same tensor, of one degree after the other.

    .. math::
        y_{mc} = \sum_g \sum_{q} C_{gq}(x_c) \sum_r V^{z}_{g m q r,c}\, R_{gr}(x_c)

    The rows :math:`R` of a group :math:`g` are products of one or two components, its columns
    :math:`C` those that complete them (:mod:`equiv.tensor_products.monomials`); the inner sum is
    one matrix product per channel, element and group.
    """

    def __init__(self, degree_in: int, degrees_out: Sequence[int], correlation: int) -> None:
        super().__init__()
        members = components(degree_in)
        self.sizes = [len(group) for group in members]
        order = torch.tensor([i for group in members for i in group if i != ONE])
        self.register_buffer("order", order, persistent=False)
        self.order: Tensor
        self.groups = row_groups(correlation)
        self.rows = [num_products(degree_in, group.rows) for group in self.groups]
        # For each group and degree the blocks of columns, and how many columns there are.
        blocks = [[columns_of(group, l) for l in degrees_out] for group in self.groups]
        self.finish = [[factors for block in group for _, factors in block] for group in blocks]
        sizes = [
            [[num_products(degree_in, (factors,)) for _, factors in block] for block in group]
            for group in blocks
        ]
        self.columns = [[sum(size) for size in group] for group in sizes]
        dim = sum(2 * l + 1 for l in degrees_out)
        starts = [sum(2 * l + 1 for l in degrees_out[:k]) for k in range(len(degrees_out))]
        outputs = [
            start + m
            for group, widths in zip(blocks, sizes, strict=True)
            for start, block, width in zip(starts, group, widths, strict=True)
            for (m, _), columns in zip(block, width, strict=True)
            for _ in range(columns)
        ]
        self.register_constant("summation", torch.eye(dim)[:, outputs])
        self.summation: Tensor

    def forward(
        self,
        x: Float[Tensor, "atoms lm channels"],
        coefficients: Sequence[Float[Tensor, "elements channels slots"]],
        counts: Sequence[int],
    ) -> Float[Tensor, "atoms m channels"]:
        """Sums for atoms sorted by element, with the ``coefficients`` of each degree."""
        counts = list(counts)
        atoms, _, channels = x.shape
        # Atoms last: a product of two components is then one of long rows of numbers, and the
        # products are the right-hand side of the matrix products as they are.
        h = x.index_select(1, self.order).permute(2, 1, 0)
        h = torch.cat([x.new_ones(channels, 1, atoms), h], dim=1)
        products = _Products(h.split(self.sizes, dim=1))
        # [group][degree] of [elements, channels, columns, rows]
        matrices = self._matrices(coefficients)
        sums = []
        for group, of_degrees in zip(self.groups, matrices, strict=True):
            if not of_degrees:  # a scalar needs only some of the groups
                continue
            matrix = torch.cat(of_degrees, dim=2) if len(of_degrees) > 1 else of_degrees[0]
            rows = products.cat(group.rows).split(counts, dim=2)
            sums.append(torch.cat([m @ r for m, r in zip(matrix.unbind(), rows, strict=True)], 2))
        finish = products.cat([factors for group in self.finish for factors in group])
        return (self.summation @ (torch.cat(sums, dim=1) * finish)).permute(2, 1, 0)

    def _matrices(
        self, coefficients: Sequence[Float[Tensor, "elements channels slots"]]
    ) -> list[list[Float[Tensor, "elements channels columns rows"]]]:
        matrices: list[list[Tensor]] = [[] for _ in self.groups]
        for k, v in enumerate(coefficients):
            sizes = [c[k] * r for c, r in zip(self.columns, self.rows, strict=True)]
            for g, part in enumerate(v.split(sizes, dim=2)):
                if sizes[g]:
                    matrices[g].append(part.unflatten(2, (self.columns[g][k], self.rows[g])))
        return matrices


class _Products:
    """Products of components ``[channels, products, atoms]``, each made once."""

    def __init__(self, classes: Sequence[Float[Tensor, "channels components atoms"]]) -> None:
        self._made: dict[Factors, Tensor] = {(a,): x for a, x in enumerate(classes)}

    def __getitem__(self, factors: Factors) -> Float[Tensor, "channels products atoms"]:
        if factors not in self._made:
            a, b = (self._made[(f,)] for f in factors)
            self._made[factors] = (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1, 2)
        return self._made[factors]

    def cat(self, several: Sequence[Factors]) -> Float[Tensor, "channels products atoms"]:
        return torch.cat([self[factors] for factors in several], dim=1)
