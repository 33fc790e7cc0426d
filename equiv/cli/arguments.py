"""Arguments that several verbs share, and the plain words for values that cannot be used."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv.errors import EquivError

if TYPE_CHECKING:
    from ase import Atoms

    from equiv.data import Dataset
    from equiv.models.abstract import AbstractModel
    from equiv.models.interface import Model


def number(*, above: float = -math.inf, least: float = -math.inf) -> Callable[[str], float]:
    """An argument type: a finite number greater than `above` and not smaller than `least`."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value <= above or value < least:
            raise argparse.ArgumentTypeError(
                f"expected {_range('a number', above, least)}, got {text!r}"
            )
        return value

    return convert


def count(*, least: int = 1) -> Callable[[str], int]:
    """An argument type: a whole number not smaller than `least`; 1e5 is understood."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            try:
                real = float(text)
                value = int(real) if real == int(real) else least - 1
            except (ValueError, OverflowError):
                value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, got {text!r}"
            )
        return value

    return convert


def _range(noun: str, above: float, least: float) -> str:
    if above > -math.inf:
        return f"{noun} above {above:g}"
    return f"{noun} of at least {least:g}" if least > -math.inf else f"a finite {noun.split()[-1]}"


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model file, and how to run it."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="model file (.safetensors)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        help="precision of the weights (default: as stored in the file)",
    )
    parser.add_argument(
        "--device", default="cpu", help="where to compute: cpu, cuda, ... (default: cpu)"
    )
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="compile the model first; auto: if there is so much to compute that it pays",
    )


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Which labels to read, and in what units they are."""
    group = parser.add_argument_group("labels", "keys are discovered and printed when not given")
    for name in ("energy", "forces", "stress"):
        group.add_argument(
            f"--{name}-key",
            metavar="KEY",
            default="auto",
            help=f"key of the {name} labels, or `none`",
        )
    group.add_argument(
        "--energy-unit", metavar="UNIT", help="unit of energy in the file (default: eV)"
    )
    group.add_argument(
        "--length-unit", metavar="UNIT", help="unit of length in the file (default: Angstrom)"
    )
    group.add_argument(
        "--stress-unit", metavar="UNIT", help="unit of stress in the file, as GPa or kbar"
    )
    group.add_argument(
        "--allow-missing",
        action="store_true",
        help="let structures without some of the labels count for the others",
    )
    group.add_argument(
        "--stress-sign",
        choices=("ase", "compression_positive"),
        help="sign of stress in the file (default: ase, tension positive)",
    )


def label_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `equiv.data.read_frames` needs beside the file, from the arguments of `add_labels`."""
    from pydantic import BaseModel, ValidationError

    from equiv.data.options import LabelChoice, UnitChoice

    names = ("energy", "forces", "stress")
    keys = {name: getattr(args, f"{name}_key") for name in names}
    labels = {name: None if key == "none" else key for name, key in keys.items()}
    missing = list(names) if args.allow_missing else []
    given = {name: getattr(args, f"{name}_unit") for name in ("energy", "length", "stress")}
    given["stress_sign"] = args.stress_sign
    units = {name: unit for name, unit in given.items() if unit is not None}
    problems: list[str] = []

    def checked(kind: type[BaseModel], values: dict[str, Any], options: dict[str, str]) -> Any:
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            for item in error.errors():
                name = options.get(str(item["loc"][0]), "labels") if item["loc"] else "labels"
                problems.append(f"--{name}: {item['msg'].removeprefix('Value error, ')}")

    found = {
        "labels": checked(
            LabelChoice,
            {**labels, "allow_missing": missing},
            {**{name: f"{name}-key" for name in names}, "allow_missing": "allow-missing"},
        ),
        "units": checked(
            UnitChoice,
            units,
            {"stress_sign": "stress-sign"}
            | {name: f"{name}-unit" for name in ("energy", "length", "stress")},
        ),
    }
    if problems:
        raise EquivError("; ".join(problems))
    return found


# What the keys of a recipe, named in errors about data, are called on the command line.
RECIPE_WORDS = (
    (r"labels\.allow_missing: \[\w+\] trains on", "--allow-missing compares"),
    (r"labels\.(energy|forces|stress): null", r"--\1-key none"),
    (r"labels\.(energy|forces|stress)( \(on the command line [^)]*\))?", r"--\1-key"),
    (r"units\.stress_sign: ", "--stress-sign "),
    (r"units\.(energy|length|stress): ", r"--\1-unit "),
)


def read_labelled(files: list[str], **choices: Any) -> "Dataset":
    """Labelled structures for `label_options`; errors name the files and the options.

    Raises:
        DataError: if they cannot be read or lack a label that was asked for.
    """
    from equiv.data import read_frames
    from equiv.errors import DataError

    try:
        return read_frames(files, **choices)
    except DataError as error:
        message = str(error)
        for pattern, word in RECIPE_WORDS:
            message = re.sub(pattern, word, message)
        named = any(Path(name).name in message for name in files)
        raise DataError(message if named else f"{' '.join(files)}: {message}") from error


def load(args: argparse.Namespace) -> "Model":
    """The model of `add_model`."""
    from equiv.models.file import load_potential

    return load_potential(args.model, dtype=args.dtype, device=args.device)


def load_any(args: argparse.Namespace) -> "AbstractModel":
    """The model of `add_model`, potential or not."""
    from equiv.models.file import load_model

    return load_model(args.model, dtype=args.dtype, device=args.device)


def compile_for(args: argparse.Namespace, sizes: Sequence[int]) -> str:
    """`on` or `off`: what `--compile` means for structures of these numbers of atoms."""
    from equiv.models.compiled.worth import worthwhile

    if args.compile != "auto":
        return args.compile
    return "on" if worthwhile(1, sum(sizes)) else "off"


def read_structure(path: Path, index: int | None) -> "Atoms":
    """One structure of a file: number `index`, or the last, saying so when there are several.

    Raises:
        EquivError: if the file holds no such structure or cannot be read.
    """
    frames = read_structures(path) if index is None else _read(path, index)
    if len(frames) > 1:
        print(f"note   {path} holds {len(frames)} structures; this is the last (see --index)")
    if not len(frames[-1]):
        raise EquivError(f"{path}: the structure has no atoms")
    return frames[-1]


def read_structures(path: Path) -> "list[Atoms]":
    """Every structure in a file, with everything the file says about them.

    Raises:
        EquivError: if the file is missing, holds no structure, or cannot be read.
    """
    frames = _read(path, ":")
    if not frames:
        raise EquivError(f"{path} holds no structures")
    return frames


def _read(path: Path, index: int | str) -> "list[Atoms]":
    from ase.io import read

    if not path.exists():
        raise EquivError(f"{path}: there is no such file")
    if path.is_dir():
        raise EquivError(f"{path} is a folder; name a file with structures")
    if path.stat().st_size == 0:
        raise EquivError(f"{path} is empty and holds no structures")
    try:
        frames = read(path, index=index)
    except (IndexError, StopIteration) as error:
        if index == ":":
            raise EquivError(f"{path} holds no structures that ASE can read") from error
        raise EquivError(f"{path} holds no structure number {index}") from error
    except Exception as error:  # readers of dozens of formats fail in dozens of ways
        words = " ".join(str(error).split())[:200]
        raise EquivError(
            f"{path}: ASE cannot read structures from it ({type(error).__name__}: {words})"
        ) from error
    return frames if isinstance(frames, list) else [frames]


def check_output(output: Path, *inputs: Path) -> None:
    """Refuse, before computing, an output that cannot be written or would destroy an input.

    Raises:
        EquivError: if `output` is one of `inputs`, a folder, or in a folder that does not exist.
    """
    if output.is_dir():
        raise EquivError(f"{output} is a folder; name a file to write")
    if not output.parent.is_dir():
        raise EquivError(f"{output}: the folder {output.parent} does not exist; create it first")
    if any(output.exists() and source.exists() and output.samefile(source) for source in inputs):
        raise EquivError(f"{output} is an input and will not be overwritten; name another output")


def check_extended_xyz(output: Path) -> None:
    """Refuse formats that would lose part of what the input says.

    Raises:
        EquivError: if `output` is not an extended xyz file by its name.
    """
    if output.suffix.lower() not in (".xyz", ".extxyz"):
        raise EquivError(
            f"{output}: predictions are written as extended xyz, which keeps everything the "
            "input says; name a file ending in .xyz"
        )


def output_format(output: Path) -> str:
    """The ASE format that the name of `output` stands for.

    Raises:
        EquivError: if ASE cannot write such a file.
    """
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        name = filetype(str(output), read=False)
    except UnknownFileTypeError:
        name = ""
    if name not in ioformats or not ioformats[name].can_write:
        raise EquivError(
            f"{output}: ASE writes no structure file of that name; "
            "use for example .xyz, .cif, .traj or POSCAR"
        )
    return name
