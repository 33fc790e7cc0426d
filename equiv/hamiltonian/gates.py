r"""A sparse gate: which pairs of atoms are computed at all.

Luo et al. 2025 (SPHNet); the gate of paths is :class:`equiv.nn.PathGate`. What is kept follows from
positions and state alone. The state changes between optimizer steps only, by
:class:`equiv.nn.SparsitySchedule`, and is the same in a model file, in a checkpoint and on every
rank of a distributed run.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.hamiltonian.again import again
from equiv.nn.path_gate import Phase, check_sparsity

UNSEEN = -1e9  # a threshold below every score


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
        s_{ij} = w \cdot I_{ij} / \sqrt n, \qquad
        g_{ij} = \sigma\Big(\frac{s_{ij} - \theta_m}{\delta}\Big), \qquad
        \sigma(t) = t^2 (3 - 2 t) \text{ on } [0, 1]

    from the :math:`n` invariants :math:`I_{ij}` of a pair, equal for both orders of its atoms. A
    pair with :math:`g = 0` is not computed; the layer multiplies its contribution by :math:`g`, so
    value and slope go to zero where a pair is dropped. The threshold is

    .. math::
        \theta_m = \min(\theta,\; s_{(N_m + 1)}),

    where :math:`\theta` is a running mean, over optimizer steps, of the score that a share
    :math:`1 - k` of a molecule's pairs exceeds, and :math:`s_{(n)}` the n-th largest score of the
    molecule: of its :math:`N_m` atoms' pairs :math:`N_m` count, however the scores lie. So a
    molecule of three atoms or fewer keeps all pairs, with :math:`g = 1`. Other molecules in a batch
    have no say.

    In the random phase, while training, the :math:`\max(N_m, \lceil (1 - k) P_m \rceil)` first of
    the molecule's :math:`P_m` pairs in random order are kept with :math:`g = 1`, and all pairs in
    evaluation; :math:`\theta` already follows the scores. It goes on doing so in the fixed phase:
    the weights that the scores are made of still change, and a frozen threshold would soon keep a
    share that has nothing to do with :math:`k`. Evaluation changes nothing.

    Args:
        invariants: :math:`n`.
        sparsity: :math:`k`.
        width: :math:`\delta`, in units of the scores.
        decay: of the running mean.
        seed: of the random phase.
        layer: number of the gate in its model.

    Attributes:
        threshold: :math:`\theta` (part of the state).
        phase: a :class:`Phase` (part of the state).
    """

    def __init__(
        self,
        invariants: int,
        sparsity: float,
        *,
        width: float = 0.5,
        decay: float = 0.99,
        seed: int = 0,
        layer: int = 0,
    ) -> None:
        super().__init__()
        check_sparsity(sparsity)
        if width <= 0 or not 0 <= decay < 1:
            raise EquivError(
                f"PairGate: expected width > 0 and 0 <= decay < 1, got {width} and {decay}"
            )
        self.sparsity, self.width, self.decay = float(sparsity), float(width), float(decay)
        self.seed, self.layer = int(seed), int(layer)
        self.scores = nn.Parameter(torch.randn(invariants))
        self.threshold: Tensor
        self.phase: Tensor
        self.step: Tensor
        self.register_buffer("threshold", torch.tensor(UNSEEN, dtype=torch.float64))
        self.register_buffer("phase", torch.tensor(int(Phase.RANDOM)))
        self.register_buffer("step", torch.tensor(0))
        self._observed: Tensor | None = None

    def forward(
        self,
        x: Tensor,
        pair_batch: Int[Tensor, " pairs"],
        counts: Int[Tensor, " graphs"],
        invariants: Callable[[Tensor], Float[Tensor, "pairs invariants"]] = lambda x: x,
    ) -> KeptPairs:
        """Which pairs are computed, and with what weight.

        Args:
            x: the invariants, or what they are a function of.
            pair_batch: the molecule of every pair.
            counts: :math:`N_m`, the atoms of every molecule.
            invariants: :math:`I_{ij}` as a function of ``x``, which is called again in the backward
                pass: they are large.
        """

        def function(x: Tensor, scores: Tensor) -> Tensor:
            return invariants(x) @ (scores / math.sqrt(len(scores)))

        if int(self.phase) != Phase.RANDOM and not bool((counts > 3).any()):
            if self.training:  # other ranks of a distributed run may have something to tell
                self._observed = torch.zeros(2, dtype=torch.float64, device=x.device)
            return KeptPairs(None, None)
        score = again(function, x, self.scores)
        rank, pairs = ranks(score.detach(), pair_batch, len(counts))
        share = torch.maximum(torch.ceil((1 - self.sparsity) * pairs - 1e-9).long(), counts)
        if self.training:
            self._observed = _sum_over_molecules(score.detach(), pair_batch, rank, share, pairs)
        if int(self.phase) == Phase.RANDOM:
            if not self.training:
                return KeptPairs(None, None)
            generator = np.random.default_rng([self.seed, self.layer, int(self.step)])
            lots = torch.from_numpy(generator.random(len(score))).to(score.device)
            drawn, _ = ranks(lots, pair_batch, len(counts))
            return KeptPairs(torch.nonzero(drawn < share[pair_batch]).squeeze(-1), None)
        # The (N_m + 1)-th largest score of each molecule; without one, nothing is dropped.
        least = score.new_full((len(counts),), math.inf)
        at = torch.nonzero(rank == counts[pair_batch]).squeeze(-1)
        least = least.index_copy(0, pair_batch[at], score[at])
        limit = torch.minimum(least, self.threshold.to(score.dtype))
        limit = torch.where(pairs > counts, limit, torch.full_like(limit, -math.inf))
        height = ((score - limit[pair_batch]) / self.width).clamp(0, 1)
        weight = height * height * (3 - 2 * height)
        kept = torch.nonzero(weight > 0).squeeze(-1)
        return KeptPairs(kept, weight[kept])

    @torch.no_grad()
    def update(self, phase: Phase, step: int) -> None:
        """Take in the scores of the step that was just taken."""
        if int(self.phase) == Phase.FIXED:
            phase = Phase.FIXED  # for good
        if self._observed is not None and int(self.step) < step:
            total, molecules = _sum_over_ranks(self._observed)
            if molecules > 0:
                first = float(self.threshold) == UNSEEN
                mean = (total / molecules).to(self.threshold)
                self.threshold.lerp_(mean, 1.0 if first else 1 - self.decay)
            self._observed = None
        self.phase.fill_(int(phase))
        self.step.fill_(step)

    def extra_repr(self) -> str:
        phase = Phase(int(self.phase)).name.lower()
        return f"{len(self.scores)} invariants, sparsity={self.sparsity:g}, {phase}"


def ranks(
    values: Float[Tensor, " pairs"], groups: Int[Tensor, " pairs"], num_groups: int
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " groups"]]:
    """Rank of every value within its group, 0 for the largest; and the sizes of the groups."""
    order = torch.sort(values, descending=True, stable=True).indices
    order = order[torch.sort(groups[order], stable=True).indices]
    sizes = torch.bincount(groups, minlength=num_groups)
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(groups)
    rank[order] = torch.arange(len(groups), device=groups.device) - starts[groups[order]]
    return rank, sizes


def _sum_over_molecules(
    score: Tensor, pair_batch: Tensor, rank: Tensor, share: Tensor, pairs: Tensor
) -> Float[Tensor, "2"]:
    """Sum of every molecule's largest score that is not to be kept, and of how many that are.

    Molecules that keep all pairs have none.
    """
    least = score[rank == share[pair_batch]].double()
    return torch.stack((least.sum(), (pairs > share).sum().double()))


def _sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over the processes of a distributed run, every one of which calls this."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value
