"""How damaged files show themselves, in words for the user."""

import lzma
import zlib
from pathlib import Path

from equiv.errors import DataError

# What reading bytes, text and compressed streams can raise.
DAMAGED = (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError)


def unreadable(path: Path, index: int, line: int | None, error: Exception, form: str) -> DataError:
    """The error for structure `index` (at `line`) of a file of format `form`."""
    place = f"structure {index}" + (f" (line {line})" if line is not None else "")
    return DataError(f"{path}: {place} cannot be read as {form}: {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """One line that says what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
