"""Parts of files: `water.npz@:500`, as ASE writes it."""

import re
from pathlib import Path

from equiv.errors import DataError

_PART = re.compile(r"(-?\d*):(-?\d*)(?::(-?\d*))?")


def sliced(path: Path | str) -> tuple[Path, slice]:
    """The file and the part of it that a name such as `water.npz@500:600` means.

    A name that exists as it is, and one without `@`, is the whole file.

    Raises:
        DataError: what follows the `@` is no part.

    >>> sliced("water.npz@500:600")
    (PosixPath('water.npz'), slice(500, 600, None))
    """
    path = Path(path)
    name, at, part = path.name.rpartition("@")
    if not at or path.exists():
        return path, slice(None)
    match = _PART.fullmatch(part)
    if match is None:
        raise DataError(
            f"{path}: expected a part such as @:500, @500:600 or @::10 after the file name, got "
            f"@{part}"
        )
    return path.with_name(name), slice(*(int(n) if n else None for n in match.groups()))
