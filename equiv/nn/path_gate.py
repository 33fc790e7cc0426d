r"""A sparse gate: which paths of a tensor product are computed at all.

Luo et al. 2025 (SPHNet). A gate is an object beside the layer that it thins out. It says what is
kept and by what factor; the layer computes that and nothing else. What is kept changes between
optimizer steps only, by :class:`equiv.nn.SparsitySchedule`, and all of it is state: a model file, a
checkpoint and every rank of a distributed run hold the same.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.errors import EquivError


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
    :math:`1 - k` of all multiply-adds of the product (``budget="flops"``; what makes the weights of
    paths is not counted):

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
        check_sparsity(sparsity)
        if budget not in ("paths", "flops"):
            raise EquivError(f"budget: expected 'paths' or 'flops', got {budget!r}")
        self.paths, self.sparsity, self.budget = tuple(paths), float(sparsity), budget
        self.seed, self.layer = int(seed), int(layer)
        self.outputs = sorted({path.out for path in self.paths})
        self.costs = tuple(path.cost for path in self.paths)
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
        costs = self.costs if self.budget == "flops" else [1] * len(self.paths)
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
        return sum(self.costs[p] for p in self.selection) / sum(self.costs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._chosen = None

    def extra_repr(self) -> str:
        kept, all_paths = len(self.selection), len(self.paths)
        return f"{kept} of {all_paths} paths, {Phase(int(self.phase)).name.lower()}"


def random_order(size: int, seed: int, layer: int, step: int) -> list[int]:
    """A uniformly random order of ``size`` things that depends on the three numbers alone."""
    return np.random.default_rng([seed, layer, step]).permutation(size).tolist()


def check_sparsity(sparsity: float) -> None:
    """Make sure that it is a share."""
    if not 0 <= sparsity < 1:
        raise EquivError(
            f"sparsity: expected the share that is dropped, from 0 to below 1, got {sparsity}"
        )
