"""Structures as graphs, alone and in batches."""

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
import torch
from torch_geometric.data import Batch, Data

from equiv.graph.neighbors import neighbor_list


class AtomGraph(Data):
    """One structure, its neighbour list and, if there are any, its labels."""

    @classmethod
    def from_atoms(cls, atoms: ase.Atoms, cutoff: float, *, labels: Any = None) -> "AtomGraph":
        """Graph of ``atoms`` with all edges shorter than ``cutoff`` (Angstrom)."""
        edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        graph = cls(
            positions=torch.from_numpy(np.array(atoms.positions, dtype=np.float64)),
            atomic_numbers=torch.from_numpy(np.array(atoms.numbers, dtype=np.int64)),
            cell=torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64))[None],
            pbc=torch.from_numpy(np.array(atoms.pbc))[None],
            senders=torch.from_numpy(edges.senders),
            receivers=torch.from_numpy(edges.receivers),
            shifts=torch.from_numpy(edges.shifts.astype(np.float64)),
            num_nodes=len(atoms),
        )
        if labels is not None:
            n = len(atoms)
            energy, forces, stress = labels.energy, labels.forces, labels.stress
            nan = float("nan")
            graph.energy = torch.tensor([nan if energy is None else energy], dtype=torch.float64)
            graph.forces = (
                torch.full((n, 3), nan, dtype=torch.float64)
                if forces is None
                else torch.as_tensor(forces, dtype=torch.float64)
            )
            graph.stress = (
                torch.full((1, 3, 3), nan, dtype=torch.float64)
                if stress is None
                else torch.as_tensor(stress, dtype=torch.float64)[None]
            )
            graph.has_energy = torch.tensor([energy is not None])
            graph.has_forces = torch.tensor([forces is not None])
            graph.has_stress = torch.tensor([stress is not None])
            graph.weight = torch.tensor([labels.weight], dtype=torch.float64)
            graph.frame_index = torch.tensor([labels.index])
        return graph

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in ("senders", "receivers"):
            return self.num_nodes
        if key == "frame_index":
            return 0
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 0


def collate(graphs: Sequence[AtomGraph]) -> Batch:
    """One batch of several structures; indices are shifted so that edges stay inside their structure."""
    return Batch.from_data_list(list(graphs))
