"""Show what this installation consists of, in a form to paste into a report.

Versions, threads, devices, compiler and optional packages. Exits with code 1 if a required package
is missing or cannot be imported.
"""

import argparse
import json
import os
import platform
import shutil
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

EXAMPLE = """\
examples:
  equiv doctor
  equiv doctor --json"""

REQUIRED = {
    "torch": "torch",
    "e3nn": "e3nn",
    "torch_geometric": "torch_geometric",
    "ase": "ase",
    "numpy": "numpy",
    "vesin": "vesin",
    "safetensors": "safetensors",
    "PyYAML": "yaml",
    "pydantic": "pydantic",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "jaxtyping": "jaxtyping",
}
OPTIONAL = {
    "torch_scatter": "torch_scatter",
    "pyscf": "pyscf",
    "lammps": "lammps",
    "mpi4py": "mpi4py",
}
ENVIRONMENT = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv doctor`."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """Look at everything and print it."""
    facts = examine()
    if args.json:
        print(json.dumps(facts))
    else:
        for title, entries in facts.items():
            print(title)
            for name, value in entries.items():
                print(f"  {name:<18} {value}")
    broken = [f"{name}: {state}" for name, state in facts["required"].items() if _is_broken(state)]
    if broken and not args.json:
        print("\nproblem  " + "\n         ".join(broken))
        print("         reinstall equiv: pip install --force-reinstall equiv")
    return 1 if broken else 0


def examine() -> dict[str, dict[str, Any]]:
    """Every fact, by section; nothing here raises."""
    return {
        "system": {
            "equiv": _try(lambda: metadata.version("equiv")),
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "platform": platform.platform(),
            "processors": _processors(),
            "memory": _try(_memory),
        },
        "torch": {
            "threads": _try(lambda: import_module("torch").get_num_threads()),
            "devices": _try(_devices),
            "blas": _try(_blas),
            "compile": _compiler(),
        },
        "required": {name: _package(name, module, True) for name, module in REQUIRED.items()},
        "optional": {name: _package(name, module, False) for name, module in OPTIONAL.items()},
        "integration": {"ase plug-in": _try(_ase_plugin)},
        "environment": {name: os.environ.get(name, "not set") for name in ENVIRONMENT},
    }


def _try(look: Callable[[], Any]) -> Any:
    """What `look` finds, or why it finds nothing: a report must come out of any installation."""
    try:
        return look()
    except Exception as error:
        return f"unknown ({type(error).__name__}: {str(error)[:80]})"


def _package(name: str, module: str, required: bool) -> str:
    """Version of a package, imported if it is required so that a broken one is found."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return "MISSING" if required else "not installed"
    if required:
        try:
            import_module(module)
        except Exception as error:
            return f"{version} BROKEN: {type(error).__name__}: {str(error)[:80]}"
    return version


def _is_broken(state: str) -> bool:
    return "MISSING" in state or "BROKEN" in state


def _processors() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} usable of {os.cpu_count()}, {platform.machine()}"


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def _devices() -> str:
    import torch

    found = ["cpu"]
    found += [_gpu(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return "; ".join(found)


def _gpu(index: int) -> str:
    import torch

    memory = torch.cuda.get_device_properties(index).total_memory / 2**30
    return f"cuda:{index} {torch.cuda.get_device_name(index)}, {memory:.0f} GiB"


def _blas() -> str:
    import torch

    names = {
        "MKL": torch.backends.mkl.is_available(),
        "OpenMP": torch.backends.openmp.is_available(),
    }
    return ", ".join(name for name, there in names.items() if there) or "neither MKL nor OpenMP"


def _compiler() -> str:
    found = next(
        (path for name in ("c++", "g++", "clang++", "cl") if (path := shutil.which(name))), None
    )
    return found or "no C++ compiler: torch.compile cannot be used"


def _ase_plugin() -> str:
    groups = metadata.entry_points(group="ase.plugins")
    found = any(entry.value.startswith("equiv.") for entry in groups)
    return "registered" if found else "NOT registered: reinstall equiv"
