"""Start from a trained model: take over architecture, reference energies and weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv.errors import EquivError, ModelFileError
from equiv.train.recipes import RECIPES

if TYPE_CHECKING:
    from equiv.models.abstract import AbstractModel
    from equiv.models.header import ModelHeader


def header_of(path: Path) -> "ModelHeader":
    """What a model file says of its model.

    Raises:
        EquivError: it cannot be read, or is of a kind that no recipe can train.
    """
    from equiv.models.file import read_header

    try:
        header = read_header(path)
    except ModelFileError as error:
        raise EquivError(f"train.start_from: {error}") from error
    if header.model not in RECIPES:
        raise EquivError(
            f"train.start_from: {path} holds a {header.model} model, which no recipe can train; "
            f"those that can be trained are {', '.join(RECIPES)}"
        )
    return header


def adopt(content: dict[str, Any], header: "ModelHeader") -> None:
    """Fill what a recipe leaves open about the model with what the file says of its own.

    That includes scale, shift and reference energies: the run begins with the very function that
    the file holds. What the recipe says itself is left as it is.
    """
    section = dict(content.get("model") or {})
    section.setdefault("name", header.model)
    if section["name"] == header.model:
        fields = RECIPES[header.model].model_fields["model"].annotation
        for key in getattr(fields, "model_fields", {}):
            if key in header.recipe:
                section.setdefault(key, header.recipe[key])
    content["model"] = section
    data = content.get("data")
    if header.reference_energies and isinstance(data, dict):
        data.setdefault("reference_energies", dict(header.reference_energies))


def load_weights(model: "AbstractModel", path: Path) -> None:
    """Give a model the weights of a file.

    Raises:
        EquivError: they are those of another architecture.
    """
    from equiv.models.file import load_model

    start = load_model(path, device=model.device)
    if type(start) is type(model):
        try:
            model.load_state_dict(start.state_dict())
        except RuntimeError as error:
            given, own = model.recipe, start.recipe
            different = [
                f"{key} {own.get(key)!r} in the file, {given.get(key)!r} in the recipe"
                for key in sorted({*given, *own})
                if given.get(key) != own.get(key)
            ]
            raise EquivError(
                f"train.start_from: the weights of {path} do not fit the model of this recipe "
                f"({'; '.join(different) or 'other shapes'}); leave these keys out of the recipe"
            ) from error
        return
    raise EquivError(
        f"train.start_from: {path} holds a {start.name} model and the recipe asks for a "
        f"{model.name}; leave model.name out of the recipe"
    )
