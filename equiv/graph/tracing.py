"""Whether a compiler is looking."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def is_traced(x: Tensor) -> bool:
    """Whether a compiler records what is done to ``x`` (dynamo, export, ``make_fx``).

    A few sums have two forms: one that is fast when every step runs by itself, and one whose steps
    a compiler can fuse. Both are the same function; this is the only thing that chooses.
    """
    return torch.compiler.is_compiling() or isinstance(x, FakeTensor)
