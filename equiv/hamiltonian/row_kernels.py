r"""C++ for layers that work row by row on feature tensors ``[rows, components, channels]``.

Linear maps of every irrep, norms and gates, what the two atoms of a pair have in common, and the
last map to the irreps of blocks. Each
is a few passes over memory that stays in the cache; in torch they are dozens of small operations,
whose cost is that of starting them. The channels are the lanes of vector registers.
"""

import ctypes
from functools import cache

import torch

from equiv.hamiltonian.registers import REGISTERS
from equiv.native import load_library


@cache
def row_library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels for one number type, or ``None`` where they cannot be built."""
    number = {torch.float32: "float", torch.float64: "double"}.get(dtype)
    return None if number is None else load_library(f"typedef {number} T;\n{REGISTERS}{_SOURCE}")


_SOURCE = r"""
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// y[m] (+)= scale x[m] W for M vectors of n_in numbers, in the columns of N registers.
template <int B, int M, int N>
static inline void tile(const T* x, const T* W, T* y, const I* at, I n_in, I step, T scale,
                        bool add) {
  typedef typename Register<B>::V V;
  const I L = Register<B>::lanes;
  const T* from[M];
  for (int m = 0; m < M; ++m) from[m] = x + at[m];
  V sum[M][N] = {};
  for (I a = 0; a < n_in; ++a) {
    const T* w = W + a * step;
    V row[N];
    for (int n = 0; n < N; ++n) row[n] = *(const V*)(w + n * L);
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n) sum[m][n] += from[m][a] * row[n];
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) {
      V* to = (V*)(y + at[m] + n * L);
      *to = add ? *to + sum[m][n] * scale : sum[m][n] * scale;
    }
}

template <int B, int N>
static void strip(const std::vector<I>& at, const T* x, const T* W, T* y, I n_in, I step, T scale,
                  bool add) {
  I n = at.size(), i = 0;
  for (; i + 8 <= n; i += 8) tile<B, 8, N>(x, W, y, at.data() + i, n_in, step, scale, add);
  for (; i + 4 <= n; i += 4) tile<B, 4, N>(x, W, y, at.data() + i, n_in, step, scale, add);
  for (; i < n; ++i) tile<B, 1, N>(x, W, y, at.data() + i, n_in, step, scale, add);
}

// W[a, col] += sum over places of x[p + a] g[p + col], for M values of a and N registers.
template <int B, int M, int N>
static inline void corner(const I* at, I n, const T* x, const T* g, T* W, I step) {
  typedef typename Register<B>::V V;
  const I L = Register<B>::lanes;
  V sum[M][N];
  for (int a = 0; a < M; ++a)
    for (int k = 0; k < N; ++k) sum[a][k] = *(const V*)(W + a * step + k * L);
  for (I i = 0; i < n; ++i) {
    const T *p = x + at[i], *q = g + at[i];
    V row[N];
    for (int k = 0; k < N; ++k) row[k] = *(const V*)(q + k * L);
    for (int a = 0; a < M; ++a)
      for (int k = 0; k < N; ++k) sum[a][k] += p[a] * row[k];
  }
  for (int a = 0; a < M; ++a)
    for (int k = 0; k < N; ++k) *(V*)(W + a * step + k * L) = sum[a][k];
}

template <int B, int N>
static void side(const I* at, I n, const T* x, const T* g, T* W, I width) {
  I a = 0;
  for (; a + 8 <= width; a += 8) corner<B, 8, N>(at, n, x + a, g, W + a * width, width);
  for (; a < width; ++a) corner<B, 1, N>(at, n, x + a, g, W + a * width, width);
}

static void places(I rows, I dim, I channels, I start, I size, I offset, std::vector<I>& at) {
  at.clear();
  for (I r = 0; r < rows; ++r)
    for (I m = 0; m < size; ++m) at.push_back((r * dim + start + m) * channels + offset);
}

static void transpose(I n, const T* from, T* to) {
  for (I a0 = 0; a0 < n; a0 += 16)
    for (I b0 = 0; b0 < n; b0 += 16)
      for (I a = a0; a < n && a < a0 + 16; ++a)
        for (I b = b0; b < n && b < b0 + 16; ++b) to[b * n + a] = from[a * n + b];
}

// y[r, i, g] = scale x[r, i, g] W[o(i), g], with grades g of `width` channels; or added to y.
extern "C" void linear(I rows, I dim, I irreps, const I* starts, I grades, I width, const T* x,
                       const T* weight, T* y, T scale, I transposed, I add) {
  std::vector<I> at;
  std::vector<T> flipped(transposed ? width * width : 0);
  const I channels = grades * width;
  for (I o = 0; o < irreps; ++o)
    for (I g = 0; g < grades; ++g) {
      const T* W = weight + (o * grades + g) * width * width;
      if (transposed) {
        transpose(width, W, flipped.data());
        W = flipped.data();
      }
      places(rows, dim, channels, starts[o], starts[o + 1] - starts[o], g * width, at);
      I c = 0, L = Register<BYTES>::lanes;
      for (; c + 2 * L <= width; c += 2 * L)
        strip<BYTES, 2>(at, x, W + c, y + c, width, width, scale, add);
      for (; c + L <= width; c += L)
        strip<BYTES, 1>(at, x, W + c, y + c, width, width, scale, add);
      for (L = Register<16>::lanes; c + L <= width; c += L)
        strip<16, 1>(at, x, W + c, y + c, width, width, scale, add);
      for (; c < width; ++c)
        for (I p : at) {
          T sum = 0;
          for (I a = 0; a < width; ++a) sum += x[p + a] * W[a * width + c];
          y[p + c] = add ? y[p + c] + sum * scale : sum * scale;
        }
    }
}

// Adds the gradient by the weights, without their scale, in blocks of places that stay in the
// nearest cache.
static void outer(I rows, I dim, I irreps, const I* starts, I grades, I width, const T* x,
                  const T* g, T* W) {
  std::vector<I> at;
  const I block = width > 512 ? 8 : 4096 / width;
  for (I o = 0; o < irreps; ++o)
    for (I k = 0; k < grades; ++k, W += width * width) {
      places(rows, dim, grades * width, starts[o], starts[o + 1] - starts[o], k * width, at);
      for (I first = 0; first < (I)at.size(); first += block) {
        const I* some = at.data() + first;
        const I n = std::min(block, (I)at.size() - first);
        I c = 0, L = Register<BYTES>::lanes;
        for (; c + 2 * L <= width; c += 2 * L) side<BYTES, 2>(some, n, x, g + c, W + c, width);
        for (; c + L <= width; c += L) side<BYTES, 1>(some, n, x, g + c, W + c, width);
        for (L = Register<16>::lanes; c + L <= width; c += L)
          side<16, 1>(some, n, x, g + c, W + c, width);
        for (; c < width; ++c)
          for (I a = 0; a < width; ++a)
            for (I i = 0; i < n; ++i) W[a * width + c] += x[some[i] + a] * g[some[i] + c];
      }
    }
}

// The gradient by the weights; added.
extern "C" void linear_weight(I rows, I dim, I irreps, const I* starts, I grades, I width,
                              const T* x, const T* g, T* weight, T scale) {
  std::vector<T> sums(irreps * grades * width * width, T(0));
  outer(rows, dim, irreps, starts, grades, width, x, g, sums.data());
  for (size_t a = 0; a < sums.size(); ++a) weight[a] += sums[a] * scale;
}

static const T SMALL = 1e-4;

// Sums in lanes that the compiler can keep in a register.
static inline T dot(const T* a, const T* b, I n) {
  T lanes[32] = {}, sum = 0;
  I i = 0;
  for (; i + 32 <= n; i += 32)
    for (I k = 0; k < 32; ++k) lanes[k] += a[i + k] * b[i + k];
  for (I k = 0; k < 32; ++k) sum += lanes[k];
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

static inline T total_of(const T* a, I n) {
  T lanes[32] = {}, sum = 0;
  I i = 0;
  for (; i + 32 <= n; i += 32)
    for (I k = 0; k < 32; ++k) lanes[k] += a[i + k];
  for (I k = 0; k < 32; ++k) sum += lanes[k];
  for (; i < n; ++i) sum += a[i];
  return sum;
}

// inv = [x^0 s (even channels), norms]; size = s. inv has even + irreps * C numbers per row.
extern "C" void norms(I rows, I dim, I irreps, const I* starts, I C, I even, const T* x, T* inv,
                      T* size) {
  for (I r = 0; r < rows; ++r) {
    const T* row = x + r * dim * C;
    T* n = inv + r * (even + irreps * C) + even;
    double total = 0;
    for (I o = 0; o < irreps; ++o) {
      T* q = n + o * C;
      for (I c = 0; c < C; ++c) q[c] = 0;
      for (I i = starts[o]; i < starts[o + 1]; ++i)
        for (I c = 0; c < C; ++c) q[c] += row[i * C + c] * row[i * C + c];
      const T share = T(1) / (starts[o + 1] - starts[o]);
      for (I c = 0; c < C; ++c) q[c] *= share;
      total += total_of(q, C);
    }
    const T s = T(1) / std::sqrt(T(1) + T(total / (irreps * C)));
    size[r] = s;
    for (I k = 0; k < irreps * C; ++k) n[k] = std::sqrt(n[k] * s * s + SMALL);
    for (I c = 0; c < even; ++c) inv[r * (even + irreps * C) + c] = row[c] * s;
  }
}

// Adds to gx; `gs` is the gradient by the size from elsewhere.
extern "C" void norms_back(I rows, I dim, I irreps, const I* starts, I C, I even, const T* x,
                           const T* inv, const T* size, const T* g, const T* gs, T* gx) {
  const I width = even + irreps * C;
  std::vector<T> slope(2 * irreps * C);
  for (I r = 0; r < rows; ++r) {
    const T* row = x + r * dim * C;
    const T *n = inv + r * width + even, *gn = g + r * width + even, *gz = g + r * width;
    T* out = gx + r * dim * C;
    const T s = size[r];
    T ds = gs[r];
    ds += dot(gz, row, even);
    for (I c = 0; c < even; ++c) out[c] += gz[c] * s;
    T *h = slope.data(), *q = h + irreps * C;
    for (I k = 0; k < irreps * C; ++k) {  // n^2 = q s^2 + small
      h[k] = gn[k] / n[k];
      q[k] = n[k] * n[k] - SMALL;
    }
    ds += dot(h, q, irreps * C) / s;
    for (I k = 0; k < irreps * C; ++k) h[k] *= T(0.5) * s * s;
    const T shared = -T(0.5) * ds * s * s * s / (irreps * C);
    for (I o = 0; o < irreps; ++o) {
      const T factor = T(2) / (starts[o + 1] - starts[o]);
      T* t = slope.data() + o * C;
      for (I c = 0; c < C; ++c) t[c] = factor * (t[c] + shared);
      for (I i = starts[o]; i < starts[o + 1]; ++i)
        for (I c = 0; c < C; ++c) out[i * C + c] += t[c] * row[i * C + c];
    }
  }
}

// y = x s gate (+ what is added to even scalars); out holds irreps * C gates and even numbers.
extern "C" void gates(I rows, I dim, I irreps, const I* starts, I C, I even, const T* x,
                      const T* size, const T* out, T* y) {
  const I width = even + irreps * C;
  for (I r = 0; r < rows; ++r) {
    const T *row = x + r * dim * C, *gate = out + r * width;
    T* to = y + r * dim * C;
    for (I o = 0; o < irreps; ++o, gate += C)
      for (I i = starts[o]; i < starts[o + 1]; ++i)
        for (I c = 0; c < C; ++c) to[i * C + c] = row[i * C + c] * size[r] * gate[c];
    for (I c = 0; c < even; ++c) to[c] += gate[c];
  }
}

extern "C" void gates_back(I rows, I dim, I irreps, const I* starts, I C, I even, const T* x,
                           const T* size, const T* out, const T* g, T* gx, T* gs, T* gout) {
  const I width = even + irreps * C;
  for (I r = 0; r < rows; ++r) {
    const T *row = x + r * dim * C, *gate = out + r * width, *gy = g + r * dim * C;
    T *to = gx + r * dim * C, *gg = gout + r * width;
    const T s = size[r];
    T ds = 0;
    for (I o = 0; o < irreps; ++o, gate += C, gg += C) {
      for (I c = 0; c < C; ++c) gg[c] = 0;
      for (I i = starts[o]; i < starts[o + 1]; ++i)
        for (I c = 0; c < C; ++c) {
          to[i * C + c] = gy[i * C + c] * s * gate[c];
          gg[c] += gy[i * C + c] * row[i * C + c];
        }
      ds += dot(gg, gate, C);
      for (I c = 0; c < C; ++c) gg[c] *= s;
    }
    gs[r] = ds;
    for (I c = 0; c < even; ++c) gg[c] = gy[c];
  }
}

// Maps of gated features. Gates and maps alternate every few rows, so that what lies between them
// is read where it was just written.
static const I FEW = 16;

// y_k = scale_k W_k (factor y), with y of `gates`; factor may be null.
extern "C" void gated_maps(I rows, I dim, I irreps, const I* starts, I C, I even, const T* x,
                           const T* size, const T* out, const T* factor, I maps, const I* grades,
                           const T* scales, const T** weights, T** results) {
  const I numbers = dim * C, width = even + irreps * C;
  std::vector<T> gated(FEW * numbers);
  T* y = gated.data();
  for (I r = 0; r < rows; r += FEW) {
    const I n = std::min(FEW, rows - r);
    gates(n, dim, irreps, starts, C, even, x + r * numbers, size + r, out + r * width, y);
    if (factor)
      for (I i = 0; i < n * numbers; ++i) y[i] *= factor[r + i / numbers];
    for (I k = 0; k < maps; ++k)
      linear(n, dim, irreps, starts, grades[k], C / grades[k], y, weights[k],
             results[k] + r * numbers, scales[k], 0, 0);
  }
}

// Sets gx, gsize, gout and gfactor (null without a factor); adds to gweights.
extern "C" void gated_maps_back(I rows, I dim, I irreps, const I* starts, I C, I even, const T* x,
                                const T* size, const T* out, const T* factor, I maps,
                                const I* grades, const T* scales, const T** weights,
                                const T** grads, T** gweights, T* gx, T* gsize, T* gout,
                                T* gfactor) {
  const I numbers = dim * C, width = even + irreps * C;
  std::vector<T> memory(2 * FEW * numbers);
  T *y = memory.data(), *gy = y + FEW * numbers;
  std::vector<std::vector<T>> turned(maps), sums(maps);
  for (I k = 0; k < maps; ++k) {
    const I side = C / grades[k], matrices = irreps * grades[k];
    turned[k].resize(matrices * side * side);
    sums[k].assign(matrices * side * side, T(0));
    for (I i = 0; i < matrices; ++i)
      transpose(side, weights[k] + i * side * side, turned[k].data() + i * side * side);
  }
  for (I r = 0; r < rows; r += FEW) {
    const I n = std::min(FEW, rows - r), from = r * numbers;
    gates(n, dim, irreps, starts, C, even, x + from, size + r, out + r * width, y);
    for (I k = 0; k < maps; ++k)
      linear(n, dim, irreps, starts, grades[k], C / grades[k], grads[k] + from,
             turned[k].data(), gy, scales[k], 0, k > 0);
    for (I i = 0; factor && i < n; ++i) {
      T *a = y + i * numbers, *b = gy + i * numbers;
      const T f = factor[r + i];
      gfactor[r + i] = dot(a, b, numbers);
      for (I c = 0; c < numbers; ++c) a[c] *= f;
      for (I c = 0; c < numbers; ++c) b[c] *= f;
    }
    for (I k = 0; k < maps; ++k)
      outer(n, dim, irreps, starts, grades[k], C / grades[k], y, grads[k] + from, sums[k].data());
    gates_back(n, dim, irreps, starts, C, even, x + from, size + r, out + r * width, gy, gx + from,
               gsize + r, gout + r * width);
  }
  for (I k = 0; k < maps; ++k)
    for (size_t a = 0; a < sums[k].size(); ++a) gweights[k][a] += sums[k][a] * scales[k];
}

// inv = [x_i^0 + x_j^0, mean over components of x_i x_j for every irrep].
extern "C" void inner(I pairs, I dim, I irreps, const I* starts, I C, const T* x, const I* first,
                      const I* second, T* inv) {
  for (I p = 0; p < pairs; ++p) {
    const T *a = x + first[p] * dim * C, *b = x + second[p] * dim * C;
    T* to = inv + p * (irreps + 1) * C;
    for (I c = 0; c < C; ++c) to[c] = a[c] + b[c];
    for (I o = 0; o < irreps; ++o) {
      to += C;
      const T share = T(1) / (starts[o + 1] - starts[o]);
      for (I c = 0; c < C; ++c) to[c] = 0;
      for (I i = starts[o]; i < starts[o + 1]; ++i)
        for (I c = 0; c < C; ++c) to[c] += a[i * C + c] * b[i * C + c];
      for (I c = 0; c < C; ++c) to[c] *= share;
    }
  }
}

extern "C" void inner_back(I pairs, I dim, I irreps, const I* starts, I C, const T* x,
                           const I* first, const I* second, const T* g, T* gx) {
  for (I p = 0; p < pairs; ++p) {
    const T *a = x + first[p] * dim * C, *b = x + second[p] * dim * C;
    T *ga = gx + first[p] * dim * C, *gb = gx + second[p] * dim * C;
    const T* from = g + p * (irreps + 1) * C;
    for (I c = 0; c < C; ++c) { ga[c] += from[c]; gb[c] += from[c]; }
    for (I o = 0; o < irreps; ++o) {
      from += C;
      const T share = T(1) / (starts[o + 1] - starts[o]);
      for (I i = starts[o]; i < starts[o + 1]; ++i)
        for (I c = 0; c < C; ++c) {
          const T t = from[c] * share, u = a[i * C + c], v = b[i * C + c];
          ga[i * C + c] += t * v;
          gb[i * C + c] += t * u;
        }
    }
  }
}

// z = x_i + sign x_j
extern "C" void together(I pairs, I dim, I C, const T* x, const I* first, const I* second,
                         const T* sign, T* z) {
  for (I p = 0; p < pairs; ++p) {
    const T *a = x + first[p] * dim * C, *b = x + second[p] * dim * C;
    T* to = z + p * dim * C;
    for (I i = 0; i < dim; ++i, a += C, b += C, to += C)
      for (I c = 0; c < C; ++c) to[c] = a[c] + sign[c] * b[c];
  }
}

extern "C" void together_back(I pairs, I dim, I C, const T* g, const I* first, const I* second,
                              const T* sign, T* gx) {
  for (I p = 0; p < pairs; ++p) {
    T *a = gx + first[p] * dim * C, *b = gx + second[p] * dim * C;
    const T* from = g + p * dim * C;
    for (I i = 0; i < dim; ++i, a += C, b += C, from += C)
      for (I c = 0; c < C; ++c) { a[c] += from[c]; b[c] += sign[c] * from[c]; }
  }
}

// The rows that hold some components of x: where each of them starts.
static void components(I rows, const I* index, I dim, I C, I start, I count, std::vector<I>& at) {
  at.resize(rows * count);
  for (I r = 0; r < rows; ++r)
    for (I m = 0; m < count; ++m) at[r * count + m] = (index[r] * dim + start + m) * C;
}

// y[r, m, n] = sum_c x[r, m, c] W[c, n] for pieces of the components of x and columns of W. Each
// piece is: first component (-1: x lacks it), components, first column of W, columns, place in y.
extern "C" void mix(I rows, const I* index, I dim, I C, I pieces, const I* table, I columns,
                    I width, const T* x, const T* weight, T* y) {
  typedef Register<BYTES>::V V;
  const I L = Register<BYTES>::lanes, M = 6;
  std::vector<I> at;
  std::vector<T> padded(C * L);
  for (I p = 0; p < pieces; ++p, table += 5) {
    const I count = table[1], n = table[3];
    if (table[0] < 0) {
      for (I r = 0; r < rows; ++r)
        std::memset(y + r * width + table[4], 0, sizeof(T) * count * n);
      continue;
    }
    components(rows, index, dim, C, table[0], count, at);
    for (I first = 0; first < n; first += L) {
      const I some = std::min(L, n - first);
      for (I c = 0; c < C; ++c)
        for (I k = 0; k < L; ++k)
          padded[c * L + k] = k < some ? weight[c * columns + table[2] + first + k] : T(0);
      for (I i = 0; i < (I)at.size(); i += M) {
        V sum[M] = {};
        const T* from[M];
        const I items = std::min(M, (I)at.size() - i);
        for (I m = 0; m < M; ++m) from[m] = x + at[i + std::min(m, items - 1)];
        for (I c = 0; c < C; ++c) {
          const V w = *(const V*)(padded.data() + c * L);
          for (I m = 0; m < M; ++m) sum[m] += from[m][c] * w;
        }
        for (I m = 0; m < items; ++m) {
          T* to = y + (i + m) / count * width + table[4] + (i + m) % count * n + first;
          for (I k = 0; k < some; ++k) to[k] = sum[m][k];
        }
      }
    }
  }
}

// Sets those rows of gx, and adds to g_weight. What several pieces read gets the sum.
extern "C" void mix_back(I rows, const I* index, I dim, I C, I pieces, const I* table, I columns,
                         I width, const T* x, const T* weight, const T* g, T* gx, T* g_weight) {
  std::vector<I> at;
  std::vector<T> turned, sums;
  std::vector<bool> written(dim, false);
  for (I p = 0; p < pieces; ++p, table += 5) {
    const I count = table[1], n = table[3];
    if (table[0] < 0 || n == 0) continue;
    const bool fresh = !written[table[0]];
    std::fill_n(written.begin() + table[0], count, true);
    components(rows, index, dim, C, table[0], count, at);
    turned.resize(n * C);
    sums.assign(n * C, T(0));
    for (I k = 0; k < n; ++k)
      for (I c = 0; c < C; ++c) turned[k * C + c] = weight[c * columns + table[2] + k];
    for (I i = 0; i < (I)at.size(); ++i) {
      const T *from = x + at[i], *gy = g + i / count * width + table[4] + i % count * n;
      T* to = gx + at[i];
      for (I k = 0; k < n; ++k) {
        const T v = gy[k], *w = turned.data() + k * C;
        T* sum = sums.data() + k * C;
        if (fresh && k == 0)
          for (I c = 0; c < C; ++c) { to[c] = v * w[c]; sum[c] += v * from[c]; }
        else
          for (I c = 0; c < C; ++c) { to[c] += v * w[c]; sum[c] += v * from[c]; }
      }
    }
    for (I k = 0; k < n; ++k)
      for (I c = 0; c < C; ++c) g_weight[c * columns + table[2] + k] += sums[k * C + c];
  }
  for (I i = 0; i < rows; ++i)
    for (I m = 0; m < dim; ++m)
      if (!written[m]) std::fill_n(gx + (index[i] * dim + m) * C, C, T(0));
}
"""
