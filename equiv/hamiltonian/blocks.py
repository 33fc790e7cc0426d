"""Hamiltonians as irreps of their blocks, and as matrices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.hamiltonian.kinds import BlockKind
from equiv.hamiltonian.layout import BlockLayout

Key = int | tuple[int, int]


@dataclass(frozen=True)
class Blocks:
    """The blocks of a batch of molecules as irreps, grouped by element and by pair of elements.

    Leading axes are free, for a spin axis for instance. Columns are those of
    :class:`equiv.hamiltonian.BlockKind`, rows those of :class:`equiv.hamiltonian.BlockLayout`. Each
    pair of atoms appears once, the other half of the matrix is its transpose.

    Attributes:
        diagonal: blocks of atoms with themselves, for each element, ``[..., members, dim]``.
        pairs: blocks of pairs of atoms, for each two elements, ``[..., members, dim]``.
    """

    diagonal: dict[int, Float[Tensor, "*axes members dim"]]
    pairs: dict[tuple[int, int], Float[Tensor, "*axes members dim"]]

    def items(self) -> Iterator[tuple[Key, Tensor]]:
        """Key (one or two atomic numbers) and rows, diagonal first."""
        yield from self.diagonal.items()
        yield from self.pairs.items()

    def map(self, function: Callable[..., Tensor], *others: "Blocks") -> "Blocks":
        """Apply a function to the rows of each kind, of several blocks together."""
        return Blocks(
            {z: function(x, *(o.diagonal[z] for o in others)) for z, x in self.diagonal.items()},
            {k: function(x, *(o.pairs[k] for o in others)) for k, x in self.pairs.items()},
        )

    def flat(self) -> Float[Tensor, "*axes numbers"]:
        """All numbers of all blocks side by side."""
        return torch.cat([rows.flatten(-2) for _, rows in self.items()], -1)

    def to(self, *args: Any, **kwargs: Any) -> "Blocks":
        """In another dtype or on another device."""
        return self.map(lambda x: x.to(*args, **kwargs))

    def detach(self) -> "Blocks":
        """Cut off from the computation that made them."""
        return self.map(Tensor.detach)

    def __add__(self, other: "Blocks") -> "Blocks":
        return self.map(torch.add, other)

    def __sub__(self, other: "Blocks") -> "Blocks":
        return self.map(torch.sub, other)

    def __mul__(self, factor: float) -> "Blocks":
        return self.map(lambda x: x * factor)

    __rmul__ = __mul__


def blocks_from_matrices(
    matrices: Sequence[Float[Tensor, "*axes nao nao"]], layout: BlockLayout
) -> Blocks:
    """The irreps of all blocks of symmetric matrices in PySCF's order.

    Exact up to rounding, and orthonormal: the squares of the diagonal blocks' irreps plus twice
    those of the pairs sum to the squared Frobenius norm. Of each two entries that should be equal
    only one is looked at. Linear in the matrices, one gather and a few small matrix products.

    Args:
        matrices: one for each molecule of the layout.
        layout: of the same molecules.

    Raises:
        EquivError: the matrices do not fit the molecules.
    """
    if len(matrices) != layout.num_graphs:
        raise EquivError(
            f"{layout.num_graphs} molecules need as many matrices, got {len(matrices)}"
        )
    for index, (matrix, nao) in enumerate(zip(matrices, layout.orbitals, strict=True)):
        if matrix.shape[-2:] != (nao, nao):
            raise EquivError(
                f"molecule {index} has {nao} orbitals in the basis {layout.basis.name}, its matrix "
                f"has shape {tuple(matrix.shape)}; is it of another basis?"
            )
    flat = torch.cat([matrix.flatten(-2) for matrix in matrices], -1)

    def rows(kind: BlockKind, first: Tensor, second: Tensor) -> Tensor:
        transform = kind.transform
        places = layout.entries(
            first, second, transform.rows.to(first.device), transform.columns.to(first.device)
        )
        return transform.encode(flat[..., places])

    basis = layout.basis
    return Blocks(
        {z: rows(basis.diagonal(z), atoms, atoms) for z, atoms in layout.atoms.items()},
        {
            key: rows(basis.pair(*key), layout.first[where], layout.second[where])
            for key, where in layout.pair_slices.items()
        },
    )


def matrices_from_blocks(
    blocks: Blocks, layout: BlockLayout
) -> list[Float[Tensor, "*axes nao nao"]]:
    """The symmetric matrices in PySCF's order that have these blocks.

    The inverse of :func:`blocks_from_matrices`. Both halves of a matrix are the same numbers, so it
    is symmetric to the last bit. Differentiable.
    """
    some = next(iter(blocks.diagonal.values()))
    flat = some.new_zeros(*some.shape[:-2], layout.num_entries)
    places, values = [], []

    def add(kind: BlockKind, rows: Tensor, first: Tensor, second: Tensor) -> None:
        transform = kind.transform
        u, v = transform.rows.to(first.device), transform.columns.to(first.device)
        entries = transform.decode(rows)
        places.append(layout.entries(first, second, u, v).flatten())
        values.append(entries.flatten(-2))
        if kind.is_diagonal:  # entries on the diagonal of the matrix are their own mirror images
            other = torch.nonzero(u != v).squeeze(-1)
            u, v, entries = u[other], v[other], entries[..., other]
        places.append(layout.entries(second, first, v, u).flatten())
        values.append(entries.flatten(-2))

    basis = layout.basis
    for z, atoms in layout.atoms.items():
        add(basis.diagonal(z), blocks.diagonal[z], atoms, atoms)
    for key, where in layout.pair_slices.items():
        add(basis.pair(*key), blocks.pairs[key], layout.first[where], layout.second[where])
    flat = flat.index_copy(-1, torch.cat(places), torch.cat(values, -1))
    pieces = flat.split([n * n for n in layout.orbitals], -1)
    return [piece.unflatten(-1, (n, n)) for piece, n in zip(pieces, layout.orbitals, strict=True)]
