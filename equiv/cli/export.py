"""Write a model file without what sparse gates have dropped: smaller, with the same predictions.

While a model with gates is trained, all of its weights are kept, also those of paths that are not
computed any more. Export drops them and folds the scores of the paths that are left into their
weights. The new file is for prediction; to train further, keep the old one.
"""

import argparse
from pathlib import Path

EXAMPLE = """\
examples:
  equiv export model.safetensors -o compact.safetensors
  equiv export model.safetensors -o compact.safetensors --overwrite"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv export`."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="model file (.safetensors)")
    parser.add_argument(
        "--output", "-o", metavar="FILE", type=Path, required=True, help="model file to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace) -> int:
    """Drop, say what, write."""
    from equiv.cli.arguments import check_output
    from equiv.errors import EquivError
    from equiv.models.file import load_model

    check_output(args.output, args.model)
    if args.output.suffix != ".safetensors":
        raise EquivError(f"{args.output}: name a file ending in .safetensors")
    if args.output.exists() and not args.overwrite:
        raise EquivError(f"{args.output} exists; replace it with --overwrite, or name another")
    model = load_model(args.model)
    small = model.compact()
    if small is model:
        print(
            f"{args.model}: nothing to drop, this {model.name} model computes all that is in its "
            "file; nothing was written"
        )
        return 0
    small.save(args.output)
    for layer, (kept, total) in model.kept_paths.items():
        print(f"{layer:<24} {kept} of {total} paths kept")
    for path, written in ((args.model, model), (args.output, small)):
        numbers = sum(parameter.numel() for parameter in written.parameters())
        print(f"{path}: {numbers} numbers, {path.stat().st_size / 2**20:.2f} MiB")
    return 0
