r"""Mixing orientations channel by channel, and its derivatives as kernels.

.. math::
    S(g, x, k) = \sum_{iopc} g_{ipc}\, k_{opc}\, x_{ioc}

is linear in each argument: three kernels give gradients of every order.
"""

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.graph.tracing import suits_kernels
from equiv.multilinear import MultilinearForm
from equiv.native import load_library
from equiv.operators import operator
from equiv.position_orientation.vector_source import head

LEAST_WORK = 10**5
"""Multiply-adds below which a single step is bound by the call and not worth a kernel."""

MOST_ORIENTATIONS = 64
G, X, K = range(3)


def mix_orientations(
    x: Float[Tensor, "rows orientations channels"],
    kernel: Float[Tensor, "orientations orientations channels"],
) -> Float[Tensor, "rows orientations channels"]:
    r"""Depthwise matrix product over orientations.

    .. math::
        y_{ipc} = \sum_o k_{opc}\, x_{ioc}

    Cost: :math:`n^2` multiply-adds per row and channel.
    """
    if _usable(x):
        return _Mixing().derivative(G, None, x, kernel)
    return torch.einsum("ioc,opc->ipc", x, kernel)


def _usable(x: Tensor) -> bool:
    work = x.numel() * x.shape[1]
    if not suits_kernels(x, work, LEAST_WORK) or x.shape[1] > MOST_ORIENTATIONS:
        return False
    return _library(int(x.shape[1]), int(x.shape[2]), x.dtype) is not None


class _Mixing(MultilinearForm):
    def compute(self, wanted: Sequence[int], *given: Tensor | None) -> Sequence[Tensor]:
        return [torch.ops.equiv.fiber_form(u, *given[:u], *given[u + 1 :]) for u in wanted]


@operator("equiv::fiber_form")
def fiber_form(wanted: int, a: Tensor, b: Tensor) -> Tensor:
    """One derivative of the form, from its other two arguments in order."""
    out = _like(wanted, a, b)
    library = _library(a.shape[1], a.shape[2], a.dtype)
    if library is None:
        raise RuntimeError("no kernel for this form; a C++ compiler is needed (g++, clang++)")
    a = a.contiguous()
    b = (b.transpose(0, 1) if wanted == X else b).contiguous()
    pointers = a.data_ptr(), b.data_ptr(), out.data_ptr()
    library.run(int(wanted == K), a.shape[0], *pointers, torch.get_num_threads())
    return out


@fiber_form.register_fake
def _(wanted, a, b):
    return _like(wanted, a, b)


def _like(wanted: int, a: Tensor, b: Tensor) -> Tensor:
    if wanted == K:
        return a.new_empty(a.shape[1], a.shape[1], a.shape[2])
    return a.new_empty(a.shape)


@cache
def _library(orientations: int, channels: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    tile = next(t for t in (4, 2, 1) if orientations % t == 0)
    library = load_library(head(dtype, channels, N=orientations, P=tile) + _SOURCE)
    if library is not None:
        library.run.argtypes = [ctypes.c_int64] * 2 + [ctypes.c_void_p] * 3 + [ctypes.c_int64]
        library.run.restype = None
    return library


_SOURCE = """
template <int rows> static inline void mix(const T* x, const T* k, T* y) {
  for (I v = 0; v < C; v += L)
    for (I p = 0; p < N; p += P) {
      V s[rows][P];
      #pragma GCC unroll 4
      for (int r = 0; r < rows; ++r)
        #pragma GCC unroll 4
        for (int q = 0; q < P; ++q) s[r][q] = zero();
      for (I o = 0; o < N; ++o) {
        V w[P];
        #pragma GCC unroll 4
        for (int q = 0; q < P; ++q) w[q] = load(k + (o * N + p + q) * C + v);
        #pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const V in = load(x + (r * N + o) * C + v);
          #pragma GCC unroll 4
          for (int q = 0; q < P; ++q) s[r][q] += w[q] * in;
        }
      }
      #pragma GCC unroll 4
      for (int r = 0; r < rows; ++r)
        #pragma GCC unroll 4
        for (int q = 0; q < P; ++q) store(y + (r * N + p + q) * C + v, s[r][q]);
    }
}

static void by_rows(I rows, const T* x, const T* k, T* y, I threads) {
  const I whole = rows / 4;
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I t = 0; t <= whole; ++t) {
    if (t < whole) mix<4>(x + 4 * t * N * C, k, y + 4 * t * N * C);
    else for (I i = 4 * whole; i < rows; ++i) mix<1>(x + i * N * C, k, y + i * N * C);
  }
}

static void by_kernel(I rows, const T* g, const T* x, T* out, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I v = 0; v < C; v += L) {
    V s[N * N];
    for (I e = 0; e < N * N; ++e) s[e] = zero();
    for (I start = 0; start < rows; start += 16) {
      const I end = start + 16 < rows ? start + 16 : rows;
      for (I o = 0; o < N; o += P)
        for (I p = 0; p < N; p += P) {
          V t[P][P];
          #pragma GCC unroll 4
          for (int a = 0; a < P; ++a)
            #pragma GCC unroll 4
            for (int b = 0; b < P; ++b) t[a][b] = s[(o + a) * N + p + b];
          for (I i = start; i < end; ++i) {
            const T *xi = x + (i * N + o) * C + v, *gi = g + (i * N + p) * C + v;
            V w[P];
            #pragma GCC unroll 4
            for (int b = 0; b < P; ++b) w[b] = load(gi + b * C);
            #pragma GCC unroll 4
            for (int a = 0; a < P; ++a) {
              const V in = load(xi + a * C);
              #pragma GCC unroll 4
              for (int b = 0; b < P; ++b) t[a][b] += in * w[b];
            }
          }
          #pragma GCC unroll 4
          for (int a = 0; a < P; ++a)
            #pragma GCC unroll 4
            for (int b = 0; b < P; ++b) s[(o + a) * N + p + b] = t[a][b];
        }
    }
    for (I e = 0; e < N * N; ++e) store(out + e * C + v, s[e]);
  }
}

extern "C" void run(I kernel, I rows, const T* a, const T* b, T* out, I threads) {
  if (kernel) by_kernel(rows, a, b, out, threads);
  else by_rows(rows, a, b, out, threads);
}
"""
