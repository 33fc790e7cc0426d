"""Make the charged-particle set that forecasters are compared on: `equiv data make nbody`."""

import argparse
from pathlib import Path

from equiv.cli.progress import Progress
from equiv.errors import EquivError


def run(args: argparse.Namespace) -> int:
    """Make the set, and say whether it is the published one bit for bit; the exit code."""
    from equiv.data.nbody import PUBLISHED, SIZES, TRAINED_ON, fingerprint, make_nbody

    if len(args.files) > 1:
        raise EquivError(
            f"equiv data make nbody takes no files, got {' '.join(args.files[1:])}; the folder to "
            "write to is named with --output"
        )
    folder = args.output or Path("nbody")
    if folder.exists() and not folder.is_dir():
        raise EquivError(f"{folder} is a file; name a folder with --output")
    total = sum(min(size, TRAINED_ON) for size in SIZES.values())
    with Progress("simulating", total, "systems") as progress:
        made = make_nbody(folder, progress.advance)
    for name, trajectories in made.items():
        same = fingerprint(trajectories) == PUBLISHED[name]
        words = "bit for bit the published ones" if same else "equal to the published ones but for"
        if not same:
            words += " rounding, which close encounters amplify (another BLAS or processor)"
        print(f"{folder / name}.npz: {len(trajectories.charges)} systems, {words}")
    return 0
