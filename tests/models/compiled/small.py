"""A model so small that compiling it takes seconds, and structures of many sizes."""

import ase.build
import torch

from equiv.graph import AtomGraph, collate
from equiv.models import MACE

CUTOFF = 3.5


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    return MACE(
        ["H", "O"],
        CUTOFF,
        channels=2,
        hidden_degree=0,
        edge_degree=1,
        layers=1,
        correlation=1,
        num_radial=2,
        radial_hidden=[4],
        mean_neighbors=4.0,
        reference_energies={"H": -13.6, "O": -432.1},
    ).to(dtype)


def make_batch(*sizes, rattle=0.1):
    """Boxes of so many water molecules along each axis; 0 is a free molecule."""
    graphs = []
    for seed, size in enumerate(sizes):
        atoms = ase.build.molecule("H2O")
        if size:
            atoms.set_cell([3.1] * 3)
            atoms.pbc = True
            atoms = atoms.repeat(size)
        atoms.rattle(rattle, seed=seed)
        graphs.append(AtomGraph.from_atoms(atoms, CUTOFF))
    return collate(graphs)
