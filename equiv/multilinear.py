"""Forms that are linear in each of several tensors, and their derivatives of every order."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equiv.needed import is_needed


class MultilinearForm(ABC):
    r"""A number :math:`S(a_0, \dots, a_n)` that is linear in each of several tensors.

    The products of this package are derivatives of such forms, by the argument that stands for the
    gradient of the result. And since S is linear in every :math:`a_k`, a derivative of a derivative
    is a derivative of S again, with what comes in as the gradient, :math:`v`, in place of
    :math:`a_k`:

    .. math::
        \partial_{a_m} \Big\langle v, \frac{\partial S}{\partial a_k} \Big\rangle
        = \frac{\partial S}{\partial a_m} \Big|_{a_k = v}

    So :meth:`compute` is all that a form needs for gradients of any order, and everything else
    about them is said here.
    """

    @abstractmethod
    def compute(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        r"""The derivatives :math:`\partial S / \partial a_k` for all k in ``wanted``, as numbers.

        Args:
            wanted: by which arguments.
            given: all arguments. That of a single k may be None, for the derivative does not depend
                on it; if it is not, it has the shape of the result.
        """
        raise NotImplementedError

    def derivatives(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        """The same, differentiable to any order."""
        if not torch.is_grad_enabled():
            return self.compute(wanted, *given)
        arguments = list(given)
        if len(wanted) == 1 and (own := arguments[wanted[0]]) is not None:
            arguments[wanted[0]] = own.detach()
        return _Derivatives.apply(self, tuple(wanted), *arguments)

    def derivative(self, wanted: int, *given: Tensor | None) -> Tensor:
        """The derivative by one argument, differentiable to any order."""
        return self.derivatives((wanted,), *given)[0]


class _Derivatives(Function):
    """Some derivatives of a form as functions of its arguments."""

    @staticmethod
    def forward(ctx: Any, form: MultilinearForm, wanted: Sequence[int], *given: Tensor) -> Any:
        ctx.form, ctx.wanted = form, wanted
        ctx.save_for_backward(*given)
        ctx.set_materialize_grads(False)
        return tuple(form.compute(wanted, *given))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        given = ctx.saved_tensors
        present = [m for m, argument in enumerate(given) if argument is not None]
        needed = [m for n, m in enumerate(present) if is_needed(ctx, 2 + m, n)]
        sums: list[Any] = [None] * len(given)
        for k, grad in zip(ctx.wanted, grads, strict=True):
            asked = [m for m in needed if m != k]
            if grad is None or not asked:
                continue
            found = ctx.form.derivatives(asked, *given[:k], grad, *given[k + 1 :])
            for m, part in zip(asked, found, strict=True):
                sums[m] = part if sums[m] is None else sums[m] + part
        return None, None, *sums
