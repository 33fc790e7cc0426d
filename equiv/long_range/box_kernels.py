r"""C++ between charges in boxes and the Chebyshev moments of the boxes, both ways.

Towards the moments, :math:`M_{abc} = \sum_i q_i T_a(\xi_i) T_b(\eta_i) T_c(\zeta_i)`, the sums over
the charges of a box stay in registers: a vector holds neighbouring entries :math:`bc`. Back from
coefficients, a vector holds several charges of a box, and values and slopes come from one pass.
"""

import ctypes
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.native import load_library

# The recurrence of more Chebyshev polynomials than that would not fit into the tables.
MOST_NODES = 96


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or ``None`` where they cannot be built."""
    found = load_library(_SOURCE)
    if found is not None:
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        found.sort_boxes.argtypes = [integer, integer, *[pointer] * 3]
        found.sort_boxes.restype = None
        for name in ("moments_double", "moments_float"):
            function = getattr(found, name)
            function.argtypes = [*[integer] * 6, *[pointer] * 5, integer]
            function.restype = None
        for name in ("fields_double", "fields_float"):
            function = getattr(found, name)
            function.argtypes = [*[integer] * 6, *[pointer] * 5, integer]
            function.restype = None
    return found


def sort_into_boxes(
    boxes: Int[Tensor, " atoms"], count: int
) -> tuple[Int[Tensor, " atoms"], Int[Tensor, " boxes+1"]]:
    """The atoms box by box, and where each box begins among them."""
    found = library()
    assert found is not None
    order = torch.empty_like(boxes)
    starts = torch.empty(count + 1, dtype=torch.int64)
    boxes = boxes.contiguous()
    found.sort_boxes(len(boxes), count, boxes.data_ptr(), order.data_ptr(), starts.data_ptr())
    return order, starts


def moments(
    starts: Int[Tensor, " boxes+1"],
    order: Int[Tensor, " atoms"],
    atoms: Float[Tensor, "atoms n"],
    grid: Float[Tensor, "layers n2 n3"],
    shape: tuple[int, int, int],
    nodes: int,
) -> None:
    """Writes the moments of the layers of boxes whose ``starts`` these are into a grid.

    ``atoms`` holds the three coordinates in the box and the charge of each atom; or, to get
    the change of the moments, also the changes of the charge and of the coordinates.
    """
    _run("moments", starts, order, atoms, grid, shape, nodes, None)


def fields(
    starts: Int[Tensor, " boxes+1"],
    order: Int[Tensor, " atoms"],
    atoms: Float[Tensor, "atoms n"],
    grid: Float[Tensor, "layers n2 n3"],
    shape: tuple[int, int, int],
    nodes: int,
    out: Float[Tensor, "atoms m"],
) -> None:
    """Value and slopes of what the coefficients in the grid say at the atoms of these boxes.

    ``out`` has four columns for them and, with ``atoms`` of eight columns, three more for the
    change of the slopes along the change of the coordinates.
    """
    _run("fields", starts, order, atoms, grid, shape, nodes, out)


def _run(
    name: str,
    starts: Tensor,
    order: Tensor,
    atoms: Tensor,
    grid: Tensor,
    shape: tuple[int, int, int],
    nodes: int,
    out: Tensor | None,
) -> None:
    found = library()
    assert found is not None
    kind = "double" if atoms.dtype == torch.float64 else "float"
    threads = torch.get_num_threads() if len(atoms) > 500 else 1
    getattr(found, f"{name}_{kind}")(
        *(*shape, nodes, atoms.shape[1], 0 if out is None else out.shape[1]),
        *(starts.data_ptr(), order.data_ptr(), atoms.data_ptr(), grid.data_ptr()),
        *(None if out is None else out.data_ptr(), threads),
    )


_SOURCE = r"""
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
typedef int64_t I;

template <class T> struct Lanes;
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(64), aligned(8), may_alias));
  static const int L = 8;
};
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(64), aligned(4), may_alias));
  static const int L = 16;
};

// Values, slopes and curvatures of the Chebyshev polynomials at several points.
template <class T, int orders>
static inline void chebyshev(typename Lanes<T>::V x, I n, typename Lanes<T>::V* t,
                             typename Lanes<T>::V* d, typename Lanes<T>::V* c) {
  typedef typename Lanes<T>::V V;
  V zero = V{}, twice = x + x;
  t[0] = zero + 1;
  if (orders > 1) d[0] = zero;
  if (orders > 2) c[0] = zero;
  if (n < 2) return;
  t[1] = x;
  if (orders > 1) d[1] = zero + 1;
  if (orders > 2) c[1] = zero;
  for (I k = 2; k < n; ++k) {
    t[k] = twice * t[k - 1] - t[k - 2];
    if (orders > 1) d[k] = 2 * t[k - 1] + twice * d[k - 1] - d[k - 2];
    if (orders > 2) c[k] = 4 * d[k - 1] + twice * c[k - 1] - c[k - 2];
  }
}

static const I MOST = 96;   // polynomials
static const I BATCH = 32;  // atoms of one box that are worked on together

// o[a][v] += sum over entries of x[a][entry] * yz[entry][v] for K rows a.
template <class T, int K>
static inline void accumulate(I entries, const T* x, const T* yz, I wide, T* o, bool fresh) {
  typedef typename Lanes<T>::V V;
  for (I v = 0; v < wide; v += Lanes<T>::L) {
    V sum[K];
    for (int k = 0; k < K; ++k) sum[k] = fresh ? V{} : *(const V*)(o + k * wide + v);
    const T* y = yz + v;
    for (I e = 0; e < entries; ++e, y += wide) {
      V value = *(const V*)y;
      for (int k = 0; k < K; ++k) sum[k] += value * x[k * 2 * BATCH + e];
    }
    for (int k = 0; k < K; ++k) *(V*)(o + k * wide + v) = sum[k];
  }
}

template <class T> struct Scratch {
  std::vector<T> yz, m, z;
  T x[MOST * 2 * BATCH];
};

// The moments of the atoms order[from:to]; s.m holds them [a][b][c] with rows a of `wide` numbers.
template <class T, bool changes>
static void box_moments(I p, I wide, I from, I to, const I* order, const T* atoms, Scratch<T>& s) {
  typedef typename Lanes<T>::V V;
  const int L = Lanes<T>::L;
  const I columns = changes ? 8 : 4;
  V tx[MOST], ty[MOST], tz[MOST], dx[MOST], dy[MOST], dz[MOST];
  T zq[MOST + L] = {}, zu[MOST + L] = {}, z0[MOST + L] = {};
  bool fresh = true;
  for (I start = from; start < to; start += BATCH) {
    const I m = std::min(BATCH, to - start);
    I entries = 0;
    for (I group = 0; group < m; group += L) {
      const I n = std::min<I>(L, m - group);
      V at[8] = {};
      for (I k = 0; k < n; ++k) {
        const T* atom = atoms + columns * order[start + group + k];
        for (I c = 0; c < columns; ++c) at[c][k] = atom[c];
      }
      chebyshev<T, changes ? 2 : 1>(at[0], p, tx, dx, nullptr);
      chebyshev<T, changes ? 2 : 1>(at[1], p, ty, dy, nullptr);
      chebyshev<T, changes ? 2 : 1>(at[2], p, tz, dz, nullptr);
      for (I k = 0; k < n; ++k) {
        T* row = &s.yz[entries * wide];
        const I first = entries++;
        for (I a = 0; a < p; ++a) s.x[a * 2 * BATCH + first] = tx[a][k];
        if (!changes) {
          const T q = at[3][k];
          for (I c = 0; c < p; ++c) zq[c] = q * tz[c][k];
          for (I b = 0; b < p; ++b)
            for (I c = 0; c < p; c += L) *(V*)(row + b * p + c) = *(const V*)(zq + c) * ty[b][k];
          continue;
        }
        const T q = at[3][k], uq = at[4][k];
        const T ux = q * at[5][k], uy = q * at[6][k], uz = q * at[7][k];
        for (I c = 0; c < p; ++c) {
          zq[c] = uq * tz[c][k] + uz * dz[c][k];
          zu[c] = uy * tz[c][k];
          z0[c] = ux * tz[c][k];
        }
        for (I b = 0; b < p; ++b)
          for (I c = 0; c < p; c += L)
            *(V*)(row + b * p + c) =
                *(const V*)(zq + c) * ty[b][k] + *(const V*)(zu + c) * dy[b][k];
        const I second = entries++;
        row += wide;
        for (I a = 0; a < p; ++a) s.x[a * 2 * BATCH + second] = dx[a][k];
        for (I b = 0; b < p; ++b)
          for (I c = 0; c < p; c += L) *(V*)(row + b * p + c) = *(const V*)(z0 + c) * ty[b][k];
      }
    }
    for (I a = 0, blocks = (p + 5) / 6; blocks > 0; --blocks) {
      const I rows = (p - a + blocks - 1) / blocks;
      const T* x = s.x + a * 2 * BATCH;
      T* o = &s.m[a * wide];
      const T* yz = s.yz.data();
      if (rows == 6) accumulate<T, 6>(entries, x, yz, wide, o, fresh);
      else if (rows == 5) accumulate<T, 5>(entries, x, yz, wide, o, fresh);
      else if (rows == 4) accumulate<T, 4>(entries, x, yz, wide, o, fresh);
      else if (rows == 3) accumulate<T, 3>(entries, x, yz, wide, o, fresh);
      else if (rows == 2) accumulate<T, 2>(entries, x, yz, wide, o, fresh);
      else accumulate<T, 1>(entries, x, yz, wide, o, fresh);
      a += rows;
    }
    fresh = false;
  }
}

template <class T>
static void all_moments(I n1, I n2, I n3, I p, I columns, const I* starts, const I* order,
                        const T* atoms, T* grid, I threads) {
  const I L = Lanes<T>::L, wide = (p * p + L - 1) / L * L, row = n3 * p;
  #pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Scratch<T> s;
    s.yz.resize(2 * BATCH * wide + 2 * L + p);
    s.m.resize(p * wide);
    #pragma omp for schedule(dynamic, 4)
    for (I box = 0; box < n1 * n2 * n3; ++box) {
      const I from = starts[box], to = starts[box + 1];
      if (from == to) std::memset(s.m.data(), 0, sizeof(T) * p * wide);
      else if (columns == 8) box_moments<T, true>(p, wide, from, to, order, atoms, s);
      else box_moments<T, false>(p, wide, from, to, order, atoms, s);
      const I i = box / (n2 * n3), j = box / n3 % n2, k = box % n3;
      T* o = grid + ((i * p) * n2 + j) * p * row + k * p;
      for (I a = 0; a < p; ++a)
        for (I b = 0; b < p; ++b)
          std::memcpy(o + (a * n2 * p + b) * row, &s.m[a * wide + b * p], sizeof(T) * p);
    }
  }
}

// For K values of b at once: sums over c of phi[b][c] times values, slopes and curvatures.
template <class T, int K, int orders>
static inline void along_z(I p, const T* phi, const typename Lanes<T>::V* t,
                           const typename Lanes<T>::V* d, const typename Lanes<T>::V* c,
                           typename Lanes<T>::V* out) {
  typedef typename Lanes<T>::V V;
  V s0[K], s1[K], s2[K];
  for (int k = 0; k < K; ++k) s0[k] = s1[k] = s2[k] = V{};
  for (I n = 0; n < p; ++n) {
    V value = t[n], slope = d[n], curve;
    if (orders > 2) curve = c[n];
    for (int k = 0; k < K; ++k) {
      const T x = phi[k * p + n];
      s0[k] += value * x;
      s1[k] += slope * x;
      if (orders > 2) s2[k] += curve * x;
    }
  }
  for (int k = 0; k < K; ++k) {
    out[3 * k] = s0[k];
    out[3 * k + 1] = s1[k];
    if (orders > 2) out[3 * k + 2] = s2[k];
  }
}

template <class T, int orders>
static void box_fields(I p, I from, I to, const I* order, const T* atoms, const T* phi, T* out) {
  typedef typename Lanes<T>::V V;
  const int L = Lanes<T>::L;
  const I columns = orders > 2 ? 8 : 4, results = orders > 2 ? 7 : 4;
  V tx[MOST], ty[MOST], tz[MOST], dx[MOST], dy[MOST], dz[MOST], cx[MOST], cy[MOST], cz[MOST];
  V s[3 * (MOST + 4)];
  for (I start = from; start < to; start += L) {
    const I n = std::min<I>(L, to - start);
    V at[8] = {};
    for (I k = 0; k < n; ++k) {
      const T* atom = atoms + columns * order[start + k];
      for (I c = 0; c < columns; ++c) at[c][k] = atom[c];
    }
    chebyshev<T, orders>(at[0], p, tx, dx, cx);
    chebyshev<T, orders>(at[1], p, ty, dy, cy);
    chebyshev<T, orders>(at[2], p, tz, dz, cz);
    // v: value and derivatives: none, x, y, z, xx, xy, xz, yy, yz, zz
    V v[10];
    for (int k = 0; k < 10; ++k) v[k] = V{};
    for (I a = 0; a < p; ++a) {
      const T* row = phi + a * p * p;
      for (I b = 0; b < p;) {
        const I left = p - b;
        V* o = s + 3 * b;
        const T* x = row + b * p;
        if (left >= 7 || left == 4) { along_z<T, 4, orders>(p, x, tz, dz, cz, o); b += 4; }
        else if (left >= 5 || left == 3) { along_z<T, 3, orders>(p, x, tz, dz, cz, o); b += 3; }
        else if (left == 2) { along_z<T, 2, orders>(p, x, tz, dz, cz, o); b += 2; }
        else { along_z<T, 1, orders>(p, x, tz, dz, cz, o); b += 1; }
      }
      V w[6];
      for (int k = 0; k < 6; ++k) w[k] = V{};
      for (I b = 0; b < p; ++b) {
        w[0] += ty[b] * s[3 * b];
        w[1] += dy[b] * s[3 * b];
        w[2] += ty[b] * s[3 * b + 1];
        if (orders > 2) {
          w[3] += cy[b] * s[3 * b];
          w[4] += dy[b] * s[3 * b + 1];
          w[5] += ty[b] * s[3 * b + 2];
        }
      }
      v[0] += tx[a] * w[0];
      v[1] += dx[a] * w[0];
      v[2] += tx[a] * w[1];
      v[3] += tx[a] * w[2];
      if (orders > 2) {
        v[4] += cx[a] * w[0];
        v[5] += dx[a] * w[1];
        v[6] += dx[a] * w[2];
        v[7] += tx[a] * w[3];
        v[8] += tx[a] * w[4];
        v[9] += tx[a] * w[5];
      }
    }
    V along[3];
    if (orders > 2) {
      along[0] = v[4] * at[5] + v[5] * at[6] + v[6] * at[7];
      along[1] = v[5] * at[5] + v[7] * at[6] + v[8] * at[7];
      along[2] = v[6] * at[5] + v[8] * at[6] + v[9] * at[7];
    }
    for (I k = 0; k < n; ++k) {
      T* o = out + results * order[start + k];
      for (int c = 0; c < 4; ++c) o[c] = v[c][k];
      if (orders > 2)
        for (int c = 0; c < 3; ++c) o[4 + c] = along[c][k];
    }
  }
}

template <class T>
static void all_fields(I n1, I n2, I n3, I p, I columns, const I* starts, const I* order,
                       const T* atoms, const T* grid, T* out, I threads) {
  const I row = n3 * p;
  #pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<T> phi(p * p * p);
    #pragma omp for schedule(dynamic, 4)
    for (I box = 0; box < n1 * n2 * n3; ++box) {
      const I from = starts[box], to = starts[box + 1];
      if (from == to) continue;
      const I i = box / (n2 * n3), j = box / n3 % n2, k = box % n3;
      const T* o = grid + ((i * p) * n2 + j) * p * row + k * p;
      for (I a = 0; a < p; ++a)
        for (I b = 0; b < p; ++b)
          std::memcpy(&phi[(a * p + b) * p], o + (a * n2 * p + b) * row, sizeof(T) * p);
      if (columns == 8) box_fields<T, 3>(p, from, to, order, atoms, phi.data(), out);
      else box_fields<T, 2>(p, from, to, order, atoms, phi.data(), out);
    }
  }
}

extern "C" {

void sort_boxes(I atoms, I boxes, const I* box, I* order, I* starts) {
  std::memset(starts, 0, sizeof(I) * (boxes + 1));
  for (I i = 0; i < atoms; ++i) ++starts[box[i] + 1];
  for (I b = 0; b < boxes; ++b) starts[b + 1] += starts[b];
  std::vector<I> next(starts, starts + boxes);
  for (I i = 0; i < atoms; ++i) order[next[box[i]]++] = i;
}

#define BOTH(T, KIND)                                                                             \
  void moments_##KIND(I n1, I n2, I n3, I p, I columns, I results, const I* starts,               \
                      const I* order, const T* atoms, T* grid, T* out, I threads) {               \
    all_moments<T>(n1, n2, n3, p, columns, starts, order, atoms, grid, threads);                  \
  }                                                                                               \
  void fields_##KIND(I n1, I n2, I n3, I p, I columns, I results, const I* starts,                \
                     const I* order, const T* atoms, const T* grid, T* out, I threads) {          \
    all_fields<T>(n1, n2, n3, p, columns, starts, order, atoms, grid, out, threads);              \
  }
BOTH(double, double)
BOTH(float, float)
}
"""
