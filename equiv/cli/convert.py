"""Turn a trained model of mace-torch into a model file of equiv, with the same numbers.

The .model files of mace-torch are pickles: programs that Python's own reader would run. This one
reads them as data and runs nothing of them, and needs neither mace-torch nor e3nn 0.4.4; it is the
only command that reads a pickle at all, and asks before it does (or takes --trust).

With --compare both programs predict the structures of a file, mace-torch in an environment of its
own that --mace-python names, and the largest differences are printed.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equiv.integrations.mace_torch.conversion import Conversion

EXAMPLE = """\
examples:
  equiv convert water.model -o water.safetensors
  equiv convert multi.model -o small.safetensors --head dft --trust
  equiv convert water.model -o water.safetensors --compare test.xyz --mace-python mace/bin/python"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv convert`."""
    add = parser.add_argument
    add("source", metavar="MODEL", type=Path, help="what mace_run_train wrote: NAME.model")
    add("--output", "-o", metavar="FILE", type=Path, required=True, help="model file to write")
    add("--head", metavar="NAME", help="which head to keep of a model with several")
    add(
        "--dtype",
        choices=("float32", "float64"),
        help="precision of the weights (default: as they are)",
    )
    add("--trust", action="store_true", help="read the pickle without asking")
    add("--overwrite", action="store_true", help="replace an existing output")
    add(
        "--compare",
        metavar="FILE",
        type=Path,
        help="structures to predict with both programs (needs mace-torch, see --mace-python)",
    )
    add(
        "--mace-python",
        metavar="PYTHON",
        type=Path,
        help="python of an environment with mace-torch; there the .model file is unpickled and run",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, check, write, compare."""
    from equiv.cli.arguments import check_output
    from equiv.errors import EquivError
    from equiv.integrations.mace_torch.conversion import convert_mace_torch

    check_output(args.output, args.source, *([args.compare] if args.compare else []))
    if args.output.suffix != ".safetensors":
        raise EquivError(f"{args.output}: name a file ending in .safetensors")
    if args.output.exists() and not args.overwrite:
        raise EquivError(f"{args.output} exists; replace it with --overwrite, or name another")
    if not args.source.is_file():
        raise EquivError(f"{args.source}: there is no such file")
    _ask(args.source, args.trust)
    conversion = convert_mace_torch(args.source, head=args.head)
    model = conversion.model
    if args.dtype:
        from equiv.models.file import dtype_named

        model.to(dtype_named(args.dtype))
    model.save(args.output)
    _report(args, conversion)
    return 0


def _ask(source: Path, trust: bool) -> None:
    """Say what is about to be read, and go on only with consent.

    Raises:
        EquivError: nobody consented.
    """
    from equiv.errors import EquivError

    print(f"note   {source} is a pickle. It is read as data here: nothing in it is run")
    if trust:
        return
    if not sys.stdin.isatty():
        raise EquivError("nobody is here to consent to reading a pickle; give --trust if you do")
    if input("read it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise EquivError("not read; give --trust to read it without being asked")


def _report(args: argparse.Namespace, conversion: "Conversion") -> None:
    from ase.data import chemical_symbols

    model, made = conversion.model, conversion.configuration
    numbers = sum(p.numel() for p in model.parameters())
    print(f"model  {made['model']}, {made['hidden_irreps']}, {made['num_interactions']} layers")
    print(
        f"       {' '.join(chemical_symbols[z] for z in model.elements)}; cutoff {model.cutoff:g}"
    )
    print(f"wrote  {args.output}: {numbers} numbers in {str(model.dtype).removeprefix('torch.')}")
