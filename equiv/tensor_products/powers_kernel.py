r"""C++ for powers of functions on grids (:mod:`equiv.tensor_products.powers_form`)."""

import ctypes
from functools import cache

import torch

from equiv.native import load_library
from equiv.tensor_products.grid_kernel import GRID, Transform
from equiv.tensor_products.lanes import Operand, source


@cache
def powers_library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernel for one number type, or ``None`` where it cannot be built."""
    library = load_library(source(dtype, GRID + _BODY))
    if library is not None:
        constants = [ctypes.POINTER(Operand), ctypes.POINTER(Transform), ctypes.c_void_p]
        library.powers.argtypes = [ctypes.c_int64] * 5 + constants
        library.powers.restype = None
    return library


_BODY = r"""
static void scale(I n, const T* factors, T times, const T* x, T* out) {
  for (I i = 0; i < n; ++i) {
    const T c = factors[i] * times;
    for (I v = i * LANES; v < (i + 1) * LANES; v += W) store(out + v, c * load(x + v));
  }
}

// Operands x, u and z (all powers one after the other; their factors likewise). With f, h and k the
// functions of x, u and z, and e = h if u is given, else f: of each power n
//   the derivative by z is that of  c <k_n, e f^(n-1)>  with c = n if u is given, else 1,
//   the derivative by x adds        c <., e f^(n-2) k_n> with c = n (n - 1), or n.
extern "C" void powers(I rows, I channels, I threads, I points, I highest, const Operand* operands,
                       const Transform* transforms, const T* factors) {
  const Operand &x = operands[0], &u = operands[1], &z = operands[2];
  const Transform &signal = transforms[0], &back = transforms[1];
  const bool odd = signal.sizes[1] || back.sizes[1];
  const I part = back.sizes[0] + back.sizes[1];
  const I field = (odd ? 2 : 1) * points * LANES;

  #pragma omp parallel num_threads(threads) if (threads > 1)
  {
    #ifdef _OPENMP
    const I thread = omp_get_thread_num(), team = omp_get_num_threads();
    #else
    const I thread = 0, team = 1;
    #endif
    T* f = scratch(6 * field + (x.size + 2 * z.size) * LANES);
    T *h = f + field, *e = h + field, *next = e + field, *k = next + field, *sum = k + field;
    T *in = sum + field, *given = in + x.size * LANES, *out = given + z.size * LANES;
    const bool last[3] = {channels_last(x), channels_last(u), channels_last(z)};
    Run runs[LANES];
    const I first = rows * thread / team * channels, end = rows * (thread + 1) / team * channels;
    for (I at = first; at < end; at += LANES) {
      const I n = runs_of(at, at + LANES < end ? at + LANES : end, channels, runs);
      bring(x, runs, n, last[0], in);
      values(signal, points, odd, in, f);
      const T* start = f;
      if (u.data) {
        bring(u, runs, n, last[1], in);
        values(signal, points, odd, in, h);
        start = h;
      }
      if (z.data) bring(z, runs, n, last[2], given);
      std::memset(sum, 0, sizeof(T) * field);
      for (I power = 2; power <= highest; ++power) {
        const I at_z = (power - 2) * part;
        const T* before = power == 2 ? start : e;
        if (x.gradient) {
          const T c = u.data ? power * (power - 1) : power;
          scale(part, factors + at_z, c, given + at_z * LANES, in);
          values(back, points, odd, in, k);
          pointwise(points, odd, before, k, next);
          for (I i = 0; i < field; i += W) store(sum + i, load(sum + i) + load(next + i));
        }
        if (power < highest || z.gradient) pointwise(points, odd, before, f, next);
        if (z.gradient) {
          components(back, points, odd, next, in);
          scale(part, factors + at_z, u.data ? power : 1, in, out + at_z * LANES);
        }
        T* free = e; e = next; next = free;
      }
      if (z.gradient) take(z, runs, n, last[2], out);
      if (x.gradient) {
        components(signal, points, odd, sum, in);
        take(x, runs, n, last[0], in);
      }
    }
  }
}
"""
