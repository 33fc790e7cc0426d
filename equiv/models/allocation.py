"""A bound on the memory that building a model may ask for."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from equiv.errors import ModelFileError

SIZED = frozenset({torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full})
RANGES = frozenset({torch.arange, torch.linspace, torch.eye})


class AllocationLimit(TorchFunctionMode):
    """Within this context, making tensors of more than `numbers` entries altogether is an error.

    The error comes before the memory is asked for. It counts what is made from a size (`empty`,
    `randn`, `arange`, ...), which is how weights are born.

    Args:
        numbers: how many entries may be made.

    Raises:
        ModelFileError: when more is asked for.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.made = numbers, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count, then do what was asked."""
        kwargs = kwargs or {}
        if func in SIZED or func in RANGES:
            self.made += _entries(func, args, kwargs)
            if self.made > self.numbers:
                raise ModelFileError("the recipe describes a model far larger than its weights")
        return func(*args, **kwargs)


def _entries(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many entries a call makes; for ranges an upper bound from its largest argument."""
    if func in RANGES:
        largest = max((abs(value) for value in args if isinstance(value, int | float)), default=0)
        return math.ceil(largest) ** (2 if func is torch.eye and len(args) == 1 else 1)
    size = kwargs["size"] if "size" in kwargs else args[:1] if func is torch.full else args
    if len(size) == 1 and not isinstance(size[0], int):
        size = size[0]
    return math.prod(size)
