"""From a `.model` file of mace-torch to a model of ours, with its card."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equiv.errors import EquivError
from equiv.integrations.mace_torch.reading import read_mace_torch
from equiv.integrations.mace_torch.state import map_state
from equiv.models import Model

PathLike = str | os.PathLike[str]

# Their weights do not vanish at the cutoff by themselves.
ATTENDING = (
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
)


@dataclass
class Conversion:
    """What came of a conversion.

    Attributes:
        model: with the weights of the file and the dtype they had; its card says where it is from.
        configuration: what mace-torch's constructor was given.
        residual: the largest component of mace-torch's coupling tensors that ours do not reach.
        rounding: the largest relative rounding of constants in the file.
    """

    model: Model
    configuration: dict[str, Any]
    residual: float
    rounding: float

    @property
    def notes(self) -> list[str]:
        """What a user should know of the result."""
        notes = []
        if self.rounding:
            notes.append(
                "the file holds constants in single precision; mace-torch in float64 computes with "
                "the rounded ones, so the two agree to about seven digits only"
            )
        if self.configuration["radial_type"] == "chebyshev":
            notes.append(
                "forces of this model are not the derivatives of its energy: torch's Chebyshev "
                "polynomials have no derivative, so mace-torch trained it without that part, and "
                "the same is computed here. Do not run molecular dynamics with it"
            )
        if self.configuration["apply_cutoff"] and any(
            name in ATTENDING
            for name in (
                self.configuration["interaction_cls_first"],
                self.configuration["interaction_cls"],
            )
        ):
            notes.append(
                "the energy of this model jumps when an atom crosses the cutoff (mace-torch's "
                "apply_cutoff=True with this interaction); the same is computed here"
            )
        return notes


def convert_mace_torch(path: PathLike, *, head: str | None = None) -> Conversion:
    """Turn a ``.model`` file of mace-torch into a model of ours, equal to rounding.

    The file is a pickle. It is read as data; nothing in it is run, and neither mace-torch nor e3nn
    is needed.

    Args:
        path: what `mace_run_train` wrote: ``NAME.model`` or ``NAME_stagetwo.model``.
        head: which head to keep of a model that has several.

    Raises:
        EquivError: the file is refused, damaged, or holds a model with parts that have no
            counterpart here; the message names them.
    """
    torch_mace = read_mace_torch(path)
    try:
        mapped = map_state(torch_mace.state, torch_mace.configuration, head=head)
    except EquivError as error:
        raise EquivError(f"{os.fspath(path)}: {error}") from error.__cause__
    model = mapped.model
    model.card = _card(Path(path), torch_mace.configuration, head)
    return Conversion(model, torch_mace.configuration, mapped.residual, mapped.rounding)


def _card(path: Path, configuration: dict[str, Any], head: str | None) -> dict[str, Any]:
    heads = configuration["heads"]
    return {
        "converted_from": {
            "program": "mace-torch",
            "file": path.name,
            "sha256": _sha256(path),
            "head": head if head is not None else heads[0],
            "heads": heads,
            "configuration": {
                key: value
                for key, value in configuration.items()
                if key not in ("atomic_numbers", "activation_gains", "heads") and value is not None
            },
        },
        "note": "level of theory, data and errors are not written in mace-torch files",
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
