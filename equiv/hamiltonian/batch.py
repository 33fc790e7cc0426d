"""Several molecules with their Hamiltonians at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.errors import EquivError
from equiv.hamiltonian.basis import OrbitalBasis
from equiv.hamiltonian.blocks import Blocks, blocks_from_matrices
from equiv.hamiltonian.frames import HamiltonianFrame
from equiv.hamiltonian.layout import BlockLayout


@dataclass(frozen=True)
class HamiltonianSample:
    """A molecule with the blocks that a model is to predict.

    Attributes:
        frame: the molecule.
        target: irreps of Hamiltonian minus baseline, Eh, float64.
        occupied: number of doubly occupied orbitals.
    """

    frame: HamiltonianFrame
    target: Blocks
    occupied: int


@dataclass(frozen=True)
class HamiltonianBatch:
    """Molecules side by side.

    Attributes:
        numbers: atomic numbers. Shape ``[atoms]``.
        positions: in Angstrom, float64. Shape ``[atoms, 3]``.
        batch: the molecule of every atom. Shape ``[atoms]``.
        layout: where the blocks are.
        target: irreps of Hamiltonian minus baseline, Eh, float64; None without labels.
        samples: the molecules one by one; empty without labels.
    """

    numbers: Int[Tensor, " atoms"]
    positions: Float[Tensor, "atoms 3"]
    batch: Int[Tensor, " atoms"]
    layout: BlockLayout
    target: Blocks | None = None
    samples: tuple[HamiltonianSample, ...] = ()

    @property
    def num_graphs(self) -> int:
        """Molecules."""
        return self.layout.num_graphs

    def to(self, device: torch.device | str) -> "HamiltonianBatch":
        """The same on another device; the molecules one by one stay where they are."""
        if torch.device(device) == self.positions.device:
            return self
        return replace(
            self,
            numbers=self.numbers.to(device),
            positions=self.positions.to(device),
            batch=self.batch.to(device),
            layout=self.layout.to(device),
            target=None if self.target is None else self.target.to(device),
        )


def molecules(
    basis: OrbitalBasis,
    numbers: Sequence[Int[Tensor, " atoms"]],
    positions: Sequence[Float[Tensor, "atoms 3"]],
) -> HamiltonianBatch:
    """Molecules without labels, for a prediction.

    Raises:
        EquivError: there are none, or numbers and positions do not fit.
        UnknownElementError: the basis lacks an element.
    """
    if not numbers or len(numbers) != len(positions):
        raise EquivError(
            f"a batch needs numbers and positions of at least one molecule, got {len(numbers)} "
            f"and {len(positions)}"
        )
    for index, (z, r) in enumerate(zip(numbers, positions, strict=True)):
        if r.shape != (len(z), 3):
            raise EquivError(
                f"molecule {index} has {len(z)} atoms and positions of shape {tuple(r.shape)}"
            )
    sizes = torch.tensor([len(z) for z in numbers])
    batch = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    every = torch.cat([torch.as_tensor(z, dtype=torch.int64) for z in numbers])
    places = torch.cat([torch.as_tensor(r, dtype=torch.float64) for r in positions])
    return HamiltonianBatch(every, places, batch, BlockLayout.build(basis, every, batch))


class Batcher:
    """Makes samples of molecules, and batches of samples.

    The integers of a batch follow from the elements of its molecules; they are kept for the next
    batch with the same molecules in the same order.

    Args:
        basis: the orbitals.
        baseline: what the model corrects.
    """

    def __init__(self, basis: OrbitalBasis, baseline: str) -> None:
        self.basis, self.baseline = basis, baseline
        self._layouts: dict[tuple[Any, ...], BlockLayout] = {}

    def samples(self, frames: Iterable[HamiltonianFrame]) -> list[HamiltonianSample]:
        """Molecules with the blocks to predict.

        Raises:
            DataError: a molecule lacks the baseline, or is no closed shell.
        """
        return [
            HamiltonianSample(
                frame,
                blocks_from_matrices(
                    [frame.difference(self.baseline)], BlockLayout.build(self.basis, frame.numbers)
                ),
                frame.occupied(self.basis),
            )
            for frame in frames
        ]

    def collate(self, samples: Sequence[HamiltonianSample]) -> HamiltonianBatch:
        """A batch with its targets."""
        frames = [sample.frame for sample in samples]
        key = tuple(tuple(frame.numbers.tolist()) for frame in frames)
        layout = self._layouts.get(key)
        if layout is None:
            every = molecules(
                self.basis, [f.numbers for f in frames], [f.positions for f in frames]
            )
            layout = every.layout
            if len(self._layouts) < 100:
                self._layouts[key] = layout
        diagonal = {
            z: _joined([s.target.diagonal[z] for s in samples if z in s.target.diagonal])
            for z in layout.atoms
        }
        pairs = {
            key: _joined([s.target.pairs[key] for s in samples if key in s.target.pairs])
            for key in layout.pair_slices
        }
        positions = torch.cat([frame.positions for frame in frames])
        target = Blocks(diagonal, pairs)
        return HamiltonianBatch(
            layout.numbers, positions, layout.batch, layout, target, tuple(samples)
        )


def _joined(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows, -2)
