"""What `torch.save` wrote, without torch's reader: a zip archive of one pickle and raw storages."""

import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equiv.errors import ModelFileError
from equiv.integrations.mace_torch.inert_pickle import Call, Global, InertReader

PathLike = str | os.PathLike[str]

MAX_PICKLE_BYTES = 2**28  # some hundred times that of the largest foundation model
MAX_MEMBERS = 100_000

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the archive."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the archive; no memory is taken before :meth:`TorchFile.tensor`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class TorchFile:
    """An open archive.

    Args:
        path: a file that `torch.save` wrote in its present (zip) format.
        admits: which classes its pickle may name.
        calls: which functions it may call besides those that build tensors and containers.

    Raises:
        ModelFileError: the file is missing, not of that format, damaged, or asks for anything else.
    """

    def __init__(
        self, path: PathLike, *, admits: Callable[[Global], bool], calls: dict[Global, Call]
    ) -> None:
        self.path = path
        self.file, self.root = _open(path)
        self.allowance = 4 * os.stat(path).st_size  # bytes; tensors may share storages
        try:
            self._check()
            self.content = InertReader({**CALLS, **calls}, partial(_admits, admits), _storage).read(
                self._member("data.pkl", MAX_PICKLE_BYTES)
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read one tensor.

        Raises:
            ModelFileError: the archive does not hold what the pickle says of it.
        """
        storage = stored.storage
        raw = self._member(f"data/{storage.key}")
        numbers = len(raw) // storage.dtype.itemsize
        reach = stored.offset + sum(
            (n - 1) * step for n, step in zip(stored.shape, stored.stride, strict=True)
        )
        count = math.prod(stored.shape)
        if numbers < storage.count or count > numbers or (count and reach >= numbers):
            raise ModelFileError(
                f"a tensor of shape {stored.shape} does not fit its storage of {numbers} numbers; "
                "the file is damaged"
            )
        self.allowance -= count * storage.dtype.itemsize
        if self.allowance < 0:
            raise ModelFileError("its tensors claim far more numbers than the file has; refused")
        if not count:
            return torch.empty(stored.shape, dtype=storage.dtype)
        whole = torch.frombuffer(bytearray(raw), dtype=storage.dtype)
        return whole.as_strided(stored.shape, stored.stride, stored.offset).clone()

    def _member(self, name: str, limit: int | None = None) -> bytes:
        try:
            info = self.file.getinfo(f"{self.root}/{name}")
            if limit is not None and info.file_size > limit:
                raise ModelFileError(f"{name} in it has {info.file_size} bytes; that is no model")
            return self.file.read(info)
        except KeyError as error:
            raise ModelFileError(f"it lacks {name}; the file is damaged") from error
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{name} in it cannot be read ({error}); the file is damaged, copy it again"
            ) from error

    def _check(self) -> None:
        """Members are stored as they are and fill no more than the file: no zip bomb."""
        members = self.file.infolist()
        names = {info.filename for info in members}
        if f"{self.root}/constants.pkl" in names or any("/code/" in name for name in names):
            raise ModelFileError(
                "this is a compiled model (TorchScript: code, no weights to convert); give the "
                ".model file without `_compiled` or `-lammps` that mace-torch wrote beside it"
            )
        if any(info.compress_type != zipfile.ZIP_STORED for info in members):
            raise ModelFileError("its members are compressed, as torch.save never does")
        size = os.stat(self.path).st_size
        if len(members) > MAX_MEMBERS or sum(info.file_size for info in members) > size:
            raise ModelFileError("its members claim more bytes than the file has; it is refused")
        if f"{self.root}/byteorder" in names and self._member("byteorder", 100) != b"little":
            raise ModelFileError("it was written on a big-endian machine, which is not supported")


def _open(path: PathLike) -> tuple[zipfile.ZipFile, str]:
    """The archive and the name of the folder everything lies in."""
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "there is no such file"
        raise ModelFileError(f"{what}; give the .model file that mace-torch wrote")
    with open(path, "rb") as file:
        start = file.read(64)
    if not start.startswith(b"PK\x03\x04"):
        raise ModelFileError(_foreign(start))
    try:
        file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFileError(
            f"its zip directory cannot be read ({error}); the file is truncated or damaged"
        ) from error
    pickles = [n for n in file.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
    if len(pickles) != 1:
        file.close()
        raise ModelFileError("this is a zip archive, but not one that torch.save wrote")
    return file, pickles[0].removesuffix("/data.pkl")


def _foreign(start: bytes) -> str:
    if not start:
        return "the file is empty"
    if (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05") or start[:2] in (b"(d", b"c_"):
        return (
            "this is a bare pickle, torch.save's format before torch 1.6, and is not read. In the "
            "environment of mace-torch write it anew: torch.save(torch.load(old), new)"
        )
    if b"__metadata__" in start or start[8:9] == b"{":
        return "this is a safetensors file; `equiv info` says what it holds"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"version https://git-lfs")):
        return "the download gave a web page or a Git LFS pointer instead of the model"
    return "this is not a file that torch.save wrote"


def _storage(identity: Any) -> Storage:
    """The storage a persistent id stands for."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise ModelFileError("the pickle in it refers to something that is no storage")
    _, kind, key, _, count = identity
    if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in DTYPES:
        raise ModelFileError(f"tensors of type {str(kind)[:60]} are not supported")
    if not isinstance(key, str) or not key.isdecimal() or not _is_size(count):
        raise ModelFileError("a storage in it has no proper name or size; the file is damaged")
    return Storage(DTYPES[kind.name], key, count)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any, **__: Any) -> StoredTensor:
    sizes = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride)
    if (
        not isinstance(storage, Storage)
        or not sizes
        or len(shape) > 32
        or not all(map(_is_size, (offset, *shape, *stride)))
    ):
        raise ModelFileError("a tensor in it has no proper shape; the file is damaged")
    return StoredTensor(storage, offset, shape, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _mapping(items: Any = ()) -> dict[Any, Any]:
    if not isinstance(items, list | tuple) or items:
        raise ModelFileError("the pickle in it fills a dictionary in an unusual way; it is refused")
    return {}


def _collection(items: Any = ()) -> list[Any]:
    return list(items) if isinstance(items, list | tuple) else []


def _text_bytes(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ModelFileError("the pickle in it encodes text in an unusual way; it is refused")
    return text.encode("latin-1")


CALLS: dict[Global, Call] = {
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Global("collections", "OrderedDict"): _mapping,
    Global("builtins", "set"): _collection,
    Global("builtins", "frozenset"): _collection,
    Global("builtins", "list"): _collection,
    Global("_codecs", "encode"): _text_bytes,
}


def _admits(admits: Callable[[Global], bool], named: Global) -> bool:
    return (named.module == "torch" and named.name in DTYPES) or admits(named)
