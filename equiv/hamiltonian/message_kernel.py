r"""C++ for messages between atoms (:mod:`equiv.hamiltonian.messages`).

Both atoms of a pair hear each other, by the same couplings and weights. A coupling with the
harmonics of a direction is a number per pair, :math:`v_n = C_n y_{m_2(n)}`, the same in all
channels; what is left is one multiply-add for each entry of the table, way and channel. Atoms are
read where they are and added to where they are. Channels do not mix, so threads share them.
"""

import ctypes
from functools import cache

import torch

from equiv.hamiltonian.registers import REGISTERS
from equiv.native import load_library


@cache
def message_library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels for one number type, or ``None`` where they cannot be built."""
    number = {torch.float32: "float", torch.float64: "double"}.get(dtype)
    return None if number is None else load_library(f"typedef {number} T;\n{REGISTERS}{_SOURCE}")


_SOURCE = r"""
#include <cstring>
#include <vector>

struct Sum { int32_t path, out, end; };  // entries that share a path and a component of z
struct Entry { int32_t x, y; };          // components
struct Table { I sums, entries; const Sum* sum; const Entry* entry; const T* coefficient; };
struct Pairs { I count; const I *first, *second; const T* sign; };  // sign of y the other way round
struct Sizes { I x, y, paths, channels; };  // x and z have the same components

// The couplings of one pair both ways, and where the rows of its two atoms begin.
struct Both {
  const Table& t;
  std::vector<T> forth, back;
  explicit Both(const Table& t) : t(t), forth(t.entries), back(t.entries) {}
  void bring(const T* y, const T* sign) {
    for (I e = 0; e < t.entries; ++e) {
      forth[e] = t.coefficient[e] * y[t.entry[e].y];
      back[e] = forth[e] * sign[t.entry[e].y];
    }
  }
};

// zi += w (x_j y), zj += w (x_i s y) in the channels of N registers.
template <int B, int N>
static void told(const Both& b, const T* xi, const T* xj, const T* w, T* zi, T* zj, I C) {
  typedef typename Register<B>::V V;
  const I L = Register<B>::lanes;
  const T *v = b.forth.data(), *u = b.back.data();
  I e = 0;
  for (I n = 0; n < b.t.sums; ++n) {
    const Sum& sum = b.t.sum[n];
    V s[N] = {}, r[N] = {};
    for (; e < sum.end; ++e) {
      const I at = b.t.entry[e].x * C;
      for (int k = 0; k < N; ++k) {
        s[k] += v[e] * *(const V*)(xj + at + k * L);
        r[k] += u[e] * *(const V*)(xi + at + k * L);
      }
    }
    for (int k = 0; k < N; ++k) {
      const V f = *(const V*)(w + sum.path * C + k * L);
      *(V*)(zi + sum.out * C + k * L) += f * s[k];
      *(V*)(zj + sum.out * C + k * L) += f * r[k];
    }
  }
}

// Adds the gradients by x_i, x_j and w. With gy, adds that by y, of these channels.
template <int B, int N>
static void told_back(const Both& b, const T* xi, const T* xj, const T* w, const T* gi,
                      const T* gj, T* gxi, T* gxj, T* gw, T* gy, const T* sign, I C) {
  typedef typename Register<B>::V V;
  const I L = Register<B>::lanes;
  const T *v = b.forth.data(), *u = b.back.data();
  I e = 0;
  for (I n = 0; n < b.t.sums; ++n) {
    const Sum& sum = b.t.sum[n];
    V s[N] = {}, r[N] = {}, p[N], q[N];
    for (int k = 0; k < N; ++k) {
      const V f = *(const V*)(w + sum.path * C + k * L);
      p[k] = f * *(const V*)(gi + sum.out * C + k * L);
      q[k] = f * *(const V*)(gj + sum.out * C + k * L);
    }
    for (; e < sum.end; ++e) {
      const I at = b.t.entry[e].x * C;
      for (int k = 0; k < N; ++k) {
        const V a = *(const V*)(xj + at + k * L), c = *(const V*)(xi + at + k * L);
        s[k] += v[e] * a;
        r[k] += u[e] * c;
        *(V*)(gxj + at + k * L) += v[e] * p[k];
        *(V*)(gxi + at + k * L) += u[e] * q[k];
        if (gy) {
          const V both = a * p[k] + sign[b.t.entry[e].y] * (c * q[k]);
          T total = 0;
          for (I l = 0; l < L; ++l) total += both[l];
          gy[b.t.entry[e].y] += b.t.coefficient[e] * total;
        }
      }
    }
    for (int k = 0; k < N; ++k)
      *(V*)(gw + sum.path * C + k * L) += s[k] * *(const V*)(gi + sum.out * C + k * L) +
                                          r[k] * *(const V*)(gj + sum.out * C + k * L);
  }
}

// Channels in strips of two registers, of one, of a small one, and one by one.
struct Strip { I start; int kind; };

static std::vector<Strip> strips(I C, I threads) {
  static const I L = Register<BYTES>::lanes, S = Register<16>::lanes;
  std::vector<Strip> all;
  I c = 0;
  for (; c + 2 * L <= C && C / (2 * L) >= threads; c += 2 * L) all.push_back({c, 0});
  for (; c + L <= C; c += L) all.push_back({c, 1});
  for (; c + S <= C; c += S) all.push_back({c, 2});
  for (; c < C; ++c) all.push_back({c, 3});
  return all;
}

// f for every strip and pair: its couplings, the kind of the strip, the pair, and where the strip
// begins in the rows of its two atoms (of x as of z) and of its weights.
template <class F>
static void each(const Sizes* size, const Table* table, const Pairs* pairs, I threads, const T* y,
                 F f) {
  const I C = size->channels;
  const std::vector<Strip> all = strips(C, threads);
  #pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (size_t n = 0; n < all.size(); ++n) {
    Both b(*table);
    for (I k = 0; k < pairs->count; ++k) {
      b.bring(y + k * size->y, pairs->sign);
      f(b, all[n].kind, k, pairs->first[k] * size->x * C + all[n].start,
        pairs->second[k] * size->x * C + all[n].start, k * size->paths * C + all[n].start);
    }
  }
}

// z is added to.
extern "C" void messages(const Sizes* size, const Table* table, const Pairs* pairs, I threads,
                         const T* x, const T* y, const T* w, T* z) {
  const I C = size->channels;
  each(size, table, pairs, threads, y, [=](const Both& b, int kind, I, I i, I j, I p) {
    switch (kind) {
      case 0: told<BYTES, 2>(b, x + i, x + j, w + p, z + i, z + j, C); break;
      case 1: told<BYTES, 1>(b, x + i, x + j, w + p, z + i, z + j, C); break;
      case 2: told<16, 1>(b, x + i, x + j, w + p, z + i, z + j, C); break;
      default: told<sizeof(T), 1>(b, x + i, x + j, w + p, z + i, z + j, C);
    }
  });
}

// Adds to gx, gw and gy; gy may be null, and is for one thread.
extern "C" void messages_back(const Sizes* size, const Table* table, const Pairs* pairs,
                              I threads, const T* x, const T* y, const T* w, const T* g, T* gx,
                              T* gw, T* gy) {
  const I C = size->channels;
  const T* s = pairs->sign;
  each(size, table, pairs, threads, y, [=](const Both& b, int kind, I k, I i, I j, I p) {
    const T *xi = x + i, *xj = x + j, *wp = w + p, *gi = g + i, *gj = g + j;
    T *gxi = gx + i, *gxj = gx + j, *gwp = gw + p, *gyk = gy ? gy + k * size->y : nullptr;
    switch (kind) {
      case 0: told_back<BYTES, 2>(b, xi, xj, wp, gi, gj, gxi, gxj, gwp, gyk, s, C); break;
      case 1: told_back<BYTES, 1>(b, xi, xj, wp, gi, gj, gxi, gxj, gwp, gyk, s, C); break;
      case 2: told_back<16, 1>(b, xi, xj, wp, gi, gj, gxi, gxj, gwp, gyk, s, C); break;
      default: told_back<sizeof(T), 1>(b, xi, xj, wp, gi, gj, gxi, gxj, gwp, gyk, s, C);
    }
  });
}
"""
