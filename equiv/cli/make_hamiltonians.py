"""Make a set of Hamiltonians with PySCF: `equiv data make hamiltonians`."""

import argparse
import os
import sys
from pathlib import Path

from equiv.cli.arguments import count, number
from equiv.cli.progress import Progress
from equiv.errors import EquivError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `equiv data make`."""
    group = parser.add_argument_group("make (hamiltonians; of nbody the output only)")
    add, positive = group.add_argument, number(above=0)
    add("--output", "-o", metavar="PATH", type=Path, help="archive to write (.npz); nbody: folder")
    add("--basis", metavar="NAME", default="def2-svp", help="as in PySCF (default: def2-svp)")
    add("--xc", metavar="NAME", default="b3lyp5", help="functional, or hf (default: b3lyp5)")
    add(
        "--grid-level",
        metavar="N",
        type=int,
        choices=range(10),
        default=3,
        help="integration grid of PySCF, 0 to 9 (default: 3)",
    )
    add("--as-is", action="store_true", help="label the structures given, without dynamics")
    add("--count", metavar="N", type=count(), default=1000, help="geometries (default: 1000)")
    add(
        "--temperature",
        "-T",
        metavar="K",
        type=positive,
        default=500.0,
        help="of the dynamics, in K (default: 500)",
    )
    add("--replicas", metavar="N", type=count(), default=10, help="trajectories (default: 10)")
    add(
        "--stride",
        metavar="FS",
        type=positive,
        default=20.0,
        help="between geometries, in fs (default: 20)",
    )
    add(
        "--equilibration",
        metavar="FS",
        type=positive,
        default=1000.0,
        help="before the first geometry, in fs (default: 1000)",
    )
    add("--charge", metavar="E", type=int, default=0, help="of the molecule (default: 0)")
    add("--seed", metavar="N", type=int, default=0, help="of dynamics and order (default: 0)")
    add(
        "--baselines",
        nargs="+",
        choices=("minao", "sap"),
        default=["minao"],
        metavar="NAME",
        help="cheap Hamiltonians to store: minao, sap (default: minao)",
    )
    add("--forces", action="store_true", help="compute forces as well")
    add(
        "--workers",
        metavar="N",
        type=count(),
        default=cores(),
        help="processes that compute at the same time; any number gives the same set (default: "
        "the cores, here %(default)s)",
    )


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(args: argparse.Namespace) -> int:
    """Make the set; the exit code (75 if it was interrupted, and can be resumed)."""
    from equiv.hamiltonian import Theory
    from equiv.integrations.hamiltonian_data import Plan, make_hamiltonians, read_structures
    from equiv.integrations.xtb_sampling import Sampling
    from equiv.train.interrupt import Interruption

    files = args.files[1:]
    if not files:
        raise EquivError("equiv data make hamiltonians: name a file with structures to start from")
    if args.output is None or args.output.suffix != ".npz":
        raise EquivError("equiv data make hamiltonians: name the archive to write, -o NAME.npz")
    structures = [atoms for file in files for atoms in read_structures(Path(file))]
    sampling = None
    if not args.as_is:
        sampling = Sampling(
            count=args.count,
            temperature=args.temperature,
            replicas=min(args.replicas, args.count),
            stride=args.stride,
            equilibration=args.equilibration,
            charge=args.charge,
            seed=args.seed,
        )
    plan = Plan(
        args.basis,
        Theory(args.xc, args.grid_level),
        sampling,
        tuple(args.baselines),
        args.forces,
        args.charge,
    )
    total = len(structures) if sampling is None else sampling.count
    interruption = Interruption()
    drawn = Progress("drawing", total, "geometries")
    with interruption.watched(), Progress("computing", total, "Hamiltonians") as progress:
        data = make_hamiltonians(
            args.output,
            plan,
            structures,
            workers=args.workers,
            stop=lambda: bool(interruption),
            sampled=drawn.advance,
            labelled=lambda steps, note: progress.advance(steps, note=note),
        )
    if data is None:
        print(
            f"interrupted by {interruption.name}; the same command goes on from here",
            file=sys.stderr,
        )
        return 75
    print(f"{args.output}: {data.describe()}")
    left = total - len(data)
    if left:
        print(f"{left} of {total} calculations did not converge and were left out")
    return 0
