"""Small C++ kernels, built on first use with the compiler of the machine and kept on disk."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

# No -ffast-math: it would change how the whole process treats denormal numbers when the library is
# loaded. Kernels say themselves in which order they add.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-shared",
    "-fPIC",
)


@cache
def load_library(source: str) -> ctypes.CDLL | None:
    """The functions of a C++ source (``extern "C"``), or ``None`` if they cannot be had here.

    Needs a compiler (``$CXX``, g++ or clang++) once; later processes find the library on disk. The
    environment variable ``EQUIV_NATIVE=0`` turns all of this off.
    """
    if os.environ.get("EQUIV_NATIVE", "1") == "0" or platform.system() not in ("Linux", "Darwin"):
        return None
    compiler = find_compiler()
    if compiler is None:
        return None
    key = "\n".join([source, *FLAGS, _identity(compiler), _processor()])
    folder = library_folder()
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _build(compiler, source, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        warnings.warn(
            f"a fast kernel could not be built with {compiler} and a slower path is used instead: "
            f"{str(reason)[:300]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


@cache
def find_compiler() -> str | None:
    """Path of the C++ compiler, if there is one."""
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["g++", "clang++"]:
        if path := shutil.which(name):
            return path
    return None


def library_folder() -> Path:
    """Where built kernels are kept: ``$XDG_CACHE_HOME/equiv/native``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "equiv" / "native"


def _build(compiler: str, source: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        code, library = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
        code.write_text(source)
        command = [compiler, *FLAGS, str(code), "-o", str(library)]
        for openmp in (["-fopenmp"], []):  # a compiler without OpenMP makes serial kernels
            done = subprocess.run([*command, *openmp], capture_output=True, text=True, timeout=300)
            if done.returncode == 0:
                break
        done.check_returncode()
        os.replace(library, path)  # whoever else builds the same puts the same in its place


@cache
def _identity(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60)
    return done.stdout


@cache
def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
