"""The architectures, and the registry that recipes and model files go through."""

from typing import Any

import torch

from equiv.choices import choose
from equiv.models.abstract import AbstractModel
from equiv.models.forecaster import Forecaster
from equiv.models.interface import Model, Prediction
from equiv.models.long_range import LongRange, LongRangeModel
from equiv.models.mace import MACE
from equiv.models.ponita import Ponita
from equiv.models.regressor import Regressor
from equiv.models.sphnet import SPHNet
from equiv.models.variant_mace import VariantMACE

__all__ = [
    "MACE",
    "MODELS",
    "AbstractModel",
    "Forecaster",
    "LongRange",
    "LongRangeModel",
    "Model",
    "Ponita",
    "Prediction",
    "Regressor",
    "SPHNet",
    "VariantMACE",
    "build_model",
]

MODELS: dict[str, type[AbstractModel]] = {
    model.name: model
    for model in (MACE, VariantMACE, Ponita, LongRangeModel, Forecaster, Regressor, SPHNet)
}
"""Architectures that recipes and model files may name. Nothing else is built from a file."""


def build_model(
    name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **recipe: Any
) -> AbstractModel:
    """A model with random weights that depend on ``seed`` alone.

    The global random state is left as it was.

    Args:
        name: key in :data:`MODELS`.
        seed: of the weights.
        dtype: of the weights.
        recipe: arguments of the architecture; with ``long_range`` (:class:`LongRange`), the
            architecture gets that term beside it.

    Raises:
        EquivError: no such architecture.
    """
    architecture = choose(MODELS, name, "model")
    if recipe.get("long_range") is None:
        recipe.pop("long_range", None)
    elif architecture is not LongRangeModel:
        architecture, recipe = LongRangeModel, {"architecture": name, **recipe}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture(**recipe).to(dtype)
