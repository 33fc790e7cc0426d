"""Run molecular dynamics with ASE's integrators.

nve keeps the energy (velocity Verlet), langevin the temperature (with the volume), npt temperature
and pressure (Martyna-Tobias-Klein, with an isotropic cell unless --cell full). Starts from the
velocities in the file if there are any, else from random ones at -T. Stops with exit code 2 if the
run explodes.
"""

import argparse
from pathlib import Path

EXAMPLE = """\
examples:
  equiv md model.safetensors start.xyz -T 300 --steps 10000 -o run.traj
  equiv md model.safetensors start.xyz --ensemble nve -T 300 --timestep 0.5 -o run.traj
  equiv md model.safetensors POSCAR --ensemble npt -T 600 --pressure 1 -o run.traj --log run.csv
  equiv md model.safetensors start.xyz -T 300 --steps 10000 -o run.traj --continue"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `equiv md`."""
    from equiv.cli.arguments import add_model, count, number

    add_model(parser)
    add = parser.add_argument
    positive, fs = number(above=0), "FS"
    add("structure", metavar="STRUCTURE", type=Path, help="structure, in any format ASE reads")
    add(
        "--output", "-o", metavar="FILE", type=Path, required=True, help="trajectory: .traj or .xyz"
    )
    add("--index", type=int, help="which structure of the file, from 0 (default: the last)")
    add(
        "--ensemble",
        choices=("nve", "langevin", "npt"),
        default="langevin",
        help="(default: langevin)",
    )
    add(
        "--temperature",
        "-T",
        metavar="K",
        type=number(above=0),
        required=True,
        help="temperature in K",
    )
    add("--steps", type=count(), default=1000, help="how many steps (default: 1000)")
    add("--timestep", metavar=fs, type=positive, help="in fs (default: 0.5 with hydrogen, else 1)")
    add(
        "--every",
        metavar="STEPS",
        type=count(),
        default=10,
        help="steps between frames (default: 10)",
    )
    add(
        "--friction",
        metavar="1/FS",
        type=positive,
        default=0.01,
        help="of langevin (default: 0.01)",
    )
    add("--pressure", metavar="GPA", type=number(), default=0.0, help="of npt (default: 0)")
    add(
        "--cell",
        choices=("isotropic", "full"),
        default="isotropic",
        help="of npt (default: isotropic)",
    )
    add(
        "--seed",
        type=count(least=0),
        default=0,
        help="of velocities and langevin noise (default: 0)",
    )
    add(
        "--max-temperature",
        metavar="K",
        type=positive,
        help="stop above (default: 10 T, at least 5000)",
    )
    add(
        "--log",
        metavar="CSV",
        type=Path,
        help="write time, energies, temperature, volume per frame",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--continue",
        dest="extend",
        action="store_true",
        help="go on from the end of the trajectory",
    )
    group.add_argument("--overwrite", action="store_true", help="replace an existing trajectory")


def run(args: argparse.Namespace) -> int:
    """Run and write."""
    from equiv.cli.arguments import check_output, load, read_structure
    from equiv.errors import EquivError

    outputs = [path for path in (args.output, args.log) if path is not None]
    for output in outputs:
        check_output(output, args.model, args.structure)
    if args.output.suffix.lower() not in (".traj", ".xyz", ".extxyz"):
        raise EquivError(
            f"{args.output}: a trajectory is written as .traj or .xyz; name such a file"
        )
    if args.extend and not args.output.exists():
        raise EquivError(f"--continue: there is no {args.output} to go on from")
    exists = next((path for path in outputs if path.exists()), None)
    if exists is not None and not (args.extend or args.overwrite):
        raise EquivError(
            f"{exists} exists; go on from its end with --continue, replace it with --overwrite, "
            "or name another"
        )
    source, index = (args.output, -1) if args.extend else (args.structure, args.index)
    atoms = read_structure(source, index)
    if args.ensemble == "npt" and not (atoms.pbc.any() and atoms.cell.rank == 3):
        raise EquivError(
            f"npt needs a periodic structure with three cell vectors; {args.structure} is not"
        )
    if args.ensemble == "npt" and atoms.constraints:
        raise EquivError(f"npt cannot keep atoms fixed, and {args.structure} holds constraints")
    if not atoms.get_number_of_degrees_of_freedom():
        raise EquivError(f"{source}: every atom is fixed, there is nothing to move")
    model = load(args)

    from equiv.cli.dynamics import Dynamics

    return Dynamics(atoms, model, args).run()
