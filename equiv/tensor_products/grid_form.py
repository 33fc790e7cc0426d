r"""Products of functions on a grid of the sphere, by one kernel for all that is between."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.partial import partial_gradients
from equiv.so3 import SphereGrid, antipodal_half
from equiv.tensor_products.forms import Form, Kernel, W, X, Y, Z
from equiv.tensor_products.grid_kernel import Transform, grid_library
from equiv.tensor_products.lanes import Components


@dataclass(frozen=True)
class Places:
    """The components of an operand, and where they are.

    Attributes:
        components: :math:`l^2 + l + m` of each.
        offsets: see :class:`Components`.
        steps: see :class:`Components`.
        weights: which weight multiplies each; empty if there are none.
        size: numbers in a row.
    """

    components: tuple[int, ...]
    offsets: tuple[int, ...]
    steps: tuple[int, ...]
    weights: tuple[int, ...]
    size: int

    def by_parity(self) -> "Places":
        """The same with even degrees first."""
        order = sorted(range(len(self.components)), key=lambda n: isqrt(self.components[n]) % 2)
        components, offsets, steps, weights = (
            tuple(some[n] for n in order) if some else ()
            for some in (self.components, self.offsets, self.steps, self.weights)
        )
        return Places(components, offsets, steps, weights, self.size)


def stack_places(dim: int, channels: int, step: int) -> Places:
    """Components of a spherical tensor without weights."""
    components = tuple(range(dim))
    offsets = tuple(i * channels for i in components)
    return Places(components, offsets, (step,) * dim, (), dim * channels)


class GridForm(Form):
    r"""The integral of three functions, as a sum over the points of a grid.

    .. math::
        S(x, y, z) = \sum_g w_g\, f(r_g)\, h(r_g)\, k(r_g), \qquad
        f(r) = \sum_i \alpha_i\, x_i\, Y_i(r)

    in every channel, and so on with scales :math:`\beta` and :math:`\gamma` for :math:`h` and
    :math:`k`. If every point of the grid has its antipode, even and odd functions are kept apart
    and one point of each pair is enough: :math:`\tfrac14 G (d_x + d_y + d_z)` multiply-adds for
    each row and channel, with :math:`G` points and tensors of :math:`d` components.

    Args:
        grid: points and weights.
        scales: :math:`\alpha, \beta, \gamma` by component.
        places: components of x, y and z.
        channels: how many there are.
        weights: see :class:`WeightedGridForm`.
    """

    def __init__(
        self,
        grid: SphereGrid,
        scales: Sequence[Float[Tensor, " lm"]],
        places: Sequence[Places],
        channels: int,
        weights: Components | None = None,
    ) -> None:
        try:
            grid, split = antipodal_half(grid), True
        except EquivError:
            split = False
        places = [some.by_parity() if split else some for some in places]
        x, y, z = (Components(some.offsets, some.steps, some.size) for some in places)
        super().__init__((x, y, z, weights or Components((), (), 0)), channels)
        self.points, self.places = len(grid), places
        harmonics = grid.harmonics(max(isqrt(max(some.components)) for some in places))
        self.values: list[tuple[Tensor, Tensor]] = []
        for n, (some, scale) in enumerate(zip(places, scales, strict=True)):
            index = list(some.components)
            values = harmonics[:, index] * scale[index]
            values = values * grid.weights[:, None] if n == Z else values
            even = sum(isqrt(i) % 2 == 0 for i in index) if split else len(index)
            self.values.append((values[:, :even], values[:, even:]))

    def available(self, dtype: torch.dtype) -> bool:
        return grid_library(dtype) is not None

    def kernel(self, dtype: torch.dtype) -> Kernel:
        library: Any = grid_library(dtype)
        transforms, kept = (Transform * 3)(), []
        for transform, some, values in zip(transforms, self.places, self.values, strict=True):
            parts = [part.to(dtype).contiguous() for part in values]
            weights = torch.tensor(some.weights, dtype=torch.int64)
            transform.sizes[:] = [part.shape[1] for part in parts]
            transposed = [part.T.contiguous() for part in parts]
            transform.matrices[:] = [part.data_ptr() for part in parts]
            transform.transposed[:] = [part.data_ptr() for part in transposed]
            transform.weights = weights.data_ptr()
            kept += [*parts, *transposed, weights]
        points = self.points

        def run(rows: int, channels: int, threads: int, operands: Any) -> None:
            library.multiply(rows, channels, threads, points, operands, transforms)

        return Kernel(self, run, kept)


class WeightedGridForm(GridForm):
    r"""The same with weights of all components, in the same kernel.

    .. math::
        f(r) = \sum_i a_i\, \alpha_i\, x_i\, Y_i(r)

    and so on with weights :math:`b` and :math:`c` of :math:`h` and :math:`k`. The form is not
    linear in the weights: second derivatives multiply by them in steps of their own, before and
    after a :class:`GridForm`.

    Args:
        grid: see :class:`GridForm`.
        scales: see :class:`GridForm`.
        places: see :class:`GridForm`; with the number of a weight for each component.
        channels: see :class:`GridForm`.
        weights: where the weights are.
    """

    def __init__(
        self,
        grid: SphereGrid,
        scales: Sequence[Float[Tensor, " lm"]],
        places: Sequence[Places],
        channels: int,
        weights: Components,
    ) -> None:
        super().__init__(grid, scales, places, channels, weights)
        self.plain = GridForm(grid, scales, places, channels)
        # for every number of a row of x, y and z the place of its weight
        self.factors = []
        for some in places:
            index = torch.zeros(some.size, dtype=torch.int64)
            for offset, step, n in zip(some.offsets, some.steps, some.weights, strict=True):
                for c in range(channels if step else 1):
                    index[offset + c * step] = weights.offsets[n] + c * weights.steps[n]
            self.factors.append(index)

    def derivatives(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        if Z in wanted or not torch.is_grad_enabled():
            return super().derivatives(wanted, *given)
        # not linear in the weights: what follows has none
        x, y, grad, weight = given
        needed = [n in wanted for n in (X, Y, W)]
        found = partial_gradients(self._in_steps, [x, y, weight], needed, [grad])
        return [part for part in found if part is not None]

    def _in_steps(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        a, b, c = (weight.index_select(1, index) for index in self.factors)
        return self.plain.product(x * a, y * b, None) * c
