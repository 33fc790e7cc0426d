r"""Powers of a function on a grid of the sphere, by one kernel for all that is between."""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from equiv.errors import EquivError
from equiv.partial import partial_gradients
from equiv.so3.grids import SphereGrid, antipodal_half
from equiv.tensor_products.grid_kernel import Transform
from equiv.tensor_products.lanes import Components, Operand, pointer
from equiv.tensor_products.powers_kernel import powers_library


class PowersForm:
    r"""Powers :math:`2 \dots \nu_\text{max}` of a signal, on spherical tensors.

    .. math::
        S(x, z) = \sum_\nu \sum_g w_g\, k_\nu(r_g)\, f(r_g)^\nu, \qquad
        f = \sum_i \alpha_i x_i Y_i, \quad k_\nu = \sum_j \gamma_{\nu j} z_{\nu j} Y_j, \qquad
        \text{powers} = \frac{\partial S}{\partial z}

    in every channel. The kernel computes first and second derivatives of S; third ones go through
    plain operations. If every point of the grid has its antipode, even and odd functions are kept
    apart and one point of each pair is enough.

    Args:
        grid: points and weights.
        scale: :math:`\alpha` by component.
        scales: :math:`\gamma_\nu` by component, for each power from 2.
        channels: how many there are.
    """

    def __init__(
        self,
        grid: SphereGrid,
        scale: Float[Tensor, " lm"],
        scales: Sequence[Float[Tensor, " lm_out"]],
        channels: int,
    ) -> None:
        try:
            grid, split = antipodal_half(grid), True
        except EquivError:
            split = False
        self.channels, self.points, self.highest = channels, len(grid), len(scales) + 1
        self.shape = (len(scales), len(scales[0]), channels)
        harmonics = grid.harmonics(isqrt(max(len(scale), len(scales[0])) - 1))
        orders = []
        for dim in (len(scale), len(scales[0])):
            even = [i for i in range(dim) if isqrt(i) % 2 == 0 or not split]
            orders.append((even, [i for i in range(dim) if i not in even]))
        (even, odd), (even_out, odd_out) = orders
        back = harmonics * grid.weights[:, None]
        self.values = [harmonics[:, i] * scale[i] for i in (even, odd)]
        self.values += [back[:, i] for i in (even_out, odd_out)]
        self.factors = torch.stack(list(scales))[:, even_out + odd_out].flatten()
        places = [i * channels for i in even + odd]
        out = [
            (n * len(scales[0]) + i) * channels
            for n in range(len(scales))
            for i in even_out + odd_out
        ]
        self.x, self.z = (
            Components(tuple(some), (1,) * len(some), len(some) * channels)
            for some in (places, out)
        )
        self._built: dict[torch.dtype, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_built": {}}  # addresses are for this process

    def available(self, dtype: torch.dtype) -> bool:
        """Whether the kernel can be had on this machine."""
        return powers_library(dtype) is not None

    def __call__(
        self, x: Float[Tensor, "rows lm channels"], plain: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "rows powers lm_out channels"]:
        """All powers; differentiable to any order.

        Args:
            x: plain numbers (:func:`equiv.tensor_products.lanes.is_plain`).
            plain: the same map in operations of torch.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            result: Any = _Powers.apply(self, plain, x)
            return result
        return self.run(x, None, None, powers=True)[1]

    def run(
        self, x: Tensor, u: Tensor | None, z: Tensor | None, *, powers: bool
    ) -> tuple[Tensor, Tensor]:
        """Derivatives of S by x (if z is given) and z (if ``powers``), or those along u."""
        x, u, z = (
            x.contiguous(),
            None if u is None else u.contiguous(),
            None if z is None else z.contiguous(),
        )
        if x.dtype not in self._built:
            self._built[x.dtype] = self._constants(x.dtype)
        template, transforms, factors, run, _ = self._built[x.dtype]
        operands = type(template).from_buffer_copy(template)
        for operand, tensor in zip(operands, (x, u, z), strict=True):
            operand.data = pointer(tensor)
        by_x = x.new_empty(x.shape if z is not None else 0)
        by_z = x.new_empty((len(x), *self.shape) if powers else 0)
        operands[0].gradient = pointer(by_x) if z is not None else None
        operands[2].gradient = pointer(by_z) if powers else None
        if len(x):
            threads = torch.get_num_threads()
            sizes = (len(x), self.channels, threads, self.points, self.highest)
            run(*sizes, operands, transforms, factors.data_ptr())
        return by_x, by_z

    def _constants(self, dtype: torch.dtype) -> tuple[Any, ...]:
        library: Any = powers_library(dtype)
        operands, transforms = (Operand * 3)(), (Transform * 2)()
        for operand, some in zip(operands, (self.x, self.x, self.z), strict=True):
            operand.size, operand.table = len(some), some.table.data_ptr()
            operand.row = some.size
        matrices = [part.to(dtype).contiguous() for part in self.values]
        transposed = [matrix.T.contiguous() for matrix in matrices]
        for n, matrix in enumerate(matrices):
            transforms[n // 2].sizes[n % 2] = matrix.shape[1]
            transforms[n // 2].matrices[n % 2] = matrix.data_ptr()
            transforms[n // 2].transposed[n % 2] = transposed[n].data_ptr()
        factors = self.factors.to(dtype).contiguous()
        return operands, transforms, factors, library.powers, matrices + transposed


class _Powers(Function):
    """The derivative of S by z."""

    @staticmethod
    def forward(ctx: Any, form: PowersForm, plain: Any, x: Tensor) -> Tensor:
        ctx.form, ctx.plain = form, plain
        ctx.save_for_backward(x)
        return form.run(x, None, None, powers=True)[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return None, None, _Gradient.apply(ctx.form, ctx.plain, x, grads[0])


class _Gradient(Function):
    """The derivative of S by x."""

    @staticmethod
    def forward(ctx: Any, form: PowersForm, plain: Any, x: Tensor, z: Tensor) -> Tensor:
        ctx.form, ctx.plain = form, plain
        ctx.save_for_backward(x, z)
        return form.run(x, None, z, powers=False)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, z = ctx.saved_tensors
        if torch.is_grad_enabled():  # third derivatives

            def first(x: Tensor, z: Tensor) -> Any:
                return torch.autograd.grad(ctx.plain(x), x, z, create_graph=True)

            found = partial_gradients(first, [x, z], [True, True], grads)
        else:
            found = ctx.form.run(x, grads[0], z, powers=True)
        return None, None, *found
