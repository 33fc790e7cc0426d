"""The converted model against mace-torch itself, run in an environment of its own."""

import copy
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate
from equiv.models import Model

PathLike = str | os.PathLike[str]
SCRIPT = Path(__file__).with_name("mace_side.py")


@dataclass(frozen=True)
class Comparison:
    """The largest differences between two programs, both in float64.

    Attributes:
        structures: how many were compared.
        energy: eV per atom.
        forces: eV/Angstrom.
        stress: eV/Angstrom^3; zero if no structure is periodic in all directions.
    """

    structures: int
    energy: float
    forces: float
    stress: float


def compare_with_mace_torch(
    model: Model,
    source: PathLike,
    structures: Sequence[Atoms],
    *,
    python: PathLike | None = None,
    head: str | None = None,
) -> Comparison:
    """Predict structures with the converted model and with mace-torch.

    Args:
        model: the converted model.
        source: the file it came from. mace-torch unpickles it: that runs what is in it.
        structures: with elements that the model knows.
        python: interpreter of an environment with mace-torch; this one by default.
        head: of the original model.

    Raises:
        EquivError: mace-torch is not there or fails.
    """
    if python is None and importlib.util.find_spec("mace") is None:
        raise EquivError(
            "mace-torch is not installed here, and cannot be beside equiv, for it pins an old "
            "e3nn; make an environment for it (python -m venv mace; mace/bin/pip install "
            "mace-torch) and name it with --mace-python mace/bin/python"
        )
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "structures.npz"), Path(folder, "results.npz")
        np.savez(
            given,
            counts=np.array([len(atoms) for atoms in structures]),
            numbers=np.concatenate([atoms.numbers for atoms in structures]),
            positions=np.concatenate([atoms.positions for atoms in structures]),
            cells=np.array([atoms.cell.array for atoms in structures]),
            pbc=np.array([atoms.pbc for atoms in structures]),
        )
        _run(
            [str(python or sys.executable), "-W", "ignore", str(SCRIPT)],
            [os.fspath(source), str(given), str(found), *([] if head is None else [head])],
        )
        with np.load(found) as archive:
            theirs = {name: archive[name] for name in ("energies", "forces", "stresses")}
    return _differences(model, structures, theirs)


def _run(command: list[str], arguments: list[str]) -> None:
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise EquivError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise EquivError(f"mace-torch failed ({command[0]}): {lines[-1][:300]}")


def _differences(
    model: Model, structures: Sequence[Atoms], theirs: dict[str, np.ndarray]
) -> Comparison:
    exact = copy.deepcopy(model).to(torch.float64).eval()
    worst = {"energy": 0.0, "forces": 0.0, "stress": 0.0}
    begin = 0
    for k, atoms in enumerate(structures):
        whole = bool(atoms.pbc.all())
        ours = exact(
            collate([AtomGraph.from_atoms(atoms, exact.cutoff)]), forces=True, stress=whole
        )
        assert ours.forces is not None
        end = begin + len(atoms)
        pairs = {
            "energy": (ours.energy.numpy() / len(atoms), theirs["energies"][k] / len(atoms)),
            "forces": (ours.forces.numpy(), theirs["forces"][begin:end]),
        }
        if whole:
            assert ours.stress is not None
            pairs["stress"] = (ours.stress.numpy()[0], theirs["stresses"][k])
        for name, (a, b) in pairs.items():
            worst[name] = max(worst[name], float(np.abs(a - b).max(initial=0.0)))
        begin = end
    return Comparison(structures=len(structures), **worst)
