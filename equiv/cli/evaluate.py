"""Compare a model with labelled structures and print the errors.

Energies per atom and per structure, force components and the six stress components, in eV and
Angstrom; with --json exactly {"frames", "energy_per_atom": {"mae", "rmse"}, "energy", "forces",
"stress"}, where a property without labels has null errors.
"""

import argparse
import glob
import json
import sys
from pathlib import Path
from typing import Any

EXAMPLE = """\
examples:
  equiv evaluate model.safetensors test.xyz
  equiv evaluate model.safetensors test.xyz --json > errors.json
  equiv evaluate model.safetensors test.xyz --plot parity.png --output predicted.xyz
  equiv evaluate model.safetensors OUTCAR --stress-unit kbar"""

PROPERTIES = ("energy_per_atom", "energy", "forces", "stress")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv evaluate`."""
    from equiv.cli.arguments import add_labels, add_model

    add_model(parser)
    parser.add_argument(
        "data", metavar="DATA", nargs="+", help="labelled structures: files or globs"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    parser.add_argument("--plot", metavar="PNG", type=Path, help="write a parity plot")
    parser.add_argument(
        "--output",
        "-o",
        metavar="XYZ",
        type=Path,
        help="write the structures with predictions added",
    )
    add_labels(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from equiv.cli.arguments import check_extended_xyz, check_output, label_options, load

    inputs = [args.model, *(Path(p) for name in args.data for p in [name, *glob.glob(name)])]
    for output in (args.plot, args.output):
        if output is not None:
            check_output(output, *inputs)
    if args.output is not None:
        check_extended_xyz(args.output)
    model = load(args)

    from rich.console import Console

    from equiv.cli.predict import add_predictions, write_frames
    from equiv.data import read_frames
    from equiv.graph import AtomGraph
    from equiv.train.console import RunConsole
    from equiv.train.metrics import evaluate

    dataset = read_frames(args.data, **label_options(args))
    if not args.json:
        print(dataset.labels)
    graphs = [AtomGraph.from_atoms(f.atoms, model.cutoff, labels=f) for f in dataset]
    evaluation = evaluate(model, graphs, groups=[frame.group for frame in dataset])
    errors = evaluation.metrics.to_dict()
    if args.json:
        json.dump(_exact(errors), sys.stdout)
        print()
    else:
        RunConsole(Console()).errors(f"errors of {args.model}", {"all": errors})
    if args.plot is not None:
        from equiv.train.report import plot_parity

        plot_parity(evaluation, args.plot)
    if args.output is not None:
        frames = [frame.atoms for frame in dataset]
        add_predictions(model, frames, prefix="equiv_")
        write_frames(frames, args.output)
    return 0


def _exact(errors: dict[str, Any]) -> dict[str, Any]:
    """The promised keys and no others."""
    missing = {"mae": None, "rmse": None}
    table = {name: errors.get(name, missing) for name in PROPERTIES}
    return {"frames": errors["frames"]} | {
        name: {key: values[key] for key in ("mae", "rmse")} for name, values in table.items()
    }
