"""Compare a model with reference data and print the errors.

For a potential: energies per atom and per structure, force components and the six stress
components, in eV and Angstrom; with --json exactly {"frames", "energy_per_atom": {"mae", "rmse"},
"energy", "forces", "stress"}, where a property without labels has null errors. For other models:
the errors of their own task, on files like those they were trained on; with --json as in the
metrics.json of their training.
"""

import argparse
import glob
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from equiv.data import Frame
    from equiv.models.abstract import AbstractModel
    from equiv.models.interface import Model

EXAMPLE = """\
examples:
  equiv evaluate model.safetensors test.xyz
  equiv evaluate model.safetensors test.xyz --json > errors.json
  equiv evaluate model.safetensors test.xyz --plot parity.png --output predicted.xyz
  equiv evaluate model.safetensors OUTCAR --stress-unit kbar
  equiv evaluate forecaster.safetensors nbody/test.npz"""

MOST_TURNED = 20  # structures to turn where a model is not invariant by construction
PROPERTIES = ("energy_per_atom", "energy", "forces", "stress")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv evaluate`."""
    from equiv.cli.arguments import add_labels, add_model

    add_model(parser)
    parser.add_argument(
        "data", metavar="DATA", nargs="+", help="labelled structures (or systems): files or globs"
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
    from equiv.atomic import replacing
    from equiv.cli.arguments import (
        check_extended_xyz,
        check_output,
        compile_for,
        label_options,
        load_any,
        read_labelled,
    )
    from equiv.cli.predict import add_predictions, write_frames
    from equiv.cli.progress import Progress
    from equiv.errors import EquivError

    inputs = [args.model, *(Path(p) for name in args.data for p in [name, *glob.glob(name)])]
    for output in (args.plot, args.output):
        if output is not None:
            check_output(output, *inputs)
    if args.plot is not None and args.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise EquivError(f"{args.plot}: a plot is written as .png, .pdf or .svg; name such a file")
    if args.output is not None:
        check_extended_xyz(args.output)
    choices = label_options(args)
    model = load_any(args)

    from rich.console import Console

    from equiv.graph import AtomGraph
    from equiv.models.interface import Model
    from equiv.train.console import RunConsole
    from equiv.train.metrics import QUANTITIES, evaluate

    if not isinstance(model, Model):
        return _evaluate_other(args, model)
    dataset = read_labelled(args.data, **choices)
    if not args.json:
        print(dataset.labels)
    graphs = [AtomGraph.from_atoms(f.atoms, model.cutoff, labels=f) for f in dataset]
    model.compile(compile_for(args, [len(frame.atoms) for frame in dataset]))
    with Progress("evaluating", len(graphs), "structures") as progress:
        groups = [frame.group for frame in dataset]
        evaluation = evaluate(model, graphs, groups=groups, progress=progress.advance)
    errors = evaluation.metrics.to_dict()
    if not any(name in errors for name in PROPERTIES):
        raise EquivError(
            f"{' '.join(args.data)}: none of the {len(dataset)} structures has a label to compare "
            "with; name the keys with --energy-key, --forces-key, --stress-key"
        )
    if args.json:
        print(json.dumps(_exact(errors)))
    else:
        RunConsole(Console()).errors(f"errors of {args.model}", {"all": errors}, QUANTITIES)
        if model.exact_rotations is not None:
            print(_turned(model, [frame.atoms for frame in dataset[:MOST_TURNED]]))
    if args.plot is not None:
        from equiv.train.plots import parity

        with replacing(args.plot) as temporary:
            parity({_set_name(args.data): evaluation}, temporary, QUANTITIES)
    if args.output is not None:
        frames = [_with_labels(frame) for frame in dataset]
        add_predictions(model, frames, prefix="equiv_")
        write_frames(frames, args.output)
    return 0


def _turned(model: "Model", frames: "list[Atoms]") -> str:
    """What random rotations change that they should not."""
    from equiv.models.equivariance_error import equivariance_error

    error = equivariance_error(model, frames, rotations=4)
    return (
        f"this model is not invariant under all rotations; turning {len(frames)} structures at "
        f"random changes\n{error}"
    )


def _evaluate_other(args: argparse.Namespace, model: "AbstractModel") -> int:
    """The errors of a model that is no potential, as its task knows them."""
    from rich.console import Console

    from equiv.atomic import replacing
    from equiv.cli.progress import Progress
    from equiv.errors import EquivError
    from equiv.train.console import RunConsole
    from equiv.train.plots import parity
    from equiv.train.recipes import RECIPES
    from equiv.train.tasks import task_class

    if args.output is not None:
        raise EquivError(
            f"{args.model}: --output writes structures with energies and forces, which a "
            f"{model.name} model does not predict; leave it out"
        )
    kind = task_class(RECIPES[model.name].task)
    task = kind.for_model(model, args.data, model.card.get("recipe") or {})
    samples = task.train.samples
    with Progress("evaluating", len(samples), task.samples) as progress:
        evaluation = task.evaluate(model, samples, progress=progress.advance)
    errors = evaluation.metrics.to_dict()
    if args.json:
        print(json.dumps(errors))
    else:
        title = f"errors of {args.model}"
        RunConsole(Console()).errors(title, {"all": errors}, task.quantities)
    if args.plot is not None:
        if not evaluation.pairs:
            raise EquivError(f"{args.model}: a {model.name} model has no parity plot")
        with replacing(args.plot) as temporary:
            parity({_set_name(args.data): evaluation}, temporary, task.quantities)
    return 0


def _with_labels(frame: "Frame") -> "Atoms":
    """A copy of the structure with the labels it was compared with, in eV and Angstrom."""
    atoms = frame.atoms.copy()
    for name in ("energy", "stress"):
        if getattr(frame, name) is not None:
            atoms.info[f"reference_{name}"] = getattr(frame, name)
    if frame.forces is not None:
        atoms.arrays["reference_forces"] = frame.forces
    return atoms


def _exact(errors: dict[str, Any]) -> dict[str, Any]:
    """The promised keys and no others."""
    missing = {"mae": None, "rmse": None}
    table = {name: errors.get(name, missing) for name in PROPERTIES}
    return {"frames": errors["frames"]} | {
        name: {key: values[key] for key in ("mae", "rmse")} for name, values in table.items()
    }


def _set_name(files: list[str]) -> str:
    """What a plot calls the structures: short enough for a legend."""
    first = Path(files[0]).name
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"
