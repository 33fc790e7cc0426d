"""The same potential for fewer elements."""

import copy
import math
from collections.abc import Iterable
from typing import TypeVar, cast

import torch
from ase.data import atomic_numbers as NUMBER_OF
from ase.data import chemical_symbols

from equiv.errors import EquivError
from equiv.models.interface import Model
from equiv.nn.linear import ElementLinear

AnyModel = TypeVar("AnyModel", bound=Model)


def restricted_to(model: AnyModel, elements: Iterable[str | int]) -> AnyModel:
    r"""A model that knows only some of the elements, and says the same about them.

    .. math::
        E'(\{r_i, z_i\}) = E(\{r_i, z_i\}) \quad \text{for } z_i \in \text{elements}

    Weights that belong to an element form a slice along some axis; the others are shared. A
    foundation model of 89 elements becomes small this way, and code compiled for it short, because
    that holds one branch per element.

    Args:
        model: one whose weights of an element are its ``embedding``, its
            :class:`equiv.nn.ElementLinear` and products, like :class:`equiv.models.MACE`.
        elements: chemical symbols or atomic numbers.

    Raises:
        EquivError: the model does not know one of the elements, or there is none.
    """
    numbers = sorted({NUMBER_OF.get(e, 0) if isinstance(e, str) else int(e) for e in elements})
    unknown = [e for e in numbers if e not in model.elements]
    if unknown or not numbers:
        known = ", ".join(chemical_symbols[z] for z in model.elements)
        asked = ", ".join(chemical_symbols[z] for z in numbers) or "none"
        raise EquivError(f"elements: expected some of {known}; got {asked}")
    kept = torch.tensor([model.elements.index(z) for z in numbers])
    symbols = [chemical_symbols[z] for z in numbers]
    recipe = {
        **model.recipe,
        "elements": symbols,
        "reference_energies": {s: model.recipe["reference_energies"][s] for s in symbols},
    }
    with torch.random.fork_rng(devices=[]):
        smaller = cast(AnyModel, type(model)(**recipe))
    # One-hot vectors of fewer elements are normalised differently.
    scale = math.sqrt(len(numbers) / len(model.elements))
    scaled = {"embedding"} | {
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, ElementLinear)
    }
    state = {}
    shapes = {name: value.shape for name, value in smaller.state_dict().items()}
    for name, value in model.state_dict().items():
        for axis, (old, new) in enumerate(zip(value.shape, shapes[name], strict=True)):
            if old != new:
                value = value.index_select(axis, kept.to(value.device))
        state[name] = value * scale if name in scaled else value
    smaller = smaller.to(device=model.device, dtype=model.dtype)
    smaller.load_state_dict(state)
    for old, new in zip(model.parameters(), smaller.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    smaller.card = copy.deepcopy(model.card)
    return smaller.train(model.training)
