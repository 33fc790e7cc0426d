"""Checkpoints: everything a run needs to continue as if it had never stopped.

One safetensors file holds the tensors (weights, their average, the best weights, optimizer moments,
random states) and, in its header, a JSON document (counters, schedule, log positions, recipe, data
fingerprint). Nothing is pickled. A new checkpoint replaces the old one only when it is whole on the
disk, and the old one is kept as the previous generation.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from equiv import __version__
from equiv.atomic import write_bytes
from equiv.errors import EquivError

NAME = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
FORMAT_VERSION = 1


class CheckpointError(EquivError):
    """A checkpoint that is damaged, foreign or too new."""


@dataclass
class Checkpoint:
    """The state of a run between two optimizer steps.

    Attributes:
        tensors: all tensors by a name of the form `part/name`.
        state: everything else, JSON-able.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, without its prefix."""
        prefix = name + "/"
        return {
            key[len(prefix) :]: value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and keep the one before it.

    The new file is whole on the disk before the old one changes its name, and the two generations
    never share their bytes: whenever the run is killed, a whole checkpoint is left.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()
    }
    metadata = {
        "format": "equiv checkpoint",
        "format_version": str(FORMAT_VERSION),
        "equiv_version": __version__,
        "state": json.dumps(checkpoint.state),
    }
    metadata["sha256"] = _digest(tensors, metadata["state"])
    content = safetensors.torch.save(tensors, metadata)
    write_bytes(folder / NAME, content, keep=folder / PREVIOUS)


def load_checkpoint(folder: Path, complain: Callable[[str], None]) -> Checkpoint | None:
    """The newest readable checkpoint of a run, or None if the run has none.

    Args:
        folder: the folder of the run.
        complain: called with a sentence when the newest checkpoint had to be passed over.

    Raises:
        CheckpointError: there are checkpoints, but none can be read.
    """
    for unfinished in folder.glob(f".*.{NAME}"):  # left by a run that was killed while writing
        unfinished.unlink()
    problems: list[str] = []
    for name in (NAME, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            complain(f"{problem}; continuing from the previous checkpoint, {name}")
        if name == PREVIOUS and not problems:
            complain(f"{NAME} is missing; continuing from the previous checkpoint, {name}")
        return checkpoint
    if problems:
        raise CheckpointError(
            "; ".join(problems) + f"; delete the checkpoints in {folder} to start over"
        )
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file and verify its checksum.

    Raises:
        CheckpointError: the file is damaged, is no checkpoint, or was written by a newer version.
    """
    try:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        metadata: Mapping[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
        tensors = safetensors.torch.load(content)
    except (
        OSError,
        struct.error,
        ValueError,
        AttributeError,
        safetensors.SafetensorError,
        MemoryError,
    ) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:200]})"
        ) from None
    if metadata.get("format") != "equiv checkpoint":
        raise CheckpointError(f"{path} is not a checkpoint of equiv")
    version = metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version!r}, this equiv {__version__} reads up to "
            f"{FORMAT_VERSION}; it was written by equiv {metadata.get('equiv_version', '?')}: "
            "upgrade equiv"
        )
    if _digest(tensors, metadata.get("state", "")) != metadata.get("sha256"):
        raise CheckpointError(f"{path} is damaged (its content does not match its checksum)")
    return Checkpoint(tensors, json.loads(metadata["state"]))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> dict[str, Tensor]:
    """The optimizer's moments and step counters as `parameter name/moment`."""
    found: dict[str, Tensor] = {}
    for parameter, moments in optimizer.state.items():
        for moment, value in moments.items():
            found[f"{names[parameter]}/{moment}"] = torch.as_tensor(value)
    return found


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
) -> None:
    """Put stored moments back; each keeps the dtype it was stored in."""
    optimizer.state.clear()
    for key, value in tensors.items():
        name, moment = key.rsplit("/", 1)
        if name not in parameters:
            raise CheckpointError(
                f"the checkpoint holds optimizer state for {name}, which the model does not have"
            )
        parameter = parameters[name]
        # The step counter stays on the CPU, where torch keeps it.
        placed = value.clone() if moment == "step" else value.to(parameter.device, copy=True)
        optimizer.state[parameter][moment] = placed


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
