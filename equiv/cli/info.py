"""Show what a model file says about its model: elements, errors, data, licence, recipe.

With --verify the whole file is read and compared with its checksums.
"""

import argparse
import json
from pathlib import Path
from typing import Any

EXAMPLE = """\
examples:
  equiv info model.safetensors
  equiv info model.safetensors --verify
  equiv info model.safetensors --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv info`."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="model file (.safetensors)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the weights and compare checksums"
    )


def run(args: argparse.Namespace) -> int:
    """Read the header and print it."""
    from equiv.models.file import read_header, verify_model

    header = verify_model(args.model) if args.verify else read_header(args.model)
    facts: dict[str, Any] = {
        "file": str(args.model),
        "bytes": args.model.stat().st_size,
        "model": header.model,
        "parameters": header.parameters,
        "dtype": header.dtype,
        "elements": _symbols(header.elements),
        "cutoff": header.cutoff,
        "units": header.units,
        "reference_energies": header.reference_energies,
        "recipe": header.recipe,
        "card": header.card,
        "format_version": header.format_version,
        "equiv_version": header.equiv_version,
        "sha256": header.sha256,
        "verified": args.verify,
    }
    if args.json:
        print(json.dumps(facts))
    else:
        _print(facts)
    return 0


def _symbols(numbers: tuple[int, ...]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in numbers]


def _print(facts: dict[str, Any]) -> None:
    verified = ", checksums match" if facts["verified"] else ""
    energies = ", ".join(
        f"{symbol} {value:.6g}" for symbol, value in facts["reference_energies"].items()
    )
    _line("file", f"{facts['file']} ({facts['bytes'] / 2**20:.2f} MiB{verified})")
    _line("model", f"{facts['model']}, {facts['parameters']} numbers in {facts['dtype']}")
    if facts["elements"]:
        _line("elements", " ".join(facts["elements"]))
    if facts["cutoff"] is not None:
        _line("cutoff", f"{facts['cutoff']:g} {facts['units'].get('length', '')}".rstrip())
    _line("units", ", ".join(f"{name} {unit}" for name, unit in facts["units"].items()))
    if "energy" in facts["units"]:
        _line("reference", f"{energies or 'none'} (eV)")
    _line("written by", f"equiv {facts['equiv_version']}, format {facts['format_version']}")
    _line("sha256", facts["sha256"])
    for title in ("card", "recipe"):
        print(f"\n{title}")
        if not facts[title]:
            print("  nothing recorded")
        for key, value in facts[title].items():
            _print_value(key, value, 2)


def _line(name: str, value: str) -> None:
    print(f"{name:<10} {value}")


def _print_value(key: str, value: Any, indent: int) -> None:
    """One entry, nested mappings below it."""
    pad = " " * indent
    if isinstance(value, dict) and value:
        print(f"{pad}{key}")
        for inner, item in value.items():
            _print_value(inner, item, indent + 2)
        return
    if isinstance(value, list):
        value = " ".join(map(str, value))
    print(f"{pad}{key:<18} {f'{value:.6g}' if isinstance(value, float) else value}")
