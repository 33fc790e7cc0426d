r"""C++ for the derivatives of the forms in :mod:`equiv.position_orientation.forms`.

The source is written out for one number of orientations and degrees, so that loops over them have
constant bounds; a vector register holds neighbouring channels. A receiver's sums stay in the first
cache while its neighbours pass by.
"""

import ctypes
from functools import cache

import torch

from equiv.native import load_library

NUMBERS = {torch.float32: "float", torch.float64: "double"}


def vector_bytes(channels: int, dtype: torch.dtype) -> int:
    """Width of the vectors that divides the channels."""
    size = dtype.itemsize
    return next(w for w in (64, 32, 16, size) if channels % (w // size) == 0)


def strip(channels: int, dtype: torch.dtype) -> int:
    """How many vectors are worked on at once."""
    lanes = vector_bytes(channels, dtype) // dtype.itemsize
    return next(u for u in (4, 2, 1) if channels % (u * lanes) == 0)


@cache
def zonal_library(
    orientations: int, degrees: int, channels: int, dtype: torch.dtype
) -> ctypes.CDLL | None:
    """The kernels of a zonal form, or ``None`` where they cannot be built."""
    return _load(_head(orientations, degrees, channels, dtype) + _ZONAL + _RUN)


@cache
def direct_library(orientations: int, channels: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels of a direct form, or ``None`` where they cannot be built."""
    return _load(_head(orientations, 1, channels, dtype) + _DIRECT + _RUN)


def _load(source: str) -> ctypes.CDLL | None:
    library = load_library(source)
    if library is not None:
        library.run.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_void_p] * 11 + [ctypes.c_int64]
        library.run.restype = None
    return library


def _head(orientations: int, degrees: int, channels: int, dtype: torch.dtype) -> str:
    width = vector_bytes(channels, dtype)
    return _HEADER.format(
        number=NUMBERS[dtype],
        bytes=width,
        lanes=width // dtype.itemsize,
        strip=strip(channels, dtype),
        orientations=orientations,
        degrees=degrees,
        channels=channels,
    )


_HEADER = """
#include <cstdint>
#include <cstring>
typedef {number} T;
typedef T V __attribute__((vector_size({bytes}), aligned(sizeof(T)), may_alias));
typedef int64_t I;
static const I L = {lanes}, U = {strip}, N = {orientations}, D = {degrees}, C = {channels};
static inline V load(const T* p) {{ return *(const V*)p; }}
static inline void store(T* p, V v) {{ *(V*)p = v; }}
static inline V zero() {{ V v = {{}}; return v; }}
template <int n> static inline T halves(const T* p) {{
  T q[n / 2 > 0 ? n / 2 : 1];
  for (int k = 0; k < n / 2; ++k) q[k] = p[k] + p[k + n / 2];
  return halves<n / 2>(q);
}}
template <> inline T halves<1>(const T* p) {{ return p[0]; }}
static inline T sum(V v) {{ T p[L]; std::memcpy(p, &v, sizeof v); return halves<L>(p); }}
struct Graph {{
  I blocks, width, pairs;
  const I *first, *second, *pair;
  const int8_t* sign;
  const I *senders, *slots, *opposite;
}};
"""

_ZONAL = """
static void by_rows(const Graph& n, int turned, const T* given, const T* Z, const T* R, T* out,
                    I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 4)
  for (I b = 0; b < n.blocks; ++b) {
    T* y = out + b * N * C;
    std::memset(y, 0, sizeof(T) * N * C);
    for (I k = b * n.width; k < (b + 1) * n.width; ++k) {
      if (!n.sign[k]) continue;
      const T odd = turned ? -n.sign[k] : n.sign[k];
      const T* z0 = Z + n.pair[k] * N * D;
      T z[N * D];
      for (I o = 0; o < N; ++o)
        for (I l = 0; l < D; ++l) z[o * D + l] = l % 2 ? odd * z0[o * D + l] : z0[o * D + l];
      const T *r = R + n.pair[k] * D * C, *x = given + n.senders[k] * N * C;
      for (I v = 0; v < C; v += U * L) {
        V radial[U][D];
        for (I u = 0; u < U; ++u)
          for (I l = 0; l < D; ++l) radial[u][l] = load(r + l * C + v + u * L);
        for (I o = 0; o < N; ++o)
          #pragma GCC unroll 4
          for (I u = 0; u < U; ++u) {
            V kernel = z[o * D] * radial[u][0];
            #pragma GCC unroll 16
            for (I l = 1; l < D; ++l) kernel += z[o * D + l] * radial[u][l];
            const I at = o * C + v + u * L;
            store(y + at, load(y + at) + kernel * load(x + at));
          }
      }
    }
  }
}

static void by_radial(const Graph& n, const T* g, const T* x, const T* Z, T* out, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I p = 0; p < n.pairs; ++p) {
    T* r = out + p * D * C;
    if (!n.sign[n.slots[2 * p]]) { std::memset(r, 0, sizeof(T) * D * C); continue; }
    const T *gi = g + n.first[p] * N * C, *gj = g + n.second[p] * N * C;
    const T *xi = x + n.first[p] * N * C, *xj = x + n.second[p] * N * C;
    const T* z = Z + p * N * D;
    for (I v = 0; v < C; v += L) {
      V s[D];
      #pragma GCC unroll 16
      for (I l = 0; l < D; ++l) s[l] = zero();
      for (I o = 0; o < N; ++o) {
        const I at = o * C + v;
        const V there = load(gi + at) * load(xj + at), back = load(gj + at) * load(xi + at);
        const V even = there + back, odd = there - back;
        #pragma GCC unroll 16
        for (I l = 0; l < D; ++l) s[l] += z[o * D + l] * (l % 2 ? odd : even);
      }
      #pragma GCC unroll 16
      for (I l = 0; l < D; ++l) store(r + l * C + v, s[l]);
    }
  }
}

static void by_zonal(const Graph& n, const T* g, const T* x, const T* R, T* out, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I p = 0; p < n.pairs; ++p) {
    T* z = out + p * N * D;
    if (!n.sign[n.slots[2 * p]]) { std::memset(z, 0, sizeof(T) * N * D); continue; }
    const T *gi = g + n.first[p] * N * C, *gj = g + n.second[p] * N * C;
    const T *xi = x + n.first[p] * N * C, *xj = x + n.second[p] * N * C;
    const T* r = R + p * D * C;
    for (I o = 0; o < N; ++o) {
      V s[D];
      #pragma GCC unroll 16
      for (I l = 0; l < D; ++l) s[l] = zero();
      for (I v = 0; v < C; v += L) {
        const I at = o * C + v;
        const V there = load(gi + at) * load(xj + at), back = load(gj + at) * load(xi + at);
        const V even = there + back, odd = there - back;
        #pragma GCC unroll 16
        for (I l = 0; l < D; ++l) s[l] += load(r + l * C + v) * (l % 2 ? odd : even);
      }
      #pragma GCC unroll 16
      for (I l = 0; l < D; ++l) z[o * D + l] = sum(s[l]);
    }
  }
}

static void derivative(I wanted, const Graph& n, const T* a, const T* b, const T* c, T* out,
                       I threads) {
  if (wanted == 0) by_rows(n, 0, a, b, c, out, threads);
  if (wanted == 1) by_rows(n, 1, a, b, c, out, threads);
  if (wanted == 2) by_zonal(n, a, b, c, out, threads);
  if (wanted == 3) by_radial(n, a, b, c, out, threads);
}
"""

# Without opposites, kernels of the reverse directions follow those of the pairs.
_DIRECT = """
static void by_rows(const Graph& n, int turned, const T* given, const T* K, T* out, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 4)
  for (I b = 0; b < n.blocks; ++b) {
    T* y = out + b * N * C;
    std::memset(y, 0, sizeof(T) * N * C);
    for (I k = b * n.width; k < (b + 1) * n.width; ++k) {
      if (!n.sign[k]) continue;
      const bool back = (n.sign[k] < 0) != (turned != 0);
      const T* kernel = K + (n.pair[k] + (back && !n.opposite ? n.pairs : 0)) * N * C;
      const T* x = given + n.senders[k] * N * C;
      for (I o = 0; o < N; ++o) {
        const T* w = kernel + (back && n.opposite ? n.opposite[o] : o) * C;
        #pragma GCC unroll 4
        for (I v = 0; v < C; v += L)
          store(y + o * C + v, load(y + o * C + v) + load(w + v) * load(x + o * C + v));
      }
    }
  }
}

static void by_kernel(const Graph& n, const T* g, const T* x, T* out, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I p = 0; p < n.pairs; ++p) {
    T *k = out + p * N * C, *back = out + (p + n.pairs) * N * C;
    if (!n.sign[n.slots[2 * p]]) {
      std::memset(k, 0, sizeof(T) * N * C);
      if (!n.opposite) std::memset(back, 0, sizeof(T) * N * C);
      continue;
    }
    const T *gi = g + n.first[p] * N * C, *gj = g + n.second[p] * N * C;
    const T *xi = x + n.first[p] * N * C, *xj = x + n.second[p] * N * C;
    for (I o = 0; o < N; ++o) {
      const I at = o * C;
      if (n.opposite) {
        const I op = n.opposite[o] * C;
        for (I v = 0; v < C; v += L)
          store(k + at + v, load(gi + at + v) * load(xj + at + v)
                              + load(gj + op + v) * load(xi + op + v));
      } else {
        for (I v = 0; v < C; v += L) {
          store(k + at + v, load(gi + at + v) * load(xj + at + v));
          store(back + at + v, load(gj + at + v) * load(xi + at + v));
        }
      }
    }
  }
}

static void derivative(I wanted, const Graph& n, const T* a, const T* b, const T*, T* out,
                       I threads) {
  if (wanted == 0) by_rows(n, 0, a, b, out, threads);
  if (wanted == 1) by_rows(n, 1, a, b, out, threads);
  if (wanted == 2) by_kernel(n, a, b, out, threads);
}
"""

_RUN = """
extern "C" void run(I wanted, I blocks, I width, I pairs, const I* first, const I* second,
                    const I* pair, const int8_t* sign, const I* senders, const I* slots,
                    const I* opposite, const T* a, const T* b, const T* c, T* out, I threads) {
  const Graph n = {blocks, width, pairs, first, second, pair, sign, senders, slots, opposite};
  derivative(wanted, n, a, b, c, out, threads);
}
"""
