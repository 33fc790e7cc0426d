"""The optimizer."""

from collections.abc import Mapping

import torch
from torch import nn

from equiv.train.recipe import TrainRecipe

UNDECAYED = ("embedding", "radial", "linear_up", "readout")


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], recipe: TrainRecipe
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), by default in the AMSGrad variant (Reddi et al. 2018).

    Weight decay pulls on the matrices that mix channels and on the weights of the many-body
    products, as is customary for MACE; not on vectors and scalars, element embeddings, radial
    networks, the map before the convolution, and readouts (parameters whose name contains one of
    `UNDECAYED`).
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
    )


def decays(name: str, value: nn.Parameter) -> bool:
    """Whether weight decay pulls on a parameter."""
    return value.ndim >= 2 and not any(word in name for word in UNDECAYED)
