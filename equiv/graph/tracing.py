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


def suits_kernels(x: Tensor, work: int, least_work: int) -> bool:
    """Whether an operator with a kernel can take numbers like ``x``, and is worth the call.

    It is for the CPU, and an operator that dynamo cannot differentiate. Whoever else traces it
    records one step whatever the size, where there may be symbols for sizes.

    Args:
        x: some argument.
        work: multiply-adds.
        least_work: below which steps of torch, one by one, are as fast.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_dynamo_compiling()
        and (is_traced(x) or work >= least_work)
    )
