r"""A sparse gate: which pairs of atoms are computed at all.

Luo et al. 2025 (SPHNet); the gate of paths is :class:`equiv.nn.PathGate`. What is kept follows from
positions, weights and state alone. The state changes between optimizer steps only, by
:class:`equiv.nn.SparsitySchedule`, and is the same in a model file, in a checkpoint and on every
rank of a distributed run.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.hamiltonian.again import again
from equiv.nn.path_gate import Phase, check_sparsity

Invariants = Callable[[Tensor, slice | Tensor], Tensor]
"""Invariants ``[some pairs, invariants]`` from features and the numbers of these pairs."""


class KeptPairs(NamedTuple):
    """Pairs that a layer computes.

    Attributes:
        rows: their numbers; ``None`` for all.
        weight: factor of each of them, in (0, 1]; ``None`` for ones.
    """

    rows: Int[Tensor, " kept"] | None
    weight: Float[Tensor, " kept"] | None


class PairGate(nn.Module):
    r"""Keep the share of the pairs of atoms that matters, continuously in the positions.

    .. math::
        s_{ij} = w \cdot I_{ij} / \sqrt n - \beta\, r_{ij}, \qquad
        g_{ij} = \sigma\Big(\frac{s_{ij} - s_{(K_m + 1)}}{\delta}\Big), \qquad
        \sigma(t) = t^2 (3 - 2 t) \text{ on } [0, 1]

    from the :math:`n` invariants :math:`I_{ij}` of a pair, equal for both orders of its atoms, and
    its distance :math:`r_{ij}`: :math:`w` starts small and :math:`\beta` at one, so that what is
    near comes first until the network knows better.

    The threshold :math:`s_{(K_m + 1)}` is the largest score of the molecule that is not kept: of
    its :math:`P_m` pairs, :math:`K_m = \max(N_m, \lceil (1 - k) P_m \rceil)` are, at least as many
    as it has atoms. Order statistics are continuous functions of the scores, so where two pairs
    change places :math:`g` has a kink but no jump, and it is zero for both. A pair with
    :math:`g = 0` is not computed; the layer multiplies its contribution by :math:`g`. A molecule of
    three atoms or fewer keeps all pairs, with :math:`g = 1`. Other molecules in a batch have no
    say.

    In the random phase, while training, the :math:`K_m` first pairs of the molecule in random
    order are kept with :math:`g = 1`; in evaluation all are.

    Args:
        invariants: :math:`n`.
        sparsity: :math:`k`.
        width: :math:`\delta`, in units of the scores.
        seed: of the random phase.
        layer: number of the gate in its model.

    Attributes:
        scores: :math:`w`.
        reach: :math:`\beta`, 1/Angstrom.
        phase: a :class:`Phase` (part of the state).
    """

    def __init__(
        self,
        invariants: int,
        sparsity: float,
        *,
        width: float = 0.5,
        seed: int = 0,
        layer: int = 0,
    ) -> None:
        super().__init__()
        check_sparsity(sparsity)
        if width <= 0:
            raise EquivError(f"PairGate: expected width > 0, got {width}")
        self.sparsity, self.width = float(sparsity), float(width)
        self.seed, self.layer = int(seed), int(layer)
        self.scores = nn.Parameter(0.1 * torch.randn(invariants))
        self.reach = nn.Parameter(torch.ones(()))
        self.phase: Tensor
        self.step: Tensor
        self.register_buffer("phase", torch.tensor(int(Phase.RANDOM)))
        self.register_buffer("step", torch.tensor(0))

    def forward(
        self,
        x: Tensor,
        distances: Float[Tensor, " pairs"],
        pair_batch: Int[Tensor, " pairs"],
        counts: Int[Tensor, " graphs"],
        invariants: Invariants = lambda x, pairs: x[pairs],
    ) -> KeptPairs:
        """Which pairs are computed, and with what weight.

        Args:
            x: the invariants, or what they are a function of.
            distances: :math:`r_{ij}`, Angstrom.
            pair_batch: the molecule of every pair.
            counts: :math:`N_m`, the atoms of every molecule.
            invariants: :math:`I_{ij}` of some pairs as a function of ``x``, which is called again
                in the backward pass: they are large.
        """
        pairs = torch.bincount(pair_batch, minlength=len(counts))
        kept = torch.maximum(torch.ceil((1 - self.sparsity) * pairs - 1e-9).long(), counts)
        random = int(self.phase) == Phase.RANDOM
        if not bool((pairs > kept).any()) or (random and not self.training):
            return KeptPairs(None, None)
        if random:
            generator = np.random.default_rng([self.seed, self.layer, int(self.step)])
            lots = torch.from_numpy(generator.random(len(pair_batch))).to(pair_batch.device)
            drawn = ranks(lots, pair_batch, pairs)
            return KeptPairs(torch.nonzero(drawn < kept[pair_batch]).squeeze(-1), None)

        def function(some: slice | Tensor, x: Tensor, *rest: Tensor) -> Tensor:
            distances, scores, reach = rest
            score = invariants(x, some) @ (scores / math.sqrt(len(scores)))
            return score - reach * distances[some].to(score.dtype)

        given = (x, distances, self.scores, self.reach)
        with torch.no_grad():
            rank = ranks(function(slice(None), *given), pair_batch, pairs)
        # Gradients are those of the kept pairs and of the one whose score is the threshold.
        rows = torch.nonzero(rank <= kept[pair_batch]).squeeze(-1)
        score = again(partial(function, rows), *given)
        batch = pair_batch[rows]
        at = torch.nonzero(rank[rows] == kept[batch]).squeeze(-1)
        limit = score.new_full((len(counts),), -math.inf)  # of molecules that keep all pairs
        limit = limit.index_copy(0, batch[at], score[at])
        height = ((score - limit[batch]) / self.width).clamp(0, 1)
        weight = height * height * (3 - 2 * height)
        above = torch.nonzero(weight > 0).squeeze(-1)
        return KeptPairs(rows[above], weight[above])

    @torch.no_grad()
    def update(self, phase: Phase, step: int) -> None:
        """Take note of the phase after ``step`` optimizer steps. A fixed gate stays fixed."""
        if int(self.phase) != Phase.FIXED:
            self.phase.fill_(int(phase))
            self.step.fill_(step)

    def extra_repr(self) -> str:
        phase = Phase(int(self.phase)).name.lower()
        return f"{len(self.scores)} invariants, sparsity={self.sparsity:g}, {phase}"


def ranks(
    values: Float[Tensor, " pairs"], groups: Int[Tensor, " pairs"], sizes: Int[Tensor, " groups"]
) -> Int[Tensor, " pairs"]:
    """Rank of every value within its group, 0 for the largest."""
    order = torch.sort(values, descending=True, stable=True).indices
    order = order[torch.sort(groups[order], stable=True).indices]
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(groups)
    rank[order] = torch.arange(len(groups), device=groups.device) - starts[groups[order]]
    return rank
