"""Linear maps between spherical tensors: one matrix per degree."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def degree_sizes(degree: int) -> list[int]:
    """Components of each degree in a spherical tensor: 1, 3, 5, ... up to ``2 * degree + 1``."""
    return [2 * l + 1 for l in range(degree + 1)]


class SphericalLinear(nn.Module):
    r"""Mix channels, degree by degree.

    .. math::
        y_{lm,b} = \sum_a x_{lm,a} W^{(l)}_{ab} / \sqrt{n_l}

    :math:`n_l` is the number of input channels of degree :math:`l`. Rotations and reflections act
    on :math:`lm` and commute with the map. Cost: one matrix product per degree.

    Args:
        channels_in: input channels of degree 0, 1, ...; or one number for all.
        channels_out: output channels, the same for every degree.
        degree: the highest degree.
    """

    def __init__(self, channels_in: int | Sequence[int], channels_out: int, degree: int) -> None:
        super().__init__()
        widths = [channels_in] * (degree + 1) if isinstance(channels_in, int) else list(channels_in)
        if len(widths) != degree + 1:
            raise ValueError(
                f"channels_in must name {degree + 1} widths for degrees 0..{degree}, got {widths}"
            )
        self.degree = degree
        self.weights = nn.ParameterList(torch.randn(n, channels_out) for n in widths)

    def forward(
        self,
        x: Float[Tensor, "atoms lm channels_in"] | Sequence[Float[Tensor, "atoms m channels_in"]],
        inputs: Sequence[Int[Tensor, " channels_in"]] | None = None,
    ) -> Float[Tensor, "atoms lm channels_out"]:
        """Map a spherical tensor, or the list of its degrees where they differ in channels.

        Args:
            x: the tensor, or its degrees.
            inputs: the input channels that are there, degree by degree; the others count as zero.
                By default all are.
        """
        parts = x.split(degree_sizes(self.degree), dim=1) if isinstance(x, Tensor) else x
        scaled = [weight / math.sqrt(weight.shape[0]) for weight in self.weights]
        if inputs is not None:
            scaled = [w.index_select(0, rows) for w, rows in zip(scaled, inputs, strict=True)]
        return torch.cat([part @ w for part, w in zip(parts, scaled, strict=True)], dim=1)

    def extra_repr(self) -> str:
        return ", ".join(f"l={l}: {w.shape[0]} -> {w.shape[1]}" for l, w in enumerate(self.weights))


class ElementLinear(nn.Module):
    r"""Mix channels, degree by degree, with matrices that belong to the atom's element.

    .. math::
        y_{i,lm,b} = \sum_a x_{i,lm,a} W^{(l)}_{z_i,ab} / \sqrt{n\, n_z}

    :math:`z_i` is the element of atom :math:`i`, :math:`n` the number of input channels,
    :math:`n_z` of elements. This is the product of the features with a one-hot element vector.
    Atoms come sorted by element.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        degree: the highest degree.
        num_elements: how many elements there are.
    """

    def __init__(
        self, channels_in: int, channels_out: int, degree: int, *, num_elements: int
    ) -> None:
        super().__init__()
        self.degree, self.num_elements = degree, num_elements
        self.weight = nn.Parameter(torch.randn(num_elements, degree + 1, channels_in, channels_out))

    def forward(
        self, x: Float[Tensor, "atoms lm channels_in"], counts: Sequence[int]
    ) -> Float[Tensor, "atoms lm channels_out"]:
        """Map atoms sorted by element; ``counts`` are the numbers of atoms of each element."""
        num_elements, _, channels_in, channels_out = self.weight.shape
        weights = (self.weight / math.sqrt(channels_in * num_elements)).unbind()
        rows = []
        for z, atoms in enumerate(x.split(list(counts))):
            if atoms.shape[0]:
                degrees = zip(
                    atoms.split(degree_sizes(self.degree), dim=1), weights[z].unbind(), strict=True
                )
                rows.append(torch.cat([x_l @ w for x_l, w in degrees], dim=1))
        if not rows:
            return x.new_zeros(0, (self.degree + 1) ** 2, channels_out)
        return torch.cat(rows)

    def extra_repr(self) -> str:
        z, degrees, n_in, n_out = self.weight.shape
        return f"{n_in} -> {n_out}, degree={degrees - 1}, num_elements={z}"
