r"""Sparse gates: which paths of a tensor product, and which pairs of atoms, are computed at all.

Luo et al. 2025 (SPHNet). A gate is an object beside the layer that it thins out. It says what is
kept and by what factor; the layer computes that and nothing else. What is kept changes between
optimizer steps only, by :class:`equiv.hamiltonian.schedule.SparsitySchedule`, and all of it is
state: a model file, a checkpoint and every rank of a distributed run hold the same.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.errors import EquivError

UNSEEN = -1e9  # a threshold below every score


class Phase(IntEnum):
    """How the kept part is chosen."""

    RANDOM = 0
    ADAPTIVE = 1
    FIXED = 2


class GatedPath(Protocol):
    """What a gate must know of a path: where it leads, with which degrees, and what it costs."""

    @property
    def out(self) -> int: ...
    @property
    def degrees(self) -> tuple[int, int, int]: ...
    @property
    def cost(self) -> int: ...


class PathGate(nn.Module):
    r"""Keep a share of the paths of a tensor product, every output irrep among them.

    Each path :math:`p` has a learnable score :math:`a_p`, 1 at birth. Of :math:`n` paths
    :math:`\lceil (1 - k)\, n \rceil` are kept (``budget="paths"``), or as many as cost at most
    :math:`1 - k` of all multiply-adds (``budget="flops"``):

    - :attr:`Phase.RANDOM`: the first ones of a random order, a function of ``seed``, ``layer`` and
      the optimizer step alone;
    - :attr:`Phase.ADAPTIVE`: those with the largest :math:`|a_p|`, anew after every step;
    - :attr:`Phase.FIXED`: what was kept when that phase began, for good.

    A path is passed over where it would leave no room for an output irrep that nothing reaches yet,
    so none ever dies. The kept paths enter the product with

    .. math::
        c_p = \sqrt{2 l_3 + 1}\; \frac{a_p}{\big(\sum_{p' \in S \to o} a_{p'}^2\big)^{1/2}},

    which keeps unit variance however many there are, and by which the scores get their gradient;
    that of dropped paths is exactly zero.

    Args:
        paths: the paths, with ``out``, ``degrees`` and ``cost``.
        sparsity: :math:`k`, the share that is dropped, from 0 to below 1.
        budget: ``"paths"`` or ``"flops"``.
        seed: of the random phase.
        layer: number of the gate, so that gates of one model draw differently.

    Attributes:
        kept: whether each path is computed at present (part of the state).
        phase: a :class:`Phase` (part of the state).
    """

    def __init__(
        self,
        paths: Sequence[GatedPath],
        sparsity: float,
        *,
        budget: str = "paths",
        seed: int = 0,
        layer: int = 0,
    ) -> None:
        super().__init__()
        _check_sparsity(sparsity)
        if budget not in ("paths", "flops"):
            raise EquivError(f"budget: expected 'paths' or 'flops', got {budget!r}")
        self.paths, self.sparsity, self.budget = tuple(paths), float(sparsity), budget
        self.seed, self.layer = int(seed), int(layer)
        self.outputs = sorted({path.out for path in self.paths})
        self.scores = nn.Parameter(torch.ones(len(self.paths)))
        self.kept: Tensor
        self.phase: Tensor
        self.register_buffer("kept", torch.zeros(len(self.paths), dtype=torch.bool))
        self.register_buffer("phase", torch.tensor(int(Phase.RANDOM)))
        self._chosen: tuple[int, ...] | None = None
        self._constants: tuple[object, Tensor, Tensor] | None = None
        self.update(Phase.RANDOM, 0)

    @property
    def selection(self) -> tuple[int, ...]:
        """The kept paths, ascending."""
        if self._chosen is None:
            self._chosen = tuple(torch.nonzero(self.kept).flatten().tolist())
        return self._chosen

    def coefficients(self) -> Float[Tensor, " kept"]:
        """Factors :math:`c_p` of the kept paths."""
        key = (self.selection, self.scores.dtype, self.scores.device)
        if self._constants is None or self._constants[0] != key:
            outs = [self.paths[p].out for p in self.selection]
            # Row p: 1 / (2 l_3 + 1) at the kept paths that have the output of p.
            same = [
                [float(a == b) / (2 * self.paths[p].degrees[2] + 1) for b in outs]
                for p, a in zip(self.selection, outs, strict=True)
            ]
            index = torch.tensor(self.selection, device=self.scores.device)
            self._constants = key, index, self.scores.new_tensor(same)
        _, index, same = self._constants
        scores = self.scores.index_select(0, index)
        return scores * torch.rsqrt(same @ scores.square())

    @torch.no_grad()
    def update(self, phase: Phase, step: int) -> None:
        """Choose what is kept after ``step`` optimizer steps. In a fixed gate nothing changes."""
        if int(self.phase) == Phase.FIXED:
            return
        if phase == Phase.RANDOM:
            order = random_order(len(self.paths), self.seed, self.layer, step)
        else:
            order = torch.sort(self.scores.abs(), descending=True, stable=True).indices.tolist()
        kept = torch.zeros_like(self.kept)
        kept[self.admitted(order)] = True
        self.kept.copy_(kept)
        self.phase.fill_(int(phase))
        self._chosen = None

    def admitted(self, order: Sequence[int]) -> list[int]:
        """The paths that are kept if they are asked in this order; each output gets at least one.

        If the budget does not even hold one path for every output, the cheapest for each are kept.
        """
        costs = [path.cost if self.budget == "flops" else 1 for path in self.paths]
        if self.budget == "flops":
            budget = (1 - self.sparsity) * sum(costs)
        else:
            budget = math.ceil((1 - self.sparsity) * len(costs) - 1e-9)
        reserve = {
            out: min(c for c, path in zip(costs, self.paths, strict=True) if path.out == out)
            for out in self.outputs
        }
        spent, kept = 0, []
        for p in order:
            others = sum(c for out, c in reserve.items() if out != self.paths[p].out)
            cheapest = costs[p] == reserve.get(self.paths[p].out)
            if spent + costs[p] + others <= budget or cheapest:
                spent += costs[p]
                kept.append(p)
                reserve.pop(self.paths[p].out, None)
        return sorted(kept)

    def cost_share(self) -> float:
        """Multiply-adds of the kept paths over those of all."""
        costs = [path.cost for path in self.paths]
        return sum(costs[p] for p in self.selection) / sum(costs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._chosen = None

    def extra_repr(self) -> str:
        kept, all_paths = len(self.selection), len(self.paths)
        return f"{kept} of {all_paths} paths, {Phase(int(self.phase)).name.lower()}"


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

    - :attr:`Phase.RANDOM`: while training, the :math:`\max(N_m, \lceil (1 - k) P_m \rceil)` first
      of the molecule's :math:`P_m` pairs in random order are kept with :math:`g = 1`; all pairs in
      evaluation. :math:`\theta` already follows the scores.
    - :attr:`Phase.ADAPTIVE`: as above.
    - :attr:`Phase.FIXED`: as above with :math:`\theta` frozen.

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
        _check_sparsity(sparsity)
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
        invariants: Float[Tensor, "pairs invariants"],
        pair_batch: Int[Tensor, " pairs"],
        counts: Int[Tensor, " graphs"],
    ) -> KeptPairs:
        """Which pairs are computed, and with what weight.

        Args:
            invariants: :math:`I_{ij}`.
            pair_batch: the molecule of every pair.
            counts: :math:`N_m`, the atoms of every molecule.
        """
        score = invariants @ (self.scores / math.sqrt(len(self.scores)))
        fixed = int(self.phase) == Phase.FIXED
        if fixed and not bool(((counts * (counts - 1)) // 2 > counts).any()):
            return KeptPairs(None, None)  # three atoms or fewer
        rank, pairs = ranks(score.detach(), pair_batch, len(counts))
        share = torch.maximum(torch.ceil((1 - self.sparsity) * pairs - 1e-9).long(), counts)
        if self.training and not fixed:
            self._observed = _mean_of_molecules(score.detach(), pair_batch, rank, share, pairs)
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
        """Take in the scores of the step that was just taken. In a fixed gate nothing changes."""
        if int(self.phase) == Phase.FIXED:
            return
        if self._observed is not None and int(self.step) < step:
            seen = _mean_of_ranks(self._observed).to(self.threshold)
            first = float(self.threshold) == UNSEEN
            self.threshold.lerp_(seen, 1.0 if first else 1 - self.decay)
            self._observed = None
        self.phase.fill_(int(phase))
        self.step.fill_(step)

    def extra_repr(self) -> str:
        phase = Phase(int(self.phase)).name.lower()
        return f"{len(self.scores)} invariants, sparsity={self.sparsity:g}, {phase}"


def random_order(size: int, seed: int, layer: int, step: int) -> list[int]:
    """A uniformly random order of ``size`` things that depends on the three numbers alone."""
    return np.random.default_rng([seed, layer, step]).permutation(size).tolist()


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


def _mean_of_molecules(
    score: Tensor, pair_batch: Tensor, rank: Tensor, share: Tensor, pairs: Tensor
) -> Tensor | None:
    """Mean over molecules of the largest score that is not to be kept; ``None`` if all keep all."""
    at = rank == share[pair_batch]
    return score[at].double().mean() if bool((pairs > share).any()) else None


def _mean_of_ranks(value: Tensor) -> Tensor:
    """The mean over the processes of a distributed run."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise EquivError(
            f"sparsity: expected the share that is dropped, from 0 to below 1, got {sparsity}"
        )
