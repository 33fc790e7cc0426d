"""Files that are either the old one or the complete new one, whatever happens in between."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equiv.errors import EquivError


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, keep: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block ends without error.

    The new content is flushed to the disk before the name moves, so a crash or a full disk leaves
    the old file whole. The temporary keeps the suffixes of `path`, because writers choose formats
    by them.

    Args:
        path: the file to write.
        keep: a name for the old file, which is otherwise lost.

    Raises:
        EquivError: if the folder does not exist or `path` is a folder.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise EquivError(f"{path}: the folder {folder} does not exist; create it first")
    if path.is_dir():
        raise EquivError(f"{path} is a folder; name a file to write")
    temporary = folder / f".{secrets.token_hex(4)}.{path.name}"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        nameless = error.filename is None or error.filename == str(temporary)
        if nameless and error.errno is not None:
            error.filename = str(path)  # a full disk does not say what was being written
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(folder)


def write_bytes(
    path: str | os.PathLike[str], content: bytes, *, keep: str | os.PathLike[str] | None = None
) -> None:
    """Write `content` to `path`, which never holds a part of it; `keep` as in `replacing`."""
    with replacing(path, keep=keep) as temporary:
        temporary.write_bytes(content)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
