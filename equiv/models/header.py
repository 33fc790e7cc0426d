"""The header of a model file: all about a model but its weights, from bytes nobody vouches for.

Layout (the safetensors container): 8 bytes, little endian, the length of the JSON that follows; the
JSON, a table `name -> {dtype, shape, data_offsets}` plus `__metadata__`, which maps strings to
strings; then the tensors, back to back. Of the metadata, `format` is `equiv.model`,
`format_version` an integer, `header` a JSON document (the fields of `ModelHeader`), and `checksum`
the sha256 of version, document and table, as `sha256` in the document is that of the tensors: no
byte of the file can change unseen.

Nothing here imports torch, and nothing is allocated that the size of the file on disk does not
justify.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from equiv.errors import ModelFileError

FORMAT = "equiv.model"
FORMAT_VERSION = 1

MAX_HEADER_BYTES = 4 * 2**20  # a thousand times what a large model needs
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 16
MAX_NAME_LENGTH = 512
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

# How files begin that are offered as models by mistake or by malice, and what to say of them.
FOREIGN = (
    (b"PK\x03\x04", "a zip archive, such as torch.save writes; equiv never unpickles a model"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
)


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies in the payload, in bytes from its start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class ModelHeader:
    """What a model file says of its model; every field is checked for type and plain sense.

    Attributes:
        format_version: version of this file format.
        equiv_version: version of the package that wrote the file.
        model: name of the architecture in `equiv.models.MODELS`.
        recipe: the constructor's arguments as resolved.
        dtype: `float32` or `float64`, the precision of the weights.
        elements: atomic numbers the model knows, ascending; empty if it knows of no elements.
        cutoff: in units of length; None if there is none.
        units: of what the model takes and gives: `{"energy": "eV", "length": "Angstrom"}` for
            potentials.
        reference_energies: energy of each isolated atom by symbol, eV.
        card: level of theory, hash of the training data, errors, licence and what else the author
            recorded.
        sha256: of the tensor payload.
        tensors: name, dtype, shape and place of every tensor.
        header_bytes: length of the JSON header.
        payload_bytes: length of the tensors.
    """

    format_version: int
    equiv_version: str
    model: str
    recipe: dict[str, Any]
    dtype: str
    elements: tuple[int, ...]
    cutoff: float | None
    units: dict[str, str]
    reference_energies: dict[str, float]
    card: dict[str, Any]
    sha256: str
    tensors: dict[str, TensorEntry] = field(repr=False)
    header_bytes: int = field(repr=False)
    payload_bytes: int = field(repr=False)

    @property
    def parameters(self) -> int:
        """How many numbers the tensors hold."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())


DOCUMENT_KEYS = tuple(
    f.name
    for f in fields(ModelHeader)
    if f.name not in ("format_version", "tensors", "header_bytes", "payload_bytes")
)


def header_length(start: bytes, file_size: int) -> int:
    """Length of the JSON header, from the first bytes of a file of `file_size` bytes.

    Raises:
        ModelFileError: if these cannot be the first bytes of a model file.
    """
    if file_size == 0:
        raise ModelFileError("the file is empty")
    for magic, description in FOREIGN:
        if start.startswith(magic):
            raise ModelFileError(f"this is not a model file but {description}")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise ModelFileError(
            "this is not a model file but a web page; the download gave a page instead of the file"
        )
    if file_size < 10:
        raise ModelFileError(
            f"the file has {file_size} bytes and cannot hold a model; copy it again"
        )
    length = int.from_bytes(start[:8], "little")
    opening = start[8:9]
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and opening != b"{":
        raise ModelFileError("this is not a model file but a pickle; equiv never unpickles a model")
    if opening != b"{":
        raise ModelFileError(
            "this is not a model file: it does not begin as a safetensors file does"
        )
    if length > MAX_HEADER_BYTES:
        raise ModelFileError(
            f"the header claims {length} bytes; a model file has at most {MAX_HEADER_BYTES}"
        )
    if length < 2 or 8 + length > file_size:
        raise ModelFileError(
            f"the header claims {length} bytes but the file has {file_size}; "
            "it is truncated or damaged, copy it again"
        )
    return length


def parse_header(text: bytes, payload_bytes: int) -> ModelHeader:
    """Check a JSON header against the size of the payload that follows it.

    Raises:
        ModelFileError: naming the first thing that is wrong.
    """
    table = _json(text, "the header")
    if not isinstance(table, dict):
        raise ModelFileError("the header is not a JSON object")
    metadata = table.pop("__metadata__", None)
    tensors = _tensor_table(table, payload_bytes)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelFileError(
            "this is a safetensors file but not an equiv model; equiv loads only what it wrote"
        )
    version = _version(metadata.get("format_version"))
    document = metadata.get("header")
    if not isinstance(document, str):
        raise ModelFileError("the metadata holds no `header`; the file is damaged")
    if metadata.get("checksum") != header_checksum(version, document, tensors):
        raise ModelFileError(
            "the header does not match its checksum; the file is damaged or edited, copy it again"
        )
    return _header(
        _json(document.encode(), "the model's description"),
        version,
        tensors,
        len(text),
        payload_bytes,
    )


def header_checksum(version: int, document: str, tensors: dict[str, TensorEntry]) -> str:
    """Hex sha256 of format version, document and tensor table."""
    table = [[name, e.dtype, list(e.shape), e.begin, e.end] for name, e in sorted(tensors.items())]
    text = json.dumps([version, document, table], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _json(text: bytes, what: str) -> Any:
    """Parse JSON strictly: no duplicate keys, no NaN, no unlimited depth."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ModelFileError(f"{what} holds a key twice; the file is damaged")
        return dict(pairs)

    def refuse(constant: str) -> NoReturn:
        raise ModelFileError(f"{what} holds the number {constant}; the file is damaged")

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except ModelFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{what} is not valid JSON; the file is damaged, copy it again"
        ) from error


def _is_count(value: Any) -> bool:
    """An integer that can be a size; the bound keeps products of sizes small enough to compute."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _tensor_table(table: dict[str, Any], payload_bytes: int) -> dict[str, TensorEntry]:
    """Check that the tensors fill the payload exactly: no overlap, gap or excess."""
    if len(table) > MAX_TENSORS:
        raise ModelFileError(f"the header lists {len(table)} tensors, more than {MAX_TENSORS}")
    tensors = {name: _tensor_entry(name, value) for name, value in table.items()}
    position = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            wrong = "overlaps another" if entry.begin < position else "leaves a gap before it"
            raise ModelFileError(f"tensor {name!r} {wrong}; the file is damaged")
        position = entry.end
    if position != payload_bytes:
        raise ModelFileError(
            f"the tensors take {position} bytes but {payload_bytes} follow the header; "
            "the file is truncated or damaged, copy it again"
        )
    return tensors


def _tensor_entry(name: str, value: Any) -> TensorEntry:
    where = f"tensor {name[:80]!r}"
    if len(name) > MAX_NAME_LENGTH:
        raise ModelFileError(f"{where} has a name of {len(name)} characters")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{where} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ModelFileError(
            f"{where} has the dtype {str(dtype)[:40]!r}, not one of {', '.join(ITEM_BYTES)}"
        )
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_count, shape)):
        raise ModelFileError(f"{where} has no usable shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ModelFileError(f"{where} has no usable data_offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ModelFileError(f"{where}: its shape and dtype do not fit its place in the file")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _version(text: Any) -> int:
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ModelFileError("the metadata holds no readable format_version; the file is damaged")
    version = int(text)
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"the file has format version {version} and this equiv reads up to {FORMAT_VERSION}; "
            "upgrade equiv: pip install --upgrade equiv"
        )
    if version < 1:
        raise ModelFileError(f"format version {version} does not exist; the file is damaged")
    return version


def _header(
    document: Any,
    version: int,
    tensors: dict[str, TensorEntry],
    header_bytes: int,
    payload_bytes: int,
) -> ModelHeader:
    """Check the types and plain sense of the document's fields."""
    if not isinstance(document, dict) or set(document) != set(DOCUMENT_KEYS):
        raise ModelFileError(
            f"the model's description does not hold exactly {', '.join(DOCUMENT_KEYS)}"
        )

    def need(condition: bool, key: str, expected: str) -> None:
        if not condition:
            came = str(document[key])[:80]
            raise ModelFileError(
                f"the model's description: {key} should be {expected}, got {came!r}"
            )

    for key in ("equiv_version", "model"):
        need(isinstance(document[key], str), key, "text")
    for key in ("recipe", "card"):
        need(isinstance(document[key], dict), key, "a mapping")
    need(document["dtype"] in ("float32", "float64"), "dtype", "float32 or float64")
    elements = document["elements"]
    known = isinstance(elements, list) and all(_is_count(z) and 1 <= z <= 118 for z in elements)
    need(known and elements == sorted(set(elements)), "elements", "ascending atomic numbers")
    cutoff, units = document["cutoff"], document["units"]
    need(
        cutoff is None or (_is_real(cutoff) and 0 < cutoff < 1000),
        "cutoff",
        "a length in Angstrom, or nothing",
    )
    named = isinstance(units, dict) and all(isinstance(unit, str) for unit in units.values())
    need(named, "units", "the name of a unit per quantity")
    energies = document["reference_energies"]
    real = isinstance(energies, dict) and all(_is_real(value) for value in energies.values())
    need(real, "reference_energies", "a number in eV per element")
    sha256 = document["sha256"]
    need(isinstance(sha256, str) and len(sha256) == 64, "sha256", "64 hexadecimal digits")
    length = None if cutoff is None else float(cutoff)
    values = {**document, "elements": tuple(elements), "cutoff": length}
    return ModelHeader(
        **values,
        format_version=version,
        tensors=tensors,
        header_bytes=header_bytes,
        payload_bytes=payload_bytes,
    )


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
