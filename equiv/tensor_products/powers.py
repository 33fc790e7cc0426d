r"""Many-body products that are powers of something."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.errors import EquivError


class PowerProduct(ExactConstants):
    r"""Many-body product whose terms are fixed functions of each channel.

    .. math::
        y_{lm,c} = \sum_t w_{t,z,l,c}\; P^{(t)}_{lm}(x_c)

    The terms :math:`P^{(t)}` (:meth:`powers`) are equivariant polynomials of a spherical tensor;
    the first is the tensor itself. There is one weight :math:`w` for each term, element :math:`z`,
    degree and channel, where :class:`ManyBodyProduct` has one for each coupling. Every component of
    every term has mean square 1 if the components of :math:`x` are independent standard normal
    numbers.

    Rotations and reflections act on the component axis.

    Args:
        degree_in: highest degree of the input.
        degree_out: highest degree of the output, at most ``degree_in``.
        channels: number of channels.
        correlation: highest power, 1 to 4.
        num_elements: number of chemical elements.
        terms: how many terms there are.

    Raises:
        EquivError: the correlation is out of range, or ``degree_out`` above ``degree_in``.
    """

    def __init__(
        self,
        degree_in: int,
        degree_out: int,
        channels: int,
        *,
        correlation: int,
        num_elements: int,
        terms: int,
    ) -> None:
        super().__init__()
        if not 1 <= correlation <= 4:
            raise EquivError(f"correlation must be 1, 2, 3 or 4, got {correlation}")
        if not 0 <= degree_out <= degree_in:
            raise EquivError(f"degree_out must be 0 up to degree_in={degree_in}, got {degree_out}")
        self.degree_in, self.degree_out, self.correlation = degree_in, degree_out, correlation
        self.weight = nn.Parameter(
            torch.randn(terms, num_elements, degree_out + 1, channels) / math.sqrt(terms)
        )

    @abstractmethod
    def powers(
        self, x: Float[Tensor, "atoms lm channels"]
    ) -> list[Float[Tensor, "atoms lm_out channels"]]:
        """All terms but the first, which is the input."""
        raise NotImplementedError

    def forward(
        self, x: Float[Tensor, "atoms lm channels"], counts: Sequence[int]
    ) -> Float[Tensor, "atoms lm_out channels"]:
        """Products for atoms sorted by element, ``counts`` atoms of each."""
        terms = [x[:, : (self.degree_out + 1) ** 2], *self.powers(x)]
        # [terms, elements, lm, channels]
        weight = torch.cat(
            [
                w.unsqueeze(2).expand(-1, -1, 2 * l + 1, -1)
                for l, w in enumerate(self.weight.unbind(2))
            ],
            dim=2,
        )
        of_atoms = [
            w.unsqueeze(1).expand(-1, count, -1, -1)
            for w, count in zip(weight.unbind(1), counts, strict=True)
        ]
        products = zip(terms, torch.cat(of_atoms, dim=1).unbind(), strict=True)
        first, *rest = (term * w for term, w in products)
        return sum(rest, first)

    def extra_repr(self) -> str:
        return f"l_in={self.degree_in}, l_out={self.degree_out}, correlation={self.correlation}"


def degree_scales(scales: Sequence[float], degree: int) -> Float[Tensor, " lm"]:
    """One number for each degree, repeated for its components; float64."""
    return torch.tensor(
        [scales[l] for l in range(degree + 1) for _ in range(2 * l + 1)], dtype=torch.float64
    )


def columns(x: Float[Tensor, "atoms lm channels"]) -> Float[Tensor, "lm atoms_channels"]:
    """Atoms and channels last, so that one matrix product serves all of them."""
    atoms, components, channels = x.shape
    return x.permute(1, 0, 2).reshape(components, atoms * channels)


def from_columns(
    y: Float[Tensor, "lm_out atoms_channels"], x: Float[Tensor, "atoms lm channels"]
) -> Float[Tensor, "atoms lm_out channels"]:
    """Back to the layout of ``x``."""
    return y.unflatten(1, (x.shape[0], x.shape[2])).transpose(0, 1)
