"""Batches of structures under an edge budget, in an order that depends on seed and epoch alone."""

from collections.abc import Sequence

import numpy as np

from equiv.errors import EquivError


class EdgeBudgetSampler:
    """Fill batches in random order until the next structure would break a limit.

    A batch holds at most `max_structures` structures and at most `max_edges` edges, because time
    and memory of a step follow the edges. The order of epoch `k` is drawn from a generator seeded
    with `(seed, k)`: any epoch can be drawn again without having drawn those before it, which is
    what makes a resumed run equal to an uninterrupted one.

    Args:
        num_edges: edges of every structure.
        max_edges: most edges in a batch.
        max_structures: most structures in a batch.
        seed: seed of the order.

    Raises:
        EquivError: there is no structure, or one alone exceeds `max_edges`.
    """

    def __init__(
        self, num_edges: Sequence[int], *, max_edges: int, max_structures: int, seed: int
    ) -> None:
        self.num_edges = np.asarray(num_edges, dtype=np.int64)
        self.max_edges, self.max_structures, self.seed = max_edges, max_structures, seed
        if self.num_edges.size == 0:
            raise EquivError("there is no structure to make batches of")
        if (largest := int(self.num_edges.max())) > max_edges:
            raise EquivError(
                f"batch_edges = {max_edges} is less than the {largest} edges of the largest "
                f"structure (number {int(self.num_edges.argmax())}); raise train.batch_edges or "
                "lower model.cutoff"
            )

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch; every structure is in exactly one of them."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_edges.size)
        return self._fill(order)

    def largest(self) -> list[int]:
        """The heaviest batch: of those with the most edges, as many as fit."""
        return max(
            self._fill(np.argsort(-self.num_edges, kind="stable")),
            key=lambda batch: int(self.num_edges[batch].sum()),
        )

    def in_order(self) -> list[list[int]]:
        """Batches of the structures in the order they came."""
        return self._fill(np.arange(self.num_edges.size))

    def _fill(self, order: np.ndarray) -> list[list[int]]:
        batches: list[list[int]] = [[]]
        edges = 0
        for index in order.tolist():
            more = int(self.num_edges[index])
            if batches[-1] and (
                edges + more > self.max_edges or len(batches[-1]) == self.max_structures
            ):
                batches.append([])
                edges = 0
            batches[-1].append(index)
            edges += more
        return batches


def automatic_edge_budget(num_edges: Sequence[int], batch_size: int) -> int:
    """Twice the edges of `batch_size` average structures, and enough for the largest one."""
    counts = np.asarray(num_edges, dtype=np.int64)
    return max(int(2 * batch_size * counts.mean()), int(counts.max()), 1)
