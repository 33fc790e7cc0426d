"""Where compiled programs stay between runs.

`$EQUIV_CACHE_DIR/compiled`, or else `$XDG_CACHE_HOME/equiv/compiled`, or else
`~/.cache/equiv/compiled`. Each program is a folder named by a hash of all that it depends on.
Programs are machine code and loading one runs it, so the folder must belong to the user and nobody
else may write there; one that others can write to is not used.
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from equiv.errors import EquivError
from equiv.models.compiled.program import CODE, FACTS

KEPT = 64  # programs; of a few megabytes each


def root() -> Path:
    """The folder of all programs, made if need be.

    Raises:
        EquivError: it cannot be made, or others can write to it.
    """
    chosen = os.environ.get("EQUIV_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = (Path(chosen) if chosen else Path(base) / "equiv").expanduser() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as error:
        raise EquivError(
            f"the folder {folder} for compiled programs cannot be made ({error.strerror}); set "
            "EQUIV_CACHE_DIR to a folder of yours"
        ) from error
    if hasattr(os, "getuid"):
        foreign = status.st_uid != os.getuid()
        if foreign or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EquivError(
                f"others can write to {folder}, and code in it would be run; set EQUIV_CACHE_DIR "
                "to a folder of yours, or chmod go-w it"
            )
    return folder


def key(facts: dict[str, Any]) -> str:
    """Name of the program that belongs to these facts, on this machine and with this software."""
    everything = {
        "facts": facts,
        "torch": [torch.__version__, torch.version.git_version],
        "machine": _machine(),
        "threads": torch.get_num_threads(),
        "compiler": os.environ.get("CXX", ""),
        "source": source_hash(Path(__file__).parents[2]),
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def find(name: str) -> Path | None:
    """The folder of a program that is there."""
    folder = root() / name
    if not (folder / FACTS).is_file() or not (folder / CODE).is_file():
        return None
    with suppress(OSError):
        os.utime(folder)
    return folder


def discard(name: str) -> None:
    """Remove a program."""
    shutil.rmtree(root() / name, ignore_errors=True)


@contextmanager
def adding(name: str) -> Iterator[Path]:
    """A folder to build a program in; it gets its name when the block ends without error."""
    place = root()
    temporary = place / f".{secrets.token_hex(6)}"
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        try:
            os.replace(temporary, place / name)
        except OSError:  # another process has built the same in the meantime
            if find(name) is None:
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(place)


def _prune(place: Path) -> None:
    """Remove the programs that have not been used for the longest time, and torn ones."""
    with suppress(OSError):
        entries = [(entry.stat().st_mtime, entry) for entry in place.iterdir() if entry.is_dir()]
        torn = [e for t, e in entries if e.name[0] == "." and t < time.time() - 86400]
        whole = sorted((t, e) for t, e in entries if e.name[0] != ".")
        for folder in torn + [e for _, e in whole[:-KEPT]]:
            shutil.rmtree(folder, ignore_errors=True)


@lru_cache
def source_hash(folder: Path) -> str:
    """Hash of all Python files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@lru_cache
def _machine() -> list[str]:
    """What machine code depends on."""
    found = [platform.system(), platform.machine()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        found += [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return found
