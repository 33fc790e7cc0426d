"""Hamiltonians of density functional theory in a basis of atomic orbitals, as equivariant blocks.

Energies are in Hartree and the orbitals in PySCF's order where matrices are meant; blocks as
irreps are in the convention of the package. Nothing here needs PySCF to predict.
"""

from equiv.hamiltonian.basis import OrbitalBasis
from equiv.hamiltonian.batch import Batcher, HamiltonianBatch, HamiltonianSample, molecules
from equiv.hamiltonian.blocks import Blocks, blocks_from_matrices, matrices_from_blocks
from equiv.hamiltonian.frames import HamiltonianFrame, HamiltonianSet, Theory
from equiv.hamiltonian.kinds import BlockKind, Part
from equiv.hamiltonian.layout import BlockLayout
from equiv.hamiltonian.npz import read_hamiltonians, write_hamiltonians

__all__ = [
    "Batcher",
    "BlockKind",
    "BlockLayout",
    "Blocks",
    "HamiltonianBatch",
    "HamiltonianFrame",
    "HamiltonianSample",
    "HamiltonianSet",
    "OrbitalBasis",
    "Part",
    "Theory",
    "blocks_from_matrices",
    "matrices_from_blocks",
    "molecules",
    "read_hamiltonians",
    "write_hamiltonians",
]
