"""Many-body products: symmetric powers of an atom's features, weighted by its element."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.so3 import symmetric_couplings


class SymmetricPolynomial(ExactConstants):
    r"""Every equivariant polynomial of one spherical tensor, up to a given order, into one degree.

    .. math::
        y_{m,c} = \sum_{\nu=1}^{\nu_\text{max}} \sum_k w^{(\nu)}_{z,k,c} \sum_{i_1 \dots i_\nu}
        U^{(\nu)}_{k m,\, i_1 \dots i_\nu}\; x_{i_1 c} \cdots x_{i_\nu c}

    :math:`i = (l, m)` runs over the components of the input, :math:`c` over channels, which do not
    mix; the :math:`U^{(\nu)}_k` are an orthonormal basis of the equivariant maps from the
    symmetric :math:`\nu`-fold power of the input to degree :math:`L`
    (:func:`equiv.so3.symmetric_couplings`), :math:`w` weights of element :math:`z`.

    Horner's rule: the two highest orders are contracted with the pairs :math:`x_i x_j` and with
    :math:`x_i` in one matrix product each, the rest one factor at a time. With :math:`d` input
    components the cost per atom and channel is :math:`(2L+1)\, d^{\nu_\text{max}}` multiply-adds.

    Args:
        degree_in: highest degree of the input; :math:`d` = ``(degree_in + 1)**2``.
        degree_out: :math:`L`.
        channels: number of channels.
        correlation: :math:`\nu_\text{max}`, the highest order.
        num_elements: number of chemical elements.
    """

    def __init__(
        self, degree_in: int, degree_out: int, channels: int, *, correlation: int, num_elements: int
    ) -> None:
        super().__init__()
        self.dim, self.m = (degree_in + 1) ** 2, 2 * degree_out + 1
        self.correlation = correlation
        # Factors contracted by a matrix product at the start: two of the highest order, one of the
        # order below it.
        first = {1: {1: 1}, 2: {2: 1}}.get(correlation, {correlation: 2, correlation - 1: 1})
        self.weights = nn.ParameterList()
        for order in range(1, correlation + 1):
            couplings = symmetric_couplings(
                degree_in, order, degree_out
            )  # [k, m, i1, ..., i_order]
            count, head = couplings.shape[0], first.get(order, 0)
            axes = [0, *range(2, 2 + head), 1, *range(2 + head, 2 + order)]
            couplings = couplings.permute(axes)
            if head == 2:
                couplings = _fold_pairs(couplings)
            self.register_constant(f"couplings_{order}", couplings.flatten(1))
            self.weights.append(torch.randn(num_elements, count, channels) / max(count, 1))

    def forward(
        self,
        x: Float[Tensor, "channels atoms lm"],
        pairs: Float[Tensor, "channels atoms pairs"],
        element: int,
    ) -> Float[Tensor, "channels atoms m"]:
        """Polynomials of atoms of one element; ``pairs`` are products of two components."""
        channels, _, dim = x.shape
        top = self.correlation
        if top == 1:
            return x @ self._coefficients(1, element).view(channels, dim, self.m)
        if top == 2:
            t = torch.baddbmm(
                self._coefficients(1, element).view(channels, 1, -1),
                x,
                self._matrix(2, element, dim),
            )
            remaining = 1
        else:
            remaining = top - 2
            t = self._coefficients(remaining, element).view(channels, 1, -1)
            t = torch.baddbmm(t, x, self._matrix(top - 1, element, dim))
            t = torch.baddbmm(t, pairs, self._matrix(top, element, dim * (dim + 1) // 2))
        while remaining:
            t = (t.unflatten(-1, (-1, dim)) @ x.unsqueeze(-1)).squeeze(-1)
            remaining -= 1
            if remaining:
                t = t + self._coefficients(remaining, element).view(channels, 1, -1)
        return t

    def _coefficients(self, order: int, element: int) -> Float[Tensor, "channels coefficients"]:
        return self.weights[order - 1][element].T @ getattr(self, f"couplings_{order}")

    def _matrix(
        self, order: int, element: int, rows: int
    ) -> Float[Tensor, "channels rows columns"]:
        coefficients = self._coefficients(order, element)
        return coefficients.view(coefficients.shape[0], rows, -1)


def _fold_pairs(couplings: Float[Tensor, "k i j *rest"]) -> Float[Tensor, "k pairs *rest"]:
    """Keep each symmetric pair of components once; the off-diagonal ones stand for two."""
    dim = couplings.shape[1]
    left, right = torch.triu_indices(dim, dim)
    twice = torch.where(left == right, 1.0, 2.0).to(couplings.dtype)
    return couplings[:, left, right] * twice.view(-1, *[1] * (couplings.dim() - 3))


class ManyBodyProduct(ExactConstants):
    r"""Product basis: from two-body features to features of body order ``correlation + 1``.

    One :class:`SymmetricPolynomial` for each output degree :math:`0 \dots L_\text{max}`. (Atomic
    cluster expansion, Drautz 2019; MACE, Batatia et al. 2022, eq. 10.) Rotations and reflections
    act on the component axis.

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
        if not 1 <= correlation <= 4:
            raise ValueError(f"correlation must be 1, 2, 3 or 4, got {correlation}")
        self.degree_in, self.correlation = degree_in, correlation
        # Pairs are picked by a matrix product: on a CPU its gradients are several times faster
        # than those of an index.
        dim = (degree_in + 1) ** 2
        left, right = torch.triu_indices(dim, dim)
        self.register_constant("left", torch.eye(dim)[:, left])
        self.register_constant("right", torch.eye(dim)[:, right])
        self.left: Tensor
        self.right: Tensor
        self.polynomials = nn.ModuleList(
            SymmetricPolynomial(
                degree_in, l, channels, correlation=correlation, num_elements=num_elements
            )
            for l in range(degree_out + 1)
        )

    def forward(
        self, x: Float[Tensor, "atoms lm channels"], counts: Sequence[int]
    ) -> Float[Tensor, "atoms lm_out channels"]:
        """Products for atoms sorted by element, ``counts`` atoms of each."""
        x = x.permute(2, 0, 1).contiguous()
        blocks = []
        for element, atoms in enumerate(x.split(list(counts), dim=1)):
            pairs = (atoms @ self.left) * (atoms @ self.right) if self.correlation > 2 else atoms
            blocks.append(
                torch.cat(
                    [polynomial(atoms, pairs, element) for polynomial in self.polynomials], dim=-1
                )
            )
        return torch.cat(blocks, dim=1).permute(1, 2, 0)

    def extra_repr(self) -> str:
        degree_out = len(self.polynomials) - 1
        return f"l_in={self.degree_in}, l_out={degree_out}, correlation={self.correlation}"


MANY_BODY_PRODUCTS: dict[str, type[ManyBodyProduct]] = {"clebsch_gordan": ManyBodyProduct}
"""Many-body products by the name of their tensor product, as models take it in ``product=``."""
