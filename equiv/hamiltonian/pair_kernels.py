r"""C++ for layers that work pair by pair: what atoms tell each other, and weights of paths.

Like :mod:`equiv.hamiltonian.row_kernels`; atoms are read where they are, so that nothing of the
size of all pairs has to be gathered first.
"""

import ctypes
from functools import cache

import torch

from equiv.native import load_library


@cache
def pair_library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels for one number type, or ``None`` where they cannot be built."""
    number = {torch.float32: "float", torch.float64: "double"}.get(dtype)
    return None if number is None else load_library(f"typedef {number} T;\n" + _SOURCE)


_SOURCE = r"""
#include <cstdint>
#include <cstring>
#include <vector>
typedef int64_t I;

// The sum of a b (c), in lanes that the compiler can keep in a register.
static inline T dot(const T* a, const T* b, I n) {
  T lanes[16] = {}, sum = 0;
  I i = 0;
  for (; i + 16 <= n; i += 16)
    for (I k = 0; k < 16; ++k) lanes[k] += a[i + k] * b[i + k];
  for (I k = 0; k < 16; ++k) sum += lanes[k];
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// z[p, m] = y[p, m] w[p, o] (s_i + sign[o] s_j) for components m of irreps o; 0 for m >= dim.
extern "C" void spread(I pairs, I dim, I irreps, const I* starts, I C, I total, const T* s,
                       const I* first, const I* second, const T* sign, const T* y, const T* w,
                       T* z) {
  std::vector<T> both(C);
  T* t = both.data();
  for (I p = 0; p < pairs; ++p) {
    const T *a = s + first[p] * C, *b = s + second[p] * C;
    T* to = z + p * total * C;
    for (I o = 0; o < irreps; ++o) {
      const T *f = w + (p * irreps + o) * C, *e = sign + o * C;
      for (I c = 0; c < C; ++c) t[c] = (a[c] + e[c] * b[c]) * f[c];
      for (I m = starts[o]; m < starts[o + 1]; ++m)
        for (I c = 0; c < C; ++c) to[m * C + c] = y[p * dim + m] * t[c];
    }
    std::memset(to + dim * C, 0, sizeof(T) * (total - dim) * C);
  }
}

// Adds to gs; gy may be null.
extern "C" void spread_back(I pairs, I dim, I irreps, const I* starts, I C, I total, const T* s,
                            const I* first, const I* second, const T* sign, const T* y, const T* w,
                            const T* g, T* gs, T* gy, T* gw) {
  std::vector<T> memory(3 * C);
  T *q = memory.data(), *t = q + C, *h = t + C;
  for (I p = 0; p < pairs; ++p) {
    const T *a = s + first[p] * C, *b = s + second[p] * C, *from = g + p * total * C;
    T *ga = gs + first[p] * C, *gb = gs + second[p] * C;
    for (I o = 0; o < irreps; ++o) {
      const T *f = w + (p * irreps + o) * C, *e = sign + o * C;
      T* gf = gw + (p * irreps + o) * C;
      for (I c = 0; c < C; ++c) {
        q[c] = 0;
        t[c] = a[c] + e[c] * b[c];
        h[c] = t[c] * f[c];
      }
      for (I m = starts[o]; m < starts[o + 1]; ++m) {
        const T* row = from + m * C;
        for (I c = 0; c < C; ++c) q[c] += y[p * dim + m] * row[c];
        if (gy) gy[p * dim + m] = dot(row, h, C);
      }
      for (I c = 0; c < C; ++c) {
        gf[c] = q[c] * t[c];
        ga[c] += q[c] * f[c];
        gb[c] += e[c] * q[c] * f[c];
      }
    }
  }
}

// Both atoms of every pair hear each other: z[r, m] += y[p, m] w[p, o] s of the other one. The
// second atom looks the other way, with sign[o].
extern "C" void neighbors(I pairs, I dim, I irreps, const I* starts, I C, const I* first,
                          const I* second, const T* sign, const T* s, const T* y, const T* w,
                          T* z) {
  std::vector<T> memory(C);
  T* t = memory.data();
  for (I p = 0; p < pairs; ++p)
    for (int way = 0; way < 2; ++way) {
      const T* a = s + (way ? first[p] : second[p]) * C;
      T* to = z + (way ? second[p] : first[p]) * dim * C;
      for (I o = 0; o < irreps; ++o) {
        const T *f = w + (p * irreps + o) * C, e = way ? sign[o] : T(1);
        for (I c = 0; c < C; ++c) t[c] = e * f[c] * a[c];
        for (I m = starts[o]; m < starts[o + 1]; ++m)
          for (I c = 0; c < C; ++c) to[m * C + c] += y[p * dim + m] * t[c];
      }
    }
}

// Adds to gs; gy may be null.
extern "C" void neighbors_back(I pairs, I dim, I irreps, const I* starts, I C, const I* first,
                               const I* second, const T* sign, const T* s, const T* y, const T* w,
                               const T* g, T* gs, T* gw, T* gy) {
  std::vector<T> memory(2 * C);
  T *q = memory.data(), *t = q + C;
  for (I p = 0; p < pairs; ++p)
    for (int way = 0; way < 2; ++way) {
      const I speaks = way ? first[p] : second[p];
      const T *a = s + speaks * C, *from = g + (way ? second[p] : first[p]) * dim * C;
      T* ga = gs + speaks * C;
      for (I o = 0; o < irreps; ++o) {
        const T *f = w + (p * irreps + o) * C, e = way ? sign[o] : T(1);
        T* gf = gw + (p * irreps + o) * C;
        for (I c = 0; c < C; ++c) { q[c] = 0; t[c] = e * f[c] * a[c]; }
        for (I m = starts[o]; m < starts[o + 1]; ++m) {
          const T *row = from + m * C, v = e * y[p * dim + m];
          for (I c = 0; c < C; ++c) q[c] += v * row[c];
          if (gy) gy[p * dim + m] = dot(row, t, C) + (way ? gy[p * dim + m] : T(0));
        }
        for (I c = 0; c < C; ++c) {
          gf[c] = q[c] * a[c] + (way ? gf[c] : T(0));
          ga[c] += q[c] * f[c];
        }
      }
    }
}

// Both atoms of every pair tell each other: state[r] += [a, b v + c d] with (a, b, c) = phi w of
// the one that speaks; d is the direction to it. A row of state: a scalar and a vector.
extern "C" void tell(I pairs, I C, const I* first, const I* second, const T* phi, const T* w,
                     const T* v, const T* d, T* state) {
  for (I p = 0; p < pairs; ++p)
    for (int way = 0; way < 2; ++way) {
      const I r = way ? second[p] : first[p], s = way ? first[p] : second[p];
      const T *f = phi + s * 3 * C, *u = w + p * 3 * C, *x = v + s * 3 * C;
      T* to = state + r * 4 * C;
      for (I c = 0; c < C; ++c) to[c] += f[c] * u[c];
      for (int k = 0; k < 3; ++k) {
        const T e = way ? -d[p * 3 + k] : d[p * 3 + k];
        T* row = to + (k + 1) * C;
        for (I c = 0; c < C; ++c) row[c] += f[C + c] * u[C + c] * x[k * C + c];
        for (I c = 0; c < C; ++c) row[c] += f[2 * C + c] * u[2 * C + c] * e;
      }
    }
}

// Adds to gphi and gv; gd may be null.
extern "C" void tell_back(I pairs, I C, const I* first, const I* second, const T* phi, const T* w,
                          const T* v, const T* d, const T* g, T* gphi, T* gw, T* gv, T* gd) {
  std::vector<T> memory(3 * C);
  T *gb = memory.data(), *gc = gb + C, *m = gc + C;
  for (I p = 0; p < pairs; ++p)
    for (int way = 0; way < 2; ++way) {
      const I r = way ? second[p] : first[p], s = way ? first[p] : second[p];
      const T *f = phi + s * 3 * C, *u = w + p * 3 * C, *x = v + s * 3 * C, *from = g + r * 4 * C;
      T *gf = gphi + s * 3 * C, *gu = gw + p * 3 * C, *gx = gv + s * 3 * C;
      if (!way) std::memset(gu, 0, sizeof(T) * 3 * C);
      for (I c = 0; c < C; ++c) { gb[c] = 0; gc[c] = 0; m[c] = f[2 * C + c] * u[2 * C + c]; }
      for (int k = 0; k < 3; ++k) {
        const T e = way ? -d[p * 3 + k] : d[p * 3 + k];
        const T* q = from + (k + 1) * C;
        for (I c = 0; c < C; ++c) {
          gb[c] += q[c] * x[k * C + c];
          gc[c] += q[c] * e;
          gx[k * C + c] += q[c] * f[C + c] * u[C + c];
        }
        if (gd) {
          const T sum = dot(q, m, C);
          if (way) gd[p * 3 + k] -= sum;
          else gd[p * 3 + k] = sum;
        }
      }
      for (I c = 0; c < C; ++c) { gf[c] += from[c] * u[c]; gu[c] += from[c] * f[c]; }
      for (I c = 0; c < C; ++c) { gf[C + c] += gb[c] * u[C + c]; gu[C + c] += gb[c] * f[C + c]; }
      for (I c = 0; c < C; ++c) {
        gf[2 * C + c] += gc[c] * u[2 * C + c];
        gu[2 * C + c] += gc[c] * f[2 * C + c];
      }
    }
}

// matrix[h, n, c] = factor[n] rows[selection[n], h, c]
extern "C" void arrange(I n, I hidden, I C, const I* selection, const T* rows, const T* factor,
                        T* matrix) {
  for (I h = 0; h < hidden; ++h)
    for (I k = 0; k < n; ++k) {
      const T *from = rows + (selection[k] * hidden + h) * C, f = factor[k];
      T* to = matrix + (h * n + k) * C;
      for (I c = 0; c < C; ++c) to[c] = f * from[c];
    }
}

// Sets the selected rows of grows.
extern "C" void arrange_back(I n, I hidden, I C, const I* selection, const T* rows,
                             const T* factor, const T* g, T* grows, T* gfactor) {
  for (I k = 0; k < n; ++k) {
    double total = 0;
    for (I h = 0; h < hidden; ++h) {
      const T *row = rows + (selection[k] * hidden + h) * C, *from = g + (h * n + k) * C;
      T* to = grows + (selection[k] * hidden + h) * C;
      for (I c = 0; c < C; ++c) to[c] = factor[k] * from[c];
      total += dot(from, row, C);
    }
    gfactor[k] = total;
  }
}
"""
