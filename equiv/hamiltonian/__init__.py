"""Hamiltonians of density functional theory in a basis of atomic orbitals, as equivariant blocks.

Energies are in Hartree and the orbitals in PySCF's order where matrices are meant; blocks as
irreps are in the convention of the package. Nothing here needs PySCF to predict.
"""

from equiv.hamiltonian.basis import OrbitalBasis
from equiv.hamiltonian.blocks import Blocks, blocks_from_matrices, matrices_from_blocks
from equiv.hamiltonian.kinds import BlockKind, Part
from equiv.hamiltonian.layout import BlockLayout

__all__ = [
    "BlockKind",
    "BlockLayout",
    "Blocks",
    "OrbitalBasis",
    "Part",
    "blocks_from_matrices",
    "matrices_from_blocks",
]
