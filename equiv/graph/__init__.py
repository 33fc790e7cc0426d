"""Atoms to graphs: neighbour search, batches and receiver-sorted blocks."""

from equiv.graph.atom_graph import AtomGraph, collate, total_charge
from equiv.graph.neighbors import NeighborList, neighbor_list

__all__ = ["AtomGraph", "NeighborList", "collate", "neighbor_list", "total_charge"]
