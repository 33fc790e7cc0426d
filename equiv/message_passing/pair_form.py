r"""The multilinear form behind a convolution, and its four derivatives as kernels.

.. math::
    S(g, x, Z, R) = \sum_{s = (i, j, p)} \sum_q \sigma_{s,q} \sum_{a \alpha c}
    g_{i,q\alpha,c}\; Z_{p,q a\alpha}\; x_{j,q a,c}\; R_{p,qc}

runs over all slots :math:`s` (receiver :math:`i`, sender :math:`j`, pair :math:`p`) and paths
:math:`q`; :math:`\sigma = -1` in the reverse direction of a pair if :math:`q` is odd in the
direction, else 1. The convolution is the derivative by :math:`g`. The form is linear in each of its
arguments: four kernels give gradients of every order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks
from equiv.graph.tracing import suits_kernels
from equiv.message_passing.pair_kernels import Path, kernels, vector_bytes
from equiv.multilinear import MultilinearForm
from equiv.operators import operator

G, X, Z, R = range(4)
"""The arguments of the form."""

LEAST_WORK = 10**6
"""Multiply-adds below which a single step is bound by the call and not worth a kernel."""


@dataclass(frozen=True)
class PairForm:
    """Which components a form couples.

    Attributes:
        paths: see :class:`equiv.message_passing.pair_kernels.Path`.
        dim_in: components of :math:`x`.
        dim_out: components of :math:`g`.
    """

    paths: tuple[Path, ...]
    dim_in: int
    dim_out: int

    @property
    def key(self) -> str:
        """All of it as one string."""
        paths = ";".join(",".join(map(str, path)) for path in self.paths)
        return f"{self.dim_in}|{self.dim_out}|{paths}"

    @property
    def num_couplings(self) -> int:
        """Components of :math:`Z`."""
        return sum(path.dim_in * path.dim_out for path in self.paths)

    def usable(
        self, x: Tensor, neighbors: NeighborBlocks, *, num_couplings: int | None = None
    ) -> bool:
        """Whether the kernels can be used, and are worth it.

        A form that is part of a larger one is judged by the couplings of that one.
        """
        couplings = self.num_couplings if num_couplings is None else num_couplings
        work = neighbors.first.shape[0] * couplings * x.shape[-1]
        if neighbors.reverse is None or not suits_kernels(x, work, LEAST_WORK):
            return False
        return kernels(self.key, x.dtype, vector_bytes(x.shape[-1], x.dtype)) is not None

    def messages(self, x: Tensor, z: Tensor, r: Tensor, neighbors: NeighborBlocks) -> Tensor:
        r"""The convolution :math:`\partial S / \partial g`.

        Args:
            x: features of the rows. Shape ``[rows, dim_in, channels]``.
            z: couplings times harmonics. Shape ``[pairs, num_couplings]``.
            r: radial weights. Shape ``[pairs, paths, channels]``.
            neighbors: who sees whom, every edge with its reverse.

        Returns:
            Shape ``[rows, dim_out, channels]``. Traffic: each direction of a pair reads its
            ``paths * channels`` radial weights once, and the sender's features, which stay in
            cache; nothing is stored per direction.
        """
        return _OnNeighbors(self, neighbors).derivative(G, None, x, z, r)


class _OnNeighbors(MultilinearForm):
    """The form for given neighbours."""

    def __init__(self, form: PairForm, neighbors: NeighborBlocks) -> None:
        self.form, self.neighbors = form, neighbors

    def compute(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        n = self.neighbors
        index = n.first, n.second, n.pair, n.sign, n.senders, n.slots
        found = []
        for u in wanted:
            others = *given[:u], *given[u + 1 :]
            derivative = torch.ops.equiv.pair_form(self.form.key, u, *others, *index)
            found.append(n.total(derivative) if u in (G, X) else derivative)
        return found


@operator("equiv::pair_form")
def pair_form_derivative(
    key: str,
    wanted: int,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    first: Tensor,
    second: Tensor,
    pair: Tensor,
    sign: Tensor,
    senders: Tensor,
    slots: Tensor,
) -> Tensor:
    """One derivative of the form ``key``, from its other arguments in order."""
    channels = (c if wanted != R else a).shape[-1]
    library = kernels(key, a.dtype, vector_bytes(channels, a.dtype))
    if library is None:
        raise RuntimeError(f"no kernel for the form {key}; a C++ compiler is needed (g++, clang++)")
    out = a.new_empty(_shape(key, wanted, a, b, c, first, pair))
    tensors = [t.contiguous() for t in (a, b, c)]
    index = [t.contiguous() for t in (first, second, pair, sign, senders, slots)]
    library.run(
        wanted,
        pair.shape[0],
        pair.shape[1],
        first.shape[0],
        channels,
        *(t.data_ptr() for t in index),
        *(t.data_ptr() for t in tensors),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


@pair_form_derivative.register_fake
def _(key, wanted, a, b, c, first, second, pair, sign, senders, slots):
    return a.new_empty(_shape(key, wanted, a, b, c, first, pair))


def _shape(
    key: str, wanted: int, a: Tensor, b: Tensor, c: Tensor, first: Tensor, pair: Tensor
) -> Sequence[Any]:
    form = parse(key)
    channels = (c if wanted != R else a).shape[-1]
    return {
        G: (pair.shape[0], form.dim_out, channels),
        X: (pair.shape[0], form.dim_in, channels),
        Z: (first.shape[0], form.num_couplings),
        R: (first.shape[0], len(form.paths), channels),
    }[wanted]


@cache
def parse(key: str) -> PairForm:
    """The form that has this key."""
    dim_in, dim_out, paths = key.split("|")
    return PairForm(
        tuple(Path(*map(int, path.split(","))) for path in paths.split(";")),
        int(dim_in),
        int(dim_out),
    )
