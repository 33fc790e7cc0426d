r"""C++ for products of functions on grids (:mod:`equiv.tensor_products.grid_form`).

For each block of rows and channels: functions at all points, two small matrix products; their
products point by point; and back, again two matrix products, of even and of odd functions apart.
Nothing leaves the nearest caches but operands and results. The matrix products hold 6 x 4 vector
registers of sums, and load ten numbers for 24 multiply-adds.
"""

import ctypes
from functools import cache

import torch

from equiv.native import load_library
from equiv.tensor_products.lanes import Operand, source


class Transform(ctypes.Structure):
    """Values at points of the components of an operand, as C++ sees them."""

    _fields_ = (
        ("sizes", ctypes.c_int64 * 2),
        ("matrices", ctypes.c_void_p * 2),
        ("transposed", ctypes.c_void_p * 2),
        ("weights", ctypes.c_void_p),
    )


@cache
def grid_library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernel for one number type, or ``None`` where it cannot be built."""
    library = load_library(source(dtype, GRID + _BODY))
    if library is not None:
        operands = [ctypes.POINTER(Operand), ctypes.POINTER(Transform)]
        library.multiply.argtypes = [ctypes.c_int64] * 4 + operands
        library.multiply.restype = None
    return library


GRID = r"""
// Values of the components of one operand: even ones first, then odd ones.
struct Transform {
  I sizes[2];            // even and odd components
  const T* matrices[2];  // [points, components] of each
  const T* transposed[2];
  const I* weights;      // which of the weights multiplies a component; null: none
};

// out[r] = sum_s A[r * terms + s] in[s], P rows at once.
template <int P> static inline void tile(I terms, const T* A, const T* in, T* out) {
  V s[P][VECTORS];
  for (int p = 0; p < P; ++p) for (int v = 0; v < VECTORS; ++v) s[p][v] = zero();
  for (I i = 0; i < terms; ++i) {
    V x[VECTORS];
    #pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) x[v] = load(in + i * LANES + v * W);
    #pragma GCC unroll 6
    for (int p = 0; p < P; ++p) {
      const T a = A[p * terms + i];
      #pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) s[p][v] += a * x[v];
    }
  }
  #pragma GCC unroll 6
  for (int p = 0; p < P; ++p)
    #pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) store(out + p * LANES + v * W, s[p][v]);
}

static void matrix(I rows, I terms, const T* A, const T* in, T* out) {
  const I tiles = (rows + 5) / 6;  // of nearly equal heights
  for (I t = 0; t < tiles; ++t) {
    const I r = rows * t / tiles, height = rows * (t + 1) / tiles - r;
    const T* a = A + r * terms;
    T* o = out + r * LANES;
    switch (height) {
      case 1: tile<1>(terms, a, in, o); break;
      case 2: tile<2>(terms, a, in, o); break;
      case 3: tile<3>(terms, a, in, o); break;
      case 4: tile<4>(terms, a, in, o); break;
      case 5: tile<5>(terms, a, in, o); break;
      default: tile<6>(terms, a, in, o);
    }
  }
}

// Even and odd values from components.
static void values(const Transform& t, I points, bool odd, const T* x, T* field) {
  for (int part = 0; part < 1 + odd; ++part) {
    const I n = t.sizes[part];
    matrix(points, n, t.matrices[part], x, field + part * points * LANES);
    x += n * LANES;
  }
}

// The adjoint.
static void components(const Transform& t, I points, bool odd, const T* field, T* x) {
  for (int part = 0; part < 1 + odd; ++part) {
    const I n = t.sizes[part];
    matrix(n, points, t.transposed[part], field + part * points * LANES, x);
    x += n * LANES;
  }
}

static void pointwise(I points, bool odd, const T* f, const T* h, T* out) {
  const I n = points * LANES;
  if (!odd) {
    for (I i = 0; i < n; i += W) store(out + i, load(f + i) * load(h + i));
    return;
  }
  for (I i = 0; i < n; i += W) {
    const V fe = load(f + i), fo = load(f + n + i), he = load(h + i), ho = load(h + n + i);
    store(out + i, fe * he + fo * ho);
    store(out + n + i, fe * ho + fo * he);
  }
}
"""
"""What kernels on grids share."""

_BODY = r"""
static void scaled(const Transform& t, const T* weights, const T* x, T* out) {
  const I n = t.sizes[0] + t.sizes[1];
  for (I i = 0; i < n; ++i) {
    const T* w = weights + t.weights[i] * LANES;
    for (I v = 0; v < LANES; v += W)
      store(out + i * LANES + v, load(w + v) * load(x + i * LANES + v));
  }
}

// Derivatives of the form by those operands (x, y, z, weights) that have a place for them.
extern "C" void multiply(I rows, I channels, I threads, I points, const Operand* operands,
                         const Transform* transforms) {
  const Operand& weights = operands[3];
  const bool weighted = weights.data, summed = weights.gradient && weights.row == 0;
  bool odd = false;
  I width = 0, total = 2 * weights.size, largest = 0;
  for (int i = 0; i < 3; ++i) {
    total += 2 * operands[i].size;
    if (operands[i].size > largest) largest = operands[i].size;
    odd = odd || transforms[i].sizes[1];
  }
  if (summed)
    for (I i = 0; i < weights.size; ++i) {
      const I end = weights.table[i] + (channels - 1) * weights.table[weights.size + i] + 1;
      if (end > width) width = end;
    }
  std::vector<double> sums(width * threads, 0.0);
  const I field = (odd ? 2 : 1) * points * LANES;

  #pragma omp parallel num_threads(threads) if (threads > 1)
  {
    #ifdef _OPENMP
    const I thread = omp_get_thread_num(), team = omp_get_num_threads();
    #else
    const I thread = 0, team = 1;
    #endif
    T* memory = scratch((total + largest) * LANES + 4 * field);
    T *in[4], *at_points[3];
    bool last[4];
    for (int i = 0; i < 4; ++i) {
      in[i] = memory;
      memory += operands[i].size * LANES;
      last[i] = channels_last(operands[i]);
    }
    for (int i = 0; i < 3; ++i) { at_points[i] = memory; memory += field; }
    T* product = memory;
    T* change = memory + field;               // of the components, before the weights
    T* result = change + largest * LANES;     // after
    T* for_weights = result + largest * LANES;
    // the same channels in the same lanes of every full block: weights are brought once, and their
    // derivatives taken rarely
    const bool steady = LANES % channels == 0;
    double* own = sums.data() + thread * width;
    if (weights.gradient) std::memset(for_weights, 0, sizeof(T) * weights.size * LANES);
    Run runs[LANES];
    const I first = rows * thread / team * channels, end = rows * (thread + 1) / team * channels;
    I count = 0;
    for (I at = first; at < end; at += LANES, ++count) {
      const I n = runs_of(at, at + LANES < end ? at + LANES : end, channels, runs);
      if (weighted && !(weights.row == 0 && steady && count > 0))
        bring(weights, runs, n, last[3], in[3]);
      for (int i = 0; i < 3; ++i) {
        if (!operands[i].data) continue;
        bring(operands[i], runs, n, last[i], in[i]);
        const T* x = in[i];
        if (weighted) { scaled(transforms[i], in[3], x, result); x = result; }
        values(transforms[i], points, odd, x, at_points[i]);
      }
      for (int i = 0; i < 3; ++i) {
        if (!operands[i].gradient && !weights.gradient) continue;
        const int j = i == 0, k = i == 2 ? 1 : 2;  // the two others
        pointwise(points, odd, at_points[j], at_points[k], product);
        components(transforms[i], points, odd, product, change);
        if (weights.gradient)
          for (I c = 0; c < operands[i].size; ++c) {
            T* w = for_weights + transforms[i].weights[c] * LANES;
            for (I v = c * LANES; v < (c + 1) * LANES; v += W, w += W)
              store(w, load(w) + load(change + v) * load(in[i] + v));
          }
        if (!operands[i].gradient) continue;
        const T* out = change;
        if (weighted) { scaled(transforms[i], in[3], change, result); out = result; }
        take(operands[i], runs, n, last[i], out);
      }
      if (weights.gradient && !summed) {
        take(weights, runs, n, last[3], for_weights);
        std::memset(for_weights, 0, sizeof(T) * weights.size * LANES);
      } else if (summed && (!steady || count % 64 == 63 || at + 2 * LANES > end))
        add_rows(weights, runs, n, for_weights, own);
    }
  }
  if (summed)
    for (I j = 0; j < width; ++j) {
      double sum = 0;
      for (I thread = 0; thread < threads; ++thread) sum += sums[thread * width + j];
      weights.gradient[j] = sum;
    }
}
"""
