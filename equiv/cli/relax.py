"""Relax a structure to where its forces vanish, and with --cell its stress too.

Constraints in the file are kept. Ends with exit code 1 if it did not converge; the best structure
so far is written all the same.
"""

import argparse
from pathlib import Path

EXAMPLE = """\
examples:
  equiv relax model.safetensors start.xyz -o relaxed.xyz
  equiv relax model.safetensors POSCAR --cell --fmax 0.005 -o CONTCAR
  equiv relax model.safetensors POSCAR --cell --pressure 5 -o squeezed.cif --trajectory path.traj"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv relax`."""
    from equiv.cli.arguments import add_model, count, number

    add_model(parser)
    add = parser.add_argument
    add("structure", metavar="STRUCTURE", type=Path, help="structure, in any format ASE reads")
    add(
        "--output",
        "-o",
        metavar="FILE",
        type=Path,
        required=True,
        help="file to write; its name gives the format",
    )
    add("--index", type=int, help="which structure of the file, from 0 (default: the last)")
    add("--cell", action="store_true", help="relax the cell too")
    add(
        "--pressure",
        metavar="GPA",
        type=number(),
        default=0.0,
        help="external pressure with --cell (default: 0)",
    )
    add(
        "--fmax",
        metavar="EV/A",
        type=number(above=0),
        default=0.01,
        help="largest force left (default: 0.01)",
    )
    add("--steps", type=count(), default=500, help="give up after this many steps (default: 500)")
    add(
        "--optimizer",
        choices=("BFGS", "LBFGS", "FIRE"),
        default="BFGS",
        help="of ASE (default: BFGS)",
    )
    add("--trajectory", metavar="TRAJ", type=Path, help="keep every step, as an ASE trajectory")


def run(args: argparse.Namespace) -> int:
    """Relax and write."""
    from equiv.cli.arguments import check_output, load, output_format, read_structure
    from equiv.errors import EquivError

    check_output(args.output, args.model, args.structure)
    file_format = output_format(args.output)
    if args.trajectory is not None:
        check_output(args.trajectory, args.model, args.structure)
    atoms = read_structure(args.structure, args.index)
    if args.cell and not (atoms.pbc.any() and atoms.cell.rank == 3):
        raise EquivError(
            f"--cell needs a periodic structure with three cell vectors; {args.structure} is not"
        )
    if args.pressure and not args.cell:
        raise EquivError("--pressure acts on the cell; add --cell, or leave it out")
    model = load(args)

    import ase.optimize
    from ase.filters import FrechetCellFilter
    from ase.io import write
    from ase.units import GPa

    from equiv.atomic import replacing
    from equiv.integrations.ase import EquivCalculator

    atoms.calc = EquivCalculator(model, compile=args.compile)
    before = atoms.get_potential_energy()
    target = FrechetCellFilter(atoms, scalar_pressure=args.pressure * GPa) if args.cell else atoms
    optimizer_class = getattr(ase.optimize, args.optimizer)
    trajectory = None if args.trajectory is None else str(args.trajectory)
    optimizer = optimizer_class(target, logfile="-", trajectory=trajectory)
    converged = bool(optimizer.run(fmax=args.fmax, steps=args.steps))
    after = atoms.get_potential_energy()
    with replacing(args.output) as temporary:
        write(temporary, atoms, format=file_format)
    state = "converged" if converged else "NOT converged"
    print(f"{state} after {optimizer.nsteps} steps: {before:.6f} -> {after:.6f} eV")
    if not converged:
        print(f"       allow more with --steps, now {args.steps}, or try --optimizer FIRE")
    print(f"wrote  {args.output}")
    return 0 if converged else 1
