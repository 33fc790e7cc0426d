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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from equiv.integrations.mace_torch.conversion import Conversion

EXAMPLE = """\
examples:
  equiv convert water.model -o water.safetensors
  equiv convert multi.model -o small.safetensors --head dft --elements H O --trust
  equiv convert water.model -o water.safetensors --compare test.xyz --mace-python mace/bin/python"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv convert`."""
    add = parser.add_argument
    add("source", metavar="MODEL", type=Path, help="what mace_run_train wrote: NAME.model")
    add("--output", "-o", metavar="FILE", type=Path, required=True, help="model file to write")
    add("--head", metavar="NAME", help="which head to keep of a model with several")
    add(
        "--elements",
        metavar="SYMBOL",
        nargs="+",
        help="keep only these elements: the same numbers, a smaller file, sooner compiled",
    )
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
    """Convert, check, compare, write."""
    from equiv.cli.arguments import check_output, read_structures
    from equiv.errors import EquivError
    from equiv.integrations.mace_torch.conversion import convert_mace_torch

    check_output(args.output, args.source, *([args.compare] if args.compare else []))
    if args.output.suffix != ".safetensors":
        raise EquivError(f"{args.output}: name a file ending in .safetensors")
    if args.output.exists() and not args.overwrite:
        raise EquivError(f"{args.output} exists; replace it with --overwrite, or name another")
    if not args.source.exists():
        raise EquivError(f"{args.source}: there is no such file")
    structures = read_structures(args.compare) if args.compare else []
    _ask(args.source, args.trust)
    conversion = convert_mace_torch(args.source, head=args.head)
    if args.elements:
        from equiv.models.element_subset import restricted_to

        conversion.model = restricted_to(conversion.model, args.elements)
    _describe(conversion)
    if structures:
        _compare(args, conversion, structures)
    if args.dtype:
        from equiv.models.file import dtype_named

        conversion.model.to(dtype_named(args.dtype))
    conversion.model.save(args.output)
    print(f"wrote  {args.output}")
    if not structures:
        print(
            "check  compare it with mace-torch on your structures: --compare FILE --mace-python "
            "PYTHON"
        )
    return 0


def _ask(source: Path, trust: bool) -> None:
    """Say what is about to be read, and go on only with consent.

    Raises:
        EquivError: nobody consented.
    """
    from equiv.errors import EquivError

    print(f"note   {source} is a pickle; it is read as data here, and nothing in it is run")
    if trust:
        return
    if not sys.stdin.isatty():
        raise EquivError("nobody is here to consent to reading a pickle; give --trust if you do")
    if input("read it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise EquivError("not read; give --trust to read it without being asked")


def _describe(conversion: "Conversion") -> None:
    """What was found, and how well the map fits."""
    from ase.data import chemical_symbols

    model, made = conversion.model, conversion.configuration
    symbols = [chemical_symbols[z] for z in model.elements]
    named = " ".join(symbols) if len(symbols) <= 20 else f"{len(symbols)} elements"
    numbers = sum(p.numel() for p in model.parameters())
    print(
        f"found  {made['model']} with {made['hidden_irreps']}, {made['num_interactions']} layers, "
        f"{made['interaction_cls']}"
    )
    print(
        f"       {named}; cutoff {model.cutoff:g} Angstrom; {', '.join(_extras(made)) or 'plain'}"
    )
    print(
        f"model  {type(model).__name__}, {numbers} numbers in "
        f"{str(model.dtype).removeprefix('torch.')}; coupling tensors fit to "
        f"{conversion.residual:.0e}"
    )
    for note in conversion.notes:
        print(f"note   {note}")


def _extras(made: dict[str, Any]) -> list[str]:
    """What is unusual about the model, in mace-torch's words."""
    usual = {
        "radial_type": "bessel",
        "distance_transform": None,
        "pair_repulsion": False,
        "apply_cutoff": True,
        "use_agnostic_product": False,
        "use_last_readout_only": False,
    }
    extras = [f"{key}={made[key]}" for key, value in usual.items() if made[key] != value]
    return extras + ([f"heads {', '.join(made['heads'])}"] if len(made["heads"]) > 1 else [])


def _compare(args: argparse.Namespace, conversion: "Conversion", structures: list["Atoms"]) -> None:
    """Print the differences, and refuse a model whose numbers are others.

    Raises:
        EquivError: mace-torch cannot be run, or the differences are larger than rounding.
    """
    from equiv.errors import EquivError
    from equiv.integrations.mace_torch.comparison import compare_with_mace_torch

    found = compare_with_mace_torch(
        conversion.model, args.source, structures, python=args.mace_python, head=args.head
    )
    print(
        f"check  largest differences to mace-torch in float64, {found.structures} structures:\n"
        f"       energy {found.energy:.1e} eV/atom, forces {found.forces:.1e} eV/Angstrom, "
        f"stress {found.stress:.1e} eV/Angstrom^3"
    )
    # Constants that the file holds in single precision show in the sixth or seventh digit.
    loose = 1000.0 if conversion.rounding else 1.0
    if max(found.energy / 1e-8, found.forces / 1e-7, found.stress / 1e-8) > loose:
        raise EquivError(
            "the converted model and mace-torch disagree by more than rounding; nothing was "
            "written. Please report this with the line `found` above"
        )
