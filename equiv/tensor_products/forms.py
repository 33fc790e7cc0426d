"""Forms of three tensors and weights whose derivatives are computed by kernels."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.multilinear import MultilinearForm
from equiv.tensor_products.lanes import Components, Operand, pointer

X, Y, Z, W = range(4)
"""The operands of a form."""


class Form(MultilinearForm):
    r"""A number :math:`S(x, y, z, w)` that defines a product as its derivative by z.

    S is linear in x, y and z (and w, but for :class:`WeightedGridForm`), and channels and rows do
    not mix. One kernel computes its derivatives by any of the operands together. Rows are matrices;
    where the components of an operand are in them, :class:`Components` says.

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

    def product(
        self,
        x: Float[Tensor, "rows size1"],
        y: Float[Tensor, "rows size2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows size"]:
        """The product of rows; differentiable to any order.

        For tensors that are plain numbers (:func:`equiv.tensor_products.lanes.is_plain`).
        """
        return self.derivative(Z, x, y, None, weight)

    def compute(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        own = wanted[0] if len(wanted) == 1 else None  # which no derivative depends on
        tensors = [None if n == own or t is None else t.contiguous() for n, t in enumerate(given)]
        like = next(t for t in tensors[:W] if t is not None)
        rows, weights = like.shape[0], given[W]
        shared = weights is None or (weights.shape[0] == 1 and rows != 1)
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
