"""Atoms to graphs: neighbour search, batches and receiver-sorted blocks.

Nothing is imported before it is used, so that layers need torch alone, and neither ASE nor e3nn.
"""

from typing import TYPE_CHECKING

from equiv.lazy import lazy_names

_HOME = {
    "AtomGraph": "equiv.graph.atom_graph",
    "NeighborList": "equiv.graph.neighbors",
    "collate": "equiv.graph.atom_graph",
    "neighbor_list": "equiv.graph.neighbors",
    "total_charge": "equiv.graph.atom_graph",
}

__all__ = [
    "AtomGraph",
    "NeighborList",
    "collate",
    "neighbor_list",
    "total_charge",
]

if TYPE_CHECKING:
    from equiv.graph.atom_graph import AtomGraph, collate, total_charge
    from equiv.graph.neighbors import NeighborList, neighbor_list

__getattr__, __dir__ = lazy_names(__name__, __all__, _HOME)
