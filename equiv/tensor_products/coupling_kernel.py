r"""C++ for couplings channel by channel (:mod:`equiv.tensor_products.couplings`).

One loop for everything: an operand of the form is a sum of runs, each the product of a component of
a second operand and a short sum over products of components of the two others,

.. math::
    o_n = \sum_{r \to n} q_r \sum_{e \in r} C_e\, a_e\, b_e

with vectors of rows and channels in place of the numbers. The sums live in registers; each entry
of the table is two multiplications and two loads for each vector. The table is data, so one
library serves all irreps.
"""

import ctypes
from functools import cache

import torch

from equiv.native import load_library
from equiv.tensor_products.lanes import Operand, source


class Table(ctypes.Structure):
    """The entries of a form, sorted for the derivative by one operand, as C++ sees them."""

    _fields_ = (
        ("sums", ctypes.c_int64),
        ("sum", ctypes.c_void_p),
        ("pairs", ctypes.c_void_p),
        ("coefficients", ctypes.c_void_p),
    )


@cache
def coupling_library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernel for one number type, or ``None`` where it cannot be built."""
    library = load_library(source(dtype, _BODY))
    if library is not None:
        tables = [ctypes.POINTER(Table)] * 4
        library.couple.argtypes = [ctypes.c_int64] * 3 + [ctypes.POINTER(Operand)] + tables
        library.couple.restype = None
    return library


_BODY = r"""
struct Sum { int32_t out, factor, end; };  // factor -1: 1
struct Table { I sums; const Sum* sum; const int32_t* pairs; const T* coefficients; };

static void couple_block(const Table& t, const T* a, const T* b, const T* q, T* out) {
  I e = 0;
  for (I n = 0; n < t.sums; ++n) {
    V s[VECTORS];
    for (int v = 0; v < VECTORS; ++v) s[v] = zero();
    for (; e < t.sum[n].end; ++e) {
      const T* x = a + t.pairs[2 * e] * LANES;
      const T* y = b + t.pairs[2 * e + 1] * LANES;
      const T c = t.coefficients[e];
      #pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) s[v] += (c * load(x + v * W)) * load(y + v * W);
    }
    T* o = out + t.sum[n].out * LANES;
    if (t.sum[n].factor < 0) {
      #pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) store(o + v * W, load(o + v * W) + s[v]);
    } else {
      const T* f = q + t.sum[n].factor * LANES;
      #pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v)
        store(o + v * W, load(o + v * W) + load(f + v * W) * s[v]);
    }
  }
}

// Derivatives of the form by those operands (x, y, z, weights) that have a place for them.
extern "C" void couple(I rows, I channels, I threads, const Operand* operands, const Table* t0,
                       const Table* t1, const Table* t2, const Table* t3) {
  const Table* tables[4] = {t0, t1, t2, t3};
  // the two operands inside the sums, and the one outside
  static const int roles[4][3] = {{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}};
  const Operand& weights = operands[3];
  const bool summed = weights.gradient && weights.row == 0;
  I width = 0, total = 0;
  for (int i = 0; i < 4; ++i) total += operands[i].size;
  if (summed)
    for (I i = 0; i < weights.size; ++i)
      if (weights.table[i] + channels > width) width = weights.table[i] + channels;
  std::vector<double> sums(width * threads, 0.0);

  #pragma omp parallel num_threads(threads) if (threads > 1)
  {
    #ifdef _OPENMP
    const I thread = omp_get_thread_num(), team = omp_get_num_threads();
    #else
    const I thread = 0, team = 1;
    #endif
    T* memory = scratch(2 * total * LANES);
    T *in[4], *out[4];
    bool last[4];
    for (int i = 0; i < 4; ++i) {
      in[i] = memory;
      out[i] = memory + operands[i].size * LANES;
      memory += 2 * operands[i].size * LANES;
      last[i] = channels_last(operands[i]);
    }
    // the same channels in the same lanes of every full block: weights are brought once, and their
    // derivatives taken rarely
    const bool steady = LANES % channels == 0;
    double* own = sums.data() + thread * width;
    if (summed) std::memset(out[3], 0, sizeof(T) * weights.size * LANES);
    Run runs[LANES];
    const I first = rows * thread / team * channels, end = rows * (thread + 1) / team * channels;
    I count = 0;
    for (I at = first; at < end; at += LANES, ++count) {
      const I n = runs_of(at, at + LANES < end ? at + LANES : end, channels, runs);
      for (int i = 0; i < 4; ++i) {
        if (!operands[i].data || !operands[i].size) continue;
        if (i == 3 && weights.row == 0 && steady && count > 0) continue;
        bring(operands[i], runs, n, last[i], in[i]);
      }
      for (int i = 0; i < 4; ++i) {
        if (!operands[i].gradient) continue;
        const int* r = roles[i];
        if (i < 3 || !summed) std::memset(out[i], 0, sizeof(T) * operands[i].size * LANES);
        couple_block(*tables[i], in[r[0]], in[r[1]], in[r[2]], out[i]);
        if (i < 3 || !summed) take(operands[i], runs, n, last[i], out[i]);
        else if (!steady || count % 64 == 63 || at + 2 * LANES > end)
          add_rows(weights, runs, n, out[3], own);
      }
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
