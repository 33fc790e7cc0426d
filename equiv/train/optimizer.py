"""The optimizer."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from equiv.train.recipe import LoopRecipe


def build_optimizer(
    parameters: Mapping[str, nn.Parameter],
    recipe: LoopRecipe,
    decays: Callable[[str, nn.Parameter], bool],
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), by default in the AMSGrad variant (Reddi et al. 2018).

    Args:
        parameters: the weights by name.
        recipe: learning rate, weight decay, variant.
        decays: whether weight decay pulls on a weight.
    """
    decayed, free = [], []
    for name, value in parameters.items():
        (decayed if decays(name, value) else free).append(value)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        amsgrad=recipe.amsgrad,
        # One pass over memory instead of ten; elsewhere the step counter is not where it needs it.
        fused=all(p.device.type == "cpu" for p in parameters.values()) or None,
    )
