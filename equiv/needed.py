"""Whether anybody waits for a gradient."""

from typing import Any

import torch


def is_needed(ctx: Any, position: int, tensor: int) -> bool:
    """Whether a custom function has to compute the gradient of an input in this backward pass.

    ``ctx.needs_input_grad`` knows which inputs could need one at all. Whether this pass leads there
    is known to the engine: forces are gradients by positions alone, and those of the weights would
    be computed for nothing.

    Args:
        ctx: of the function, within its ``backward``.
        position: of the input among all arguments.
        tensor: of the input among the tensors.
    """
    if not ctx.needs_input_grad[position]:
        return False
    node = ctx.next_functions[tensor][0]
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # of a leaf the engine does not tell
        return True
