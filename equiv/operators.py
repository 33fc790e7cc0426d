"""Operators of our own that compilers see as one step."""

from collections.abc import Callable
from typing import Any

import torch


class Operator:
    """A function of tensors on the CPU as ``torch.ops.<name>``, one node of every traced graph.

    Like ``torch.library.custom_op`` for functions that change none of their arguments and are
    differentiated elsewhere (inside a ``torch.autograd.Function``). It costs 2 instead of 11
    microseconds a call, and does not load dynamo and sympy (90 MB, a second) with the first.

    Args:
        name: ``namespace::function``.
        function: with annotated arguments.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "CPU", torch.no_grad()(function))

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Say what shape and dtype the result has."""
        return torch.library.register_fake(self.name, function)

    def __call__(self, *args: Any) -> Any:
        """The function, as an operator."""
        namespace, name = self.name.split("::")
        return getattr(getattr(torch.ops, namespace), name).default(*args)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make a function an :class:`Operator`, as a decorator."""
    return lambda function: Operator(name, function)
