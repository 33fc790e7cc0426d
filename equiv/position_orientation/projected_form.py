r"""Convolution with kernels that are linear combinations of stored functions, and its derivatives.

.. math::
    S(g, x, \Phi, W) = \sum_{j \to i} \sum_{obc} g_{ioc}\, x_{joc}\, \Phi_{p,\pm o,b}\, W_{cb}

runs over edges; pair :math:`p` serves both of its directions, the reverse one with opposite
orientations. The convolution is the derivative by :math:`g`. The form is linear in every argument:
four kernels give gradients of every order. Each works on a few pairs at a time: their kernels
:math:`\Phi W^\mathsf{T}` are made, used in the cache and forgotten, so that nothing of the size
pairs times orientations times channels is stored.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.graph.blocks import NeighborBlocks
from equiv.graph.tracing import suits_kernels
from equiv.multilinear import MultilinearForm
from equiv.native import load_library
from equiv.operators import operator
from equiv.position_orientation.vector_source import head

G, X, BASIS, WEIGHT = range(4)
"""The arguments of the form."""

LEAST_WORK = 10**6
"""Multiply-adds below which a single step is bound by the call and not worth a kernel."""

BLOCK = 1 << 17
"""Numbers in the kernels of a block of pairs: half a megabyte in single precision."""

MOST_ORIENTATIONS = 256


def projected_convolution(
    x: Float[Tensor, "rows orientations channels"],
    basis: Float[Tensor, "kernels orientations functions"],
    weight: Float[Tensor, "channels functions"],
    neighbors: NeighborBlocks,
    antipodes: Int[Tensor, " orientations"] | None,
) -> Float[Tensor, "rows orientations channels"]:
    r"""Sum over neighbours of kernel times features, channel by channel.

    .. math::
        y_{ioc} = \sum_{j \to i} k_c(r_{ij}, o)\, x_{joc}, \qquad
        k_c(r, o) = \sum_b W_{cb}\, \Phi_b(r, o), \qquad \Phi(-r, o) = \Phi(r, -o)

    With ``antipodes`` one sample serves both directions of a pair. Without, ``basis`` has first
    those of all pairs, then those of all pairs in the reverse direction (if edges have reverses).

    Args:
        x: features of the rows.
        basis: samples :math:`\Phi`.
        weight: :math:`W`.
        neighbors: who sees whom.
        antipodes: the place of the opposite of every orientation.
    """
    n = neighbors
    if not usable(x, basis, n):
        return direct_convolution(x, basis @ weight.T, n, antipodes)
    first, second, exists = n.first, n.second, n.exists
    two_ways = n.slots.shape[1] == 2
    if two_ways and antipodes is None:
        first, second = torch.cat([first, second]), torch.cat([second, first])
        exists = torch.cat([exists, exists])
    form = _Projected(first, second, exists, antipodes if two_ways else None, n.num_rows)
    return form.derivative(G, None, x, basis, weight)


def direct_convolution(
    x: Float[Tensor, "rows orientations channels"],
    kernels: Float[Tensor, "kernels orientations channels"],
    neighbors: NeighborBlocks,
    antipodes: Int[Tensor, " orientations"] | None,
) -> Float[Tensor, "rows orientations channels"]:
    """The same with the kernels :math:`k` themselves, step by step."""
    n = neighbors
    if antipodes is None:
        pairs = n.first.shape[0]
        slots = torch.where(n.sign < 0, n.pair + pairs, n.pair) if n.slots.shape[1] > 1 else n.pair
        k = kernels[slots] * n.sign.abs().to(x.dtype).view(*n.sign.shape, 1, 1)
    else:
        k = n.from_pairs(kernels)
        k = torch.where((n.sign < 0)[:, :, None, None], k[:, :, antipodes], k)
    return n.total((k * n.gather(x)).sum(1))


def usable(x: Tensor, basis: Tensor, neighbors: NeighborBlocks) -> bool:
    """Whether the kernels can be used, and are worth it."""
    orientations, channels = x.shape[1:]
    work = basis.numel() * channels
    if not suits_kernels(x, work, LEAST_WORK) or orientations > MOST_ORIENTATIONS:
        return False
    return _library(int(orientations), int(channels), x.dtype) is not None


class _Projected(MultilinearForm):
    def __init__(self, *graph: Any) -> None:
        self.graph = graph  # as the operator takes it

    def compute(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        operator = torch.ops.equiv.projected_form
        return [operator(u, *given[:u], *given[u + 1 :], *self.graph) for u in wanted]


@operator("equiv::projected_form")
def projected_form(
    wanted: int,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    first: Tensor,
    second: Tensor,
    exists: Tensor,
    opposite: Tensor | None,
    rows: int,
) -> Tensor:
    """One derivative of the form, from its other arguments in order."""
    orientations, channels = a.shape[1:]
    library = _library(orientations, channels, a.dtype)
    if library is None:
        raise RuntimeError("no kernel for this form; a C++ compiler is needed (g++, clang++)")
    a, b, c = a.contiguous(), b.contiguous(), c.contiguous()
    first, second, exists = first.contiguous(), second.contiguous(), exists.contiguous()
    out = _like(wanted, a, b, c, first, rows)
    if wanted != BASIS:  # the others are sums over blocks
        out.zero_()
    pairs, size = first.shape[0], max(1, BLOCK // (orientations * channels))
    kernels = a.new_empty(min(size, pairs) * orientations, channels)

    def run(start: int, stop: int, what: int, u: Tensor, v: Tensor | None, k: Tensor) -> None:
        graph = (first, second, exists)
        library.run(
            what,
            stop - start,
            *(t[start:].data_ptr() for t in graph),
            None if opposite is None else opposite.data_ptr(),
            u.data_ptr(),
            None if v is None else v.data_ptr(),
            k.data_ptr(),
            torch.get_num_threads(),
        )

    for start in range(0, pairs, size):
        stop = min(start + size, pairs)
        here = slice(start, stop)
        k = kernels[: (stop - start) * orientations]
        if wanted in (G, X):  # b, c = basis, weight
            torch.mm(b[here].flatten(0, 1), c.T, out=k)
            run(start, stop, 1 + wanted, out, a, k)
        else:
            run(start, stop, 0, a, b, k)
            if wanted == BASIS:  # c = weight
                torch.mm(k, c, out=out[here].view(-1, c.shape[1]))
            else:  # c = basis
                out.addmm_(k.T, c[here].flatten(0, 1))
    return out


@projected_form.register_fake
def _(wanted, a, b, c, first, second, exists, opposite, rows):
    return _like(wanted, a, b, c, first, rows)


def _like(wanted: int, a: Tensor, b: Tensor, c: Tensor, first: Tensor, rows: int) -> Tensor:
    if wanted in (G, X):
        return a.new_empty(rows, *a.shape[1:])
    if wanted == BASIS:
        return a.new_empty(first.shape[0], a.shape[1], c.shape[1])
    return a.new_empty(a.shape[2], c.shape[2])


@cache
def _library(orientations: int, channels: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    library = load_library(head(dtype, channels, N=orientations) + _SOURCE)
    if library is not None:
        library.run.argtypes = [
            *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 7, ctypes.c_int64,
        ]  # fmt: skip
        library.run.restype = None
    return library


# Each thread has orientations of its own, so none writes where another one does.
_SOURCE = """
static void spread(I pairs, const I* to, const I* from, const uint8_t* exists, const I* opposite,
                   T* out, const T* x, const T* K, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I part = 0; part < threads; ++part) {
    const I begin = part * N / threads, end = (part + 1) * N / threads;
    for (I p = 0; p < pairs; ++p) {
      if (!exists[p]) continue;
      const T* kernel = K + p * N * C;
      T *yi = out + to[p] * N * C, *yj = out + from[p] * N * C;
      const T *xi = x + to[p] * N * C, *xj = x + from[p] * N * C;
      for (I o = begin; o < end; ++o)
        for (I v = o * C; v < (o + 1) * C; v += L)
          store(yi + v, load(yi + v) + load(kernel + v) * load(xj + v));
      if (!opposite) continue;
      for (I o = begin; o < end; ++o) {
        const T* turned = kernel + (opposite[o] - o) * C;
        for (I v = o * C; v < (o + 1) * C; v += L)
          store(yj + v, load(yj + v) + load(turned + v) * load(xi + v));
      }
    }
  }
}

static void products(I pairs, const I* to, const I* from, const uint8_t* exists, const I* opposite,
                     const T* g, const T* x, T* K, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I p = 0; p < pairs; ++p) {
    T* kernel = K + p * N * C;
    if (!exists[p]) { std::memset(kernel, 0, sizeof(T) * N * C); continue; }
    const T *gi = g + to[p] * N * C, *gj = g + from[p] * N * C;
    const T *xi = x + to[p] * N * C, *xj = x + from[p] * N * C;
    for (I o = 0; o < N; ++o) {
      const I back = opposite ? (opposite[o] - o) * C : 0;
      if (opposite)
        for (I v = o * C; v < (o + 1) * C; v += L)
          store(kernel + v,
                load(gi + v) * load(xj + v) + load(gj + back + v) * load(xi + back + v));
      else
        for (I v = o * C; v < (o + 1) * C; v += L) store(kernel + v, load(gi + v) * load(xj + v));
    }
  }
}

extern "C" void run(I what, I pairs, const I* first, const I* second, const uint8_t* exists,
                    const I* opposite, T* a, const T* b, T* K, I threads) {
  if (what == 0) products(pairs, first, second, exists, opposite, a, b, K, threads);
  if (what == 1) spread(pairs, first, second, exists, opposite, a, b, K, threads);
  if (what == 2) spread(pairs, second, first, exists, opposite, a, b, K, threads);
}
"""
