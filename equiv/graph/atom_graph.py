"""One structure as a graph, and several of them as a batch."""

from collections.abc import Sequence
from typing import Any, Protocol, Self, cast

import ase
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.data import Batch, Data

from equiv.errors import DataError, EquivError
from equiv.graph.neighbors import NeighborList, neighbor_list

_PER_EDGE_INDEX = ("senders", "receivers")


class Labels(Protocol):
    """What a structure was labelled with, in eV and Angstrom; ``None`` where a label is missing."""

    @property
    def energy(self) -> float | None: ...
    @property
    def forces(self) -> np.ndarray | None: ...
    @property
    def stress(self) -> np.ndarray | None: ...
    @property
    def weight(self) -> float: ...
    @property
    def index(self) -> int: ...


class AtomGraph(Data):
    r"""Atoms as nodes, pairs closer than the cutoff as directed edges sorted by receiver.

    .. math::
        \vec r_e = r_{\mathrm{senders}[e]} + \mathrm{shifts}[e]\, C - r_{\mathrm{receivers}[e]}

    A batch made by :func:`collate` carries the same names, with ``batch`` (the structure of each
    atom), ``ptr`` and ``num_graphs`` beside them. Missing labels are NaN, and ``False`` in their
    mask.
    """

    positions: Float[Tensor, "atoms 3"]
    atomic_numbers: Int[Tensor, " atoms"]
    cell: Float[Tensor, "graphs 3 3"]
    pbc: Bool[Tensor, "graphs 3"]
    total_charge: Float[Tensor, " graphs"]
    senders: Int[Tensor, " edges"]
    receivers: Int[Tensor, " edges"]
    shifts: Float[Tensor, "edges 3"]
    energy: Float[Tensor, " graphs"]
    forces: Float[Tensor, "atoms 3"]
    stress: Float[Tensor, "graphs 3 3"]
    has_energy: Bool[Tensor, " graphs"]
    has_forces: Bool[Tensor, " graphs"]
    has_stress: Bool[Tensor, " graphs"]
    weight: Float[Tensor, " graphs"]
    frame_index: Int[Tensor, " graphs"]

    @classmethod
    def from_atoms(
        cls,
        atoms: ase.Atoms,
        cutoff: float,
        *,
        labels: Labels | None = None,
        neighbors: NeighborList | None = None,
    ) -> Self:
        """The graph of an ASE structure.

        Args:
            atoms: the structure; its calculator, constraints and velocities are not looked at.
            cutoff: in Angstrom.
            labels: what a model should reproduce, for instance an ``equiv.data.Frame``.
            neighbors: pairs known already; by default they are searched.

        Raises:
            DataError: see :func:`equiv.graph.neighbor_list`; labels of the wrong shape; atoms
                without a chemical element.
        """
        numbers = np.asarray(atoms.numbers, dtype=np.int64)
        if len(numbers) and (numbers.min() < 1 or numbers.max() > 118):
            wrong = np.flatnonzero((numbers < 1) | (numbers > 118))[0]
            raise DataError(
                f"atom {wrong} has atomic number {numbers[wrong]}, which is no chemical element; "
                "remove ghost atoms (X) from the structure"
            )
        cell = np.array(atoms.cell.array, dtype=np.float64)
        pbc = np.array(atoms.pbc, dtype=bool)
        if neighbors is None:
            neighbors = neighbor_list(atoms.positions, cell, pbc, cutoff)
        n = len(numbers)
        energy = None if labels is None else labels.energy
        forces = None if labels is None else labels.forces
        stress = None if labels is None else labels.stress
        return cls(
            positions=torch.tensor(atoms.positions, dtype=torch.float64).reshape(n, 3),
            atomic_numbers=torch.from_numpy(numbers.copy()),
            cell=torch.from_numpy(cell)[None],
            pbc=torch.from_numpy(pbc)[None],
            total_charge=torch.tensor([total_charge(atoms)], dtype=torch.float64),
            senders=torch.from_numpy(neighbors.senders),
            receivers=torch.from_numpy(neighbors.receivers),
            shifts=torch.from_numpy(neighbors.shifts.astype(np.float64)),
            energy=_label("energy", energy, ())[None],
            forces=_label("forces", forces, (n, 3)),
            stress=_label("stress", stress, (3, 3))[None],
            has_energy=torch.tensor([energy is not None]),
            has_forces=torch.tensor([forces is not None]),
            has_stress=torch.tensor([stress is not None]),
            weight=torch.tensor([1.0 if labels is None else labels.weight], dtype=torch.float64),
            frame_index=torch.tensor([0 if labels is None else labels.index]),
            num_nodes=n,
        )

    @property
    def num_edges(self) -> int:
        return int(self.senders.shape[0])

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        # Only edge ends count atoms; torch_geometric would shift frame_index too, for its name.
        return self.num_nodes if key in _PER_EDGE_INDEX else 0

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 0


def collate(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """One graph holding all of ``graphs`` side by side, in their order, with no edges between them.

    It still has the type ``AtomGraph`` (a ``torch_geometric.data.Batch`` of it, so
    ``to_data_list`` undoes this), and adds ``batch`` [atoms], ``ptr`` [graphs + 1] and
    ``num_graphs``.

    Raises:
        EquivError: there is nothing to batch.
    """
    if len(graphs) == 0:
        raise EquivError("a batch needs at least one graph, got an empty list")
    return cast(AtomGraph, Batch.from_data_list(list(graphs)))


def total_charge(atoms: ase.Atoms) -> float:
    """The charge of a structure in e: ``atoms.info["charge"]`` or ``["total_charge"]``, else 0.

    NaN if they hold no number, or different ones: only models that know charges need to refuse it.
    """
    values = set()
    for key in ("charge", "total_charge"):
        if key in atoms.info:
            number = np.asarray(atoms.info[key])
            usable = number.size == 1 and number.dtype.kind in "iuf"
            values.add(float(number.reshape(())) if usable else np.nan)
    return 0.0 if not values else values.pop() if len(values) == 1 else np.nan


def _label(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    if value is None:
        return torch.full(shape, torch.nan, dtype=torch.float64)
    array = np.array(value, dtype=np.float64)
    if array.shape != shape:
        raise DataError(f"{name} must have shape {shape} for this structure, got {array.shape}")
    return torch.from_numpy(array)
