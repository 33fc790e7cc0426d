"""Forms of three tensors and weights whose derivatives are computed by kernels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from equiv.tensor_products.lanes import Components, Operand, pointer

X, Y, Z, W = range(4)
"""The operands of a form."""


class Form(ABC):
    r"""A number :math:`S(x, y, z, w)` that defines a product as its derivative.

    .. math::
        \text{product}(x, y, w) = \frac{\partial S}{\partial z}, \qquad
        \partial_u \Big\langle v, \frac{\partial S}{\partial z} \Big\rangle =
        \frac{\partial S}{\partial u}\Big|_{z = v}

    S is linear in x, y and z, and channels and rows do not mix. So the gradients of the product are
    derivatives of the same form with the gradient of the result in place of z, and one kernel, that
    can differentiate the form by any of its operands, is all there is. Rows are matrices; where the
    components of an operand are in them, :class:`Components` says.

    Args:
        operands: x, y, z and the weights.
        channels: how many there are.
    """

    def __init__(
        self, operands: tuple[Components, Components, Components, Components], channels: int
    ) -> None:
        self.operands, self.channels = operands, channels
        # operands whose components do not fill their rows
        self._gaps = [
            sum(channels if step else 1 for step in some.steps) < some.size for some in operands
        ]
        self._kernels: dict[torch.dtype, Kernel] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kernels": {}}  # addresses are for this process

    @abstractmethod
    def available(self, dtype: torch.dtype) -> bool:
        """Whether the kernel can be had on this machine."""
        raise NotImplementedError

    @abstractmethod
    def kernel(self, dtype: torch.dtype) -> "Kernel":
        """The kernel with the constants of this form."""
        raise NotImplementedError

    @abstractmethod
    def gradients(
        self, wanted: int, asked: Sequence[int], shared: bool, given: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Derivatives of the derivative by ``wanted``, as functions that can be differentiated."""
        raise NotImplementedError

    def product(
        self,
        x: Float[Tensor, "rows size1"],
        y: Float[Tensor, "rows size2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows size"]:
        """The product of rows; differentiable to any order.

        For tensors that are plain numbers (:func:`equiv.tensor_products.lanes.is_plain`).
        """
        shared = weight is None or (weight.shape[0] == 1 and x.shape[0] != 1)
        if torch.is_grad_enabled():
            return self.derivative(Z, shared, x, y, None, weight)
        return self.derivatives([Z], shared, x, y, None, weight)[0]

    def derivative(self, wanted: int, shared: bool, *given: Tensor | None) -> Tensor:
        """The derivative by one operand; differentiable."""
        result: Any = _Derivative.apply(self, wanted, shared, *given)
        return result

    def derivatives(
        self, wanted: Sequence[int], shared: bool, *given: Tensor | None
    ) -> list[Tensor]:
        """Derivatives by some operands, computed together.

        Args:
            wanted: which operands.
            shared: whether all rows have the same weights.
            given: the four operands; None where not needed.
        """
        tensors = [None if t is None else t.contiguous() for t in given]
        like = next(t for t in tensors[:W] if t is not None)
        rows = like.shape[0]
        if like.dtype not in self._kernels:
            self._kernels[like.dtype] = self.kernel(like.dtype)
        kernel = self._kernels[like.dtype]
        operands = type(kernel.operands).from_buffer_copy(kernel.operands)
        if shared:
            operands[W].row = 0
        for operand, tensor in zip(operands, tensors, strict=True):
            operand.data = pointer(tensor)
        results = []
        for n in wanted:
            new = like.new_zeros if self._gaps[n] or not rows else like.new_empty
            result = new(1 if shared and n == W else rows, self.operands[n].size)
            operands[n].gradient = result.data_ptr()
            results.append(result)
        if rows:
            kernel.run(rows, self.channels, torch.get_num_threads(), operands)
        return results


class Kernel:
    """A kernel with its constants.

    Attributes:
        run: takes rows, channels, threads and the operands.
        operands: for the operands of each call, complete but for tensors.
        kept: whatever must live as long.
    """

    def __init__(self, form: Form, run: Callable[..., None], kept: Any) -> None:
        self.run, self.kept = run, kept
        self.operands = (Operand * 4)()
        for operand, components in zip(self.operands, form.operands, strict=True):
            operand.size, operand.table = len(components), components.table.data_ptr()
            operand.row = components.size


class _Derivative(Function):
    """The derivative of a form by one operand, as a function of the three others."""

    @staticmethod
    def forward(ctx: Any, form: Form, wanted: int, shared: bool, *given: Tensor | None) -> Tensor:
        ctx.form, ctx.wanted, ctx.shared = form, wanted, shared
        ctx.save_for_backward(*given)
        return form.derivatives([wanted], shared, *given)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        given = list(ctx.saved_tensors)
        given[ctx.wanted] = grads[0]
        asked = [n for n, need in enumerate(ctx.needs_input_grad[3:]) if need]
        if torch.is_grad_enabled():  # derivatives of the derivatives may be asked for
            found = ctx.form.gradients(ctx.wanted, asked, ctx.shared, given)
        else:
            found = ctx.form.derivatives(asked, ctx.shared, *given)
        results: list[Any] = [None] * 4
        for n, result in zip(asked, found, strict=True):
            results[n] = result
        return None, None, None, *results
