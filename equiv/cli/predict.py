"""Predict structures and write them with energies, forces and stresses added.

Everything the input says is kept: predictions are added under keys of their own (`equiv_energy`,
`equiv_energies`, `equiv_forces`, and `equiv_stress` for periodic structures; eV and Angstrom),
beside the labels the file may hold.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

    from equiv.models.interface import Model, Prediction

EXAMPLE = """\
examples:
  equiv predict model.safetensors structures.xyz -o predicted.xyz
  equiv predict model.safetensors POSCAR -o predicted.xyz --dtype float64"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv predict`."""
    from equiv.cli.arguments import add_model

    add_model(parser)
    parser.add_argument(
        "data", metavar="DATA", type=Path, help="structures, in any format ASE reads"
    )
    parser.add_argument(
        "--output", "-o", metavar="XYZ", type=Path, required=True, help="extended xyz file to write"
    )
    parser.add_argument(
        "--prefix",
        default="equiv_",
        help="what the keys of predictions begin with (default: equiv_)",
    )


def run(args: argparse.Namespace) -> int:
    """Predict and write."""
    from equiv.cli.arguments import (
        check_extended_xyz,
        check_output,
        compile_for,
        load,
        read_structures,
    )
    from equiv.cli.progress import Progress

    check_output(args.output, args.model, args.data)
    check_extended_xyz(args.output)
    model = load(args)
    frames = read_structures(args.data)
    model.compile(compile_for(args, [len(frame) for frame in frames]))
    with Progress("predicting", len(frames), "structures") as progress:
        add_predictions(model, frames, prefix=args.prefix, progress=progress.advance)
    write_frames(frames, args.output)
    print(f"wrote  {args.output}: {len(frames)} structures, predictions under {args.prefix}*")
    return 0


def add_predictions(
    model: "Model",
    frames: Sequence["Atoms"],
    *,
    prefix: str,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Add the model's predictions to `info` and `arrays` of every frame, in place.

    Args:
        model: any model.
        frames: structures.
        prefix: what the new keys begin with.
        progress: called after each batch with the number of structures just done.

    Raises:
        EquivError: if a frame holds such keys already, or a prediction is not finite.
        UnknownElementError: if a frame holds an element the model does not know.
    """
    from equiv.errors import EquivError
    from equiv.graph import AtomGraph, collate
    from equiv.train.evaluation import evaluation_batches

    names = [prefix + name for name in ("energy", "energies", "forces", "stress")]
    for number, frame in enumerate(frames):
        taken = [name for name in names if name in frame.info or name in frame.arrays]
        if taken:
            raise EquivError(
                f"structure {number} holds {', '.join(taken)} already; choose another --prefix"
            )
    graphs = [AtomGraph.from_atoms(frame, model.cutoff) for frame in frames]
    training = model.training
    model.eval()
    try:
        for indices in evaluation_batches([int(graph.senders.shape[0]) for graph in graphs]):
            batch = collate([graphs[i] for i in indices]).to(model.device)
            prediction = model(batch, forces=True, stress=bool(batch.pbc.any()))
            first = batch.ptr.tolist()
            for row, index in enumerate(indices):
                atoms = slice(first[row], first[row + 1])
                _add(frames[index], prediction, row, atoms, prefix)
            if progress is not None:
                progress(len(indices))
    finally:
        model.train(training)


def _add(frame: "Atoms", prediction: "Prediction", row: int, atoms: slice, prefix: str) -> None:
    """Add the prediction for structure `row` of a batch, whose atoms are `atoms`, to a frame."""
    import numpy as np
    from ase.stress import full_3x3_to_voigt_6_stress

    from equiv.errors import EquivError

    assert prediction.forces is not None
    energy = prediction.energy[row].item()
    forces = prediction.forces[atoms].double().cpu().numpy()
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise EquivError(
            f"the prediction for {frame.get_chemical_formula()} is not finite; atoms may lie on "
            "top of each other"
        )
    frame.info[prefix + "energy"] = energy
    frame.arrays[prefix + "energies"] = prediction.energies[atoms].cpu().numpy()
    frame.arrays[prefix + "forces"] = forces
    if prediction.stress is not None and frame.pbc.any() and frame.cell.rank == 3:
        stress = prediction.stress[row].double().cpu().numpy()
        frame.info[prefix + "stress"] = full_3x3_to_voigt_6_stress(stress)


def write_frames(frames: Sequence["Atoms"], output: Path) -> None:
    """Write extended xyz, atomically."""
    from ase.io import write

    from equiv.atomic import replacing

    with replacing(output) as temporary:
        write(temporary, list(frames), format="extxyz")
