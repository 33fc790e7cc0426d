"""Model files: the one place where models are written to disk and read back.

A model is one `.safetensors` file; `equiv.models.header` describes its layout. Writing is atomic.
Reading trusts nothing: the header is checked against the size of the file, the sizes in the recipe
against the number of weights, and the model is built under a limit on memory that follows from the
size of the file. Only classes in the package's registry are ever built, and no pickle is ever read.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from equiv import __version__
from equiv.atomic import write_bytes
from equiv.errors import EquivError, ModelFileError
from equiv.models.allocation import AllocationLimit
from equiv.models.header import (
    DOCUMENT_KEYS,
    FORMAT,
    FORMAT_VERSION,
    ModelHeader,
    TensorEntry,
    header_checksum,
    header_length,
    parse_header,
)

if TYPE_CHECKING:
    from equiv.models.abstract import AbstractModel
    from equiv.models.interface import Model

__all__ = [
    "FORMAT_VERSION",
    "ModelHeader",
    "load_model",
    "load_potential",
    "read_header",
    "save_model",
    "verify_model",
]

PathLike = str | os.PathLike[str]

STORED_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
MAX_CONSTANTS = 2**28  # 2 GiB of float64: more than any model in use computes for itself
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save_model(
    model: "AbstractModel", path: PathLike, *, card: Mapping[str, Any] | None = None
) -> None:
    """Write a model to one file, atomically.

    Args:
        model: any registered model.
        path: the file to write, by custom `something.safetensors`; an existing file is replaced
            only once the new one is complete on disk.
        card: facts to record beside `model.card` (and over it): `level_of_theory`, `data_sha256`,
            `errors`, `licence`, `citation`, ...; anything JSON can hold.

    Raises:
        EquivError: if a weight is not finite, the card or the recipe is not JSON, or the path
            cannot be written.
    """
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    for name, value in tensors.items():
        if value.dtype not in STORED_DTYPES:
            raise EquivError(
                f"cannot save {name}: model files hold no tensors of type {value.dtype}"
            )
        if not bool(torch.isfinite(value).all()):
            raise EquivError(f"cannot save the model: {name} holds values that are not finite")
    payload, table = _pack(tensors)
    document = {
        "equiv_version": __version__,
        "model": type(model).name,
        "recipe": model.recipe,
        "dtype": str(model.dtype).removeprefix("torch."),
        "elements": [int(z) for z in model.elements],
        "cutoff": None if model.cutoff is None else float(model.cutoff),
        "units": dict(model.units),
        "reference_energies": model.recipe.get("reference_energies") or {},
        "card": {**model.card, **(card or {})},
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    header = _header_bytes(document, table)
    # Read back what is about to be written: a file this version refuses is never left behind.
    parse_header(header[8:], len(payload))
    write_bytes(path, header + payload)


def load_model(
    path: PathLike, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> "AbstractModel":
    """Build the model a file describes and fill in its weights.

    Args:
        path: a file written by `save_model`.
        dtype: `float32` or `float64` for the weights; None keeps the precision they were stored in.
        device: where the model goes.

    Returns:
        The model in evaluation mode, with `card` as stored.

    Raises:
        ModelFileError: if the file is missing, damaged, foreign, too new, or describes a model that
            its weights do not fit.
        EquivError: if `dtype` or `device` cannot be used.
    """
    chosen = None if dtype is None else dtype_named(dtype)
    place = usable_device(device)
    with _open(path) as file, _naming(path):
        header, size = _read_header(file)
        model = _build(header)
        file.seek(0)
        raw = file.read(size)
        _check_payload(header, raw)
        _fill(model, safetensors.torch.load(raw))
        if list(model.elements) != list(header.elements) or model.cutoff != header.cutoff:
            raise ModelFileError(
                "elements and cutoff of the recipe and of the description disagree"
            )
    model.card = dict(header.card)
    return model.to(device=place, dtype=chosen).eval() if chosen else model.to(device=place).eval()


def load_potential(
    path: PathLike, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> "Model":
    """The same for what needs energies and forces.

    Raises:
        ModelFileError: also if the model in the file predicts something else.
    """
    from equiv.models.interface import Model

    model = load_model(path, dtype=dtype, device=device)
    if not isinstance(model, Model):
        raise ModelFileError(
            f"{os.fspath(path)}: this is a {type(model).name} model, which predicts no energies "
            "and forces; `equiv info` shows what it is, `equiv evaluate` its errors, and "
            "equiv.load_model(...) gives it to Python"
        )
    return model


def read_header(path: PathLike) -> ModelHeader:
    """Read and check everything about a model but its weights; no tensor is allocated.

    Raises:
        ModelFileError: if the file is missing, damaged, foreign or too new.
    """
    with _open(path) as file, _naming(path):
        return _read_header(file)[0]


def verify_model(path: PathLike) -> ModelHeader:
    """Check a whole file, weights included, against its checksums without building the model.

    Raises:
        ModelFileError: if a single bit differs from what was written.
    """
    with _open(path) as file, _naming(path):
        header, size = _read_header(file)
        file.seek(0)
        _check_payload(header, file.read(size))
    return header


class _naming:
    """Put the path in front of a `ModelFileError`."""

    def __init__(self, path: PathLike) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ModelFileError):
            raise ModelFileError(f"{os.fspath(self.path)}: {error}") from error.__cause__


def _open(path: PathLike) -> IO[bytes]:
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(
            f"{path} is a folder; name the model file in it (something.safetensors)"
        )
    if not path.exists():
        raise ModelFileError(f"{path}: there is no such file")
    if not path.is_file():
        raise ModelFileError(f"{path} is not a regular file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be opened: {error.strerror}") from error


def _read_header(file: IO[bytes]) -> tuple[ModelHeader, int]:
    size = os.fstat(file.fileno()).st_size
    length = header_length(file.read(64), size)
    file.seek(8)
    return parse_header(file.read(length), size - 8 - length), size


def _check_payload(header: ModelHeader, raw: bytes) -> None:
    payload = memoryview(raw)[8 + header.header_bytes :]
    if len(payload) != header.payload_bytes or hashlib.sha256(payload).hexdigest() != header.sha256:
        raise ModelFileError(
            "the weights do not match their sha256; the file is damaged, copy it again"
        )


def _pack(tensors: dict[str, Tensor]) -> tuple[bytes, dict[str, TensorEntry]]:
    """Lay tensors out as safetensors does; the payload and the table of what lies where."""
    blob = safetensors.torch.save(tensors)
    length = int.from_bytes(blob[:8], "little")
    table = {
        name: TensorEntry(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
        for name, entry in json.loads(blob[8 : 8 + length]).items()
    }
    return blob[8 + length :], table


def _header_bytes(document: dict[str, Any], table: dict[str, TensorEntry]) -> bytes:
    """The length and the JSON header; equal models give equal bytes."""
    try:
        text = json.dumps({key: document[key] for key in DOCUMENT_KEYS}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EquivError(
            f"the recipe or card of the model cannot be written as JSON: {error}"
        ) from error
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "checksum": header_checksum(FORMAT_VERSION, text, table),
        "header": text,
    }
    entries = {
        name: {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [e.begin, e.end]}
        for name, e in sorted(table.items(), key=lambda item: item[1].begin)
    }
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # safetensors asks for an aligned payload
    return len(header).to_bytes(8, "little") + header


def _model_class(header: ModelHeader) -> type["AbstractModel"]:
    from equiv.models import (
        MODELS,
    )  # the registry imports the models, which save themselves through this file

    if header.model not in MODELS:
        raise ModelFileError(
            f"the file holds a model of type {header.model[:80]!r}, unknown to {__version__} "
            f"(which knows {', '.join(MODELS)}); written by equiv {header.equiv_version[:40]}"
        )
    return MODELS[header.model]


def _build(header: ModelHeader) -> "AbstractModel":
    """The model the recipe describes, without its weights, in the precision it was stored in.

    The recipe comes from a stranger: its sizes are compared with the size of the file before it is
    used, memory is limited to what the file justifies while it is, and names and shapes of the
    result must be exactly those of the file.
    """
    model_class = _model_class(header)
    _check_sizes(header.recipe, header.parameters)
    try:
        if model_class.construction_size(header.recipe) > MAX_CONSTANTS:
            raise ModelFileError("its coupling coefficients would fill more than 2 GiB")
        # Drawing initial weights must not change the random numbers of whoever loads a model.
        with torch.random.fork_rng(devices=[]), AllocationLimit(4 * header.parameters + 2**16):
            model = model_class(**header.recipe)
    except (
        Exception
    ) as error:  # whatever a strange recipe does to a constructor, the file is at fault
        raise ModelFileError(
            f"the recipe in the file does not describe a {header.model} model that could be built: "
            f"{str(error)[:300]}"
        ) from error
    if header.units != dict(model.units):
        raise ModelFileError(
            f"the model's description: units should be {dict(model.units)}, got {header.units}"
        )
    _check_shapes(model, header)
    return model.to(dtype=DTYPES[header.dtype])


def _check_sizes(recipe: dict[str, Any], parameters: int) -> None:
    """Refuse recipes with sizes that the weights in the file cannot have.

    Every size in a recipe - channels, layers, degrees - shows in the weights: none can exceed how
    many numbers the file holds.
    """

    def check(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, item in value.items():
                check(f"{key}.{inner}" if key else inner, item)
        elif isinstance(value, list):
            for item in value:
                check(key, item)
        elif isinstance(value, int) and abs(value) > max(parameters, 1000):
            raise ModelFileError(
                f"the recipe says {key} = {str(value)[:30]}, which the {parameters} numbers in the "
                "file cannot fill"
            )

    check("", recipe)


def _check_shapes(model: "AbstractModel", header: ModelHeader) -> None:
    """Compare names and shapes of the weights with what the file holds."""
    state = model.state_dict()
    lists = {
        "misses": sorted(state.keys() - header.tensors.keys()),
        "has extra": sorted(header.tensors.keys() - state.keys()),
    }
    parts = [f"{word} {', '.join(names[:3])}" for word, names in lists.items() if names]
    if parts:
        raise ModelFileError(f"the weights do not fit the recipe: the file {' and '.join(parts)}")
    for name, entry in header.tensors.items():
        if tuple(state[name].shape) != entry.shape:
            raise ModelFileError(
                f"the weights do not fit the recipe: {name} should have shape "
                f"{tuple(state[name].shape)}, the file has {entry.shape}"
            )


def _fill(model: "AbstractModel", tensors: dict[str, Tensor]) -> None:
    """Copy the stored weights in, exactly."""
    state = model.state_dict()
    for name, value in tensors.items():
        if value.dtype != state[name].dtype:
            raise ModelFileError(
                f"{name} is stored as {value.dtype} where the model holds {state[name].dtype}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ModelFileError(f"{name} holds values that are not finite; the model is useless")
    model.load_state_dict(tensors, strict=True)


def dtype_named(dtype: torch.dtype | str) -> torch.dtype:
    """`float32` or `float64`, by name or as it is; an EquivError otherwise."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise EquivError(f"dtype should be float32 or float64, got {dtype}")
    return DTYPES[name]


def usable_device(device: torch.device | str) -> torch.device:
    """A device that exists here, by name or as it is; an EquivError otherwise."""
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()  # a device that computes, unlike `meta`
    except (RuntimeError, AssertionError) as error:
        raise EquivError(
            f"device {device} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return place
