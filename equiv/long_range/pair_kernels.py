r"""C++ for sums of a radial function over pairs, and for their second derivatives.

With :math:`d = r_j - r_i`, :math:`f' = df/d(d^2)`, :math:`g = 2 f'` and :math:`h = 4 f''`, a pair
gives

.. math::
    \phi_i &= q_j f, \quad F_i = q_i q_j\, g\, d, \qquad
    \delta\phi_i = \delta q_j f + q_j\, g\, (d \cdot \delta d), \\
    \delta F_i &= \delta(q_i q_j)\, g\, d
    + q_i q_j \big(g\, \delta d + h\, (d \cdot \delta d)\, d\big)

and the same to the other atom, with the opposite force. Neighbours of one atom lie side by side, a
vector register holds several of them, and what the atom itself gets stays in registers.
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.native import load_library


@dataclass(frozen=True)
class RadialPolynomial:
    r"""A function of :math:`s = r^2` that the kernels know.

    .. math:: f(s) = a\, s^{-p/2} + b \sum_n c_n T_n(y), \qquad y = 2 s / e - 1

    with one pair of factors for :math:`s < e` and another, without polynomial, beyond.

    Attributes:
        exponent: :math:`p`.
        inside: :math:`a` for :math:`s < e`.
        outside: :math:`a` for :math:`s \ge e`.
        factor: :math:`b`.
        end: :math:`e`.
        series: coefficients of the function in :math:`y`, and of its first two derivatives
            with respect to :math:`s`; powers of y up to degree 16, Chebyshev polynomials above.
    """

    exponent: float
    inside: float
    outside: float
    factor: float
    end: float
    series: Float[Tensor, "3 terms"]

    @property
    def is_series(self) -> bool:
        """Whether the coefficients are those of Chebyshev polynomials, not of powers."""
        return self.series.shape[1] > 17


@dataclass(frozen=True)
class PairRows:
    """Pairs sorted by their first atom, in small integers.

    Attributes:
        starts: where the partners of each atom begin.
        second: the other atom.
        image: which of the few cells it lies in.
    """

    starts: Int[Tensor, " atoms+1"]
    second: Int[Tensor, " pairs"]
    image: Int[Tensor, " pairs"]


# An image is stored in 16 bits, an atom in 32.
MOST_IMAGES, MOST_ATOMS = 2**15 - 1, 2**31 - 1


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or ``None`` where they cannot be built."""
    found = load_library(_SOURCE)
    if found is not None:
        pointer, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        found.sort_pairs.argtypes = [integer] * 2 + [pointer] * 6
        found.sort_pairs.restype = None
        for name in ("pair_sums_double", "pair_sums_float"):
            function = getattr(found, name)
            function.argtypes = [
                *(integer, *[pointer] * 4, integer, *[pointer] * 3, *[number] * 5),
                *(integer, integer, pointer, pointer, pointer, integer, integer),
            ]
            function.restype = None
    return found


def is_compiled(like: Tensor) -> bool:
    """Whether there are kernels for tensors like this one."""
    return (
        like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.float64)
        and library() is not None
    )


def sorted_pairs(first: Tensor, second: Tensor, image: Tensor | None, atoms: int) -> PairRows:
    """Pairs in rows; two passes over them."""
    found = library()
    assert found is not None
    starts = torch.empty(atoms + 1, dtype=torch.int64)
    others = torch.empty(len(first), dtype=torch.int32)
    images = torch.empty(0 if image is None else len(first), dtype=torch.int16)
    first, second = first.contiguous(), second.contiguous()
    image = None if image is None else image.contiguous()
    found.sort_pairs(
        *(len(first), atoms, first.data_ptr(), second.data_ptr()),
        *(None if image is None else image.data_ptr(), starts.data_ptr()),
        *(others.data_ptr(), None if image is None else images.data_ptr()),
    )
    return PairRows(starts, others, images)


def run(
    function: RadialPolynomial,
    places: Tensor,
    charges: Tensor,
    rows: PairRows | None,
    far: Tensor,
    batch: Tensor | None,
    ends: Tensor | None,
    moves: Tensor | None = None,
    *,
    graphs: int,
    strain: bool = False,
) -> tuple[Tensor, Tensor]:
    """Potential and force of each atom [atoms, 4], or changes of both, and strains [graphs, 3, 3].

    Args:
        function: of the squared distance.
        places: positions in float64 [atoms, 3].
        charges: in the dtype of the arithmetic.
        rows: the pairs; ``None`` for all pairs up to ``ends``.
        far: vector to the cell of each image [graphs, images, 3], float64.
        batch: the structure of each atom; ``None`` for one.
        ends: for each atom where its structure ends, if all pairs are wanted.
        moves: changes of charge and position [atoms, 4], if changes are wanted.
        graphs: how many structures there are.
        strain: whether to sum up the derivative with respect to a strain.
    """
    found = library()
    assert found is not None
    atoms, dtype = len(charges), charges.dtype
    out = torch.zeros(atoms, 4, dtype=dtype)
    strains = torch.zeros(graphs, 3, 3, dtype=torch.float64)
    table = torch.cat([places.double(), charges[:, None].double()], 1)
    moves = None if moves is None else moves.contiguous()
    threads = torch.get_num_threads() if atoms > 2000 else 1

    def at(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    name = "pair_sums_double" if dtype == torch.float64 else "pair_sums_float"
    getattr(found, name)(
        *(atoms, at(table), at(rows.starts if rows else ends), at(rows.second if rows else None)),
        *(at(rows.image if rows and len(rows.image) else None), far.shape[1], at(far)),
        *(at(batch), at(moves), function.exponent, function.inside, function.outside),
        *(function.factor, function.end, function.series.shape[1], int(function.is_series)),
        *(at(function.series), at(out), at(strains if strain else None), graphs, threads),
    )
    return out, strains


_SOURCE = r"""
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
typedef int64_t I;

template <class T> struct Lanes;
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(64), aligned(8), may_alias));
  typedef int64_t N __attribute__((vector_size(64), aligned(8), may_alias));
  static const int L = 8;
  static N magic() { return N{} + 0x5FE6EB50C7B537A9LL; }
  static const int steps = 4;
};
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(64), aligned(4), may_alias));
  typedef int32_t N __attribute__((vector_size(64), aligned(4), may_alias));
  static const int L = 16;
  static N magic() { return N{} + 0x5F3759DF; }
  static const int steps = 3;
};

// Inverse square root: a guess from the exponent, then Newton's method.
template <class T> static inline typename Lanes<T>::V rsqrt(typename Lanes<T>::V s) {
  typedef typename Lanes<T>::V V;
  typedef typename Lanes<T>::N N;
  V y = (V)(Lanes<T>::magic() - ((N)s >> 1));
  V half = s * T(0.5);
  for (int k = 0; k < Lanes<T>::steps; ++k) y = y * (T(1.5) - half * y * y);
  return y;
}

struct Function {
  double exponent, inside, outside, factor, end;
  I terms, is_series;
  const double* series;
};

template <class T> struct Radial {
  typedef typename Lanes<T>::V V;
  static const int L = Lanes<T>::L;
  Function given;
  std::vector<T> c;
  explicit Radial(const Function& f) : given(f), c(3 * f.terms) {
    for (I k = 0; k < 3 * f.terms; ++k) c[k] = T(f.factor * f.series[k]);
  }
  inline V polynomial(V y, int order) const {
    const T* a = c.data() + order * given.terms;
    I n = given.terms;
    V value = V{} + a[n - 1];
    if (!given.is_series) {
      for (I k = n - 2; k >= 0; --k) value = value * y + a[k];
      return value;
    }
    V high = value, higher = V{};
    for (I k = n - 2; k > 0; --k) {
      V next = T(2) * y * high - higher + a[k];
      higher = high;
      high = next;
    }
    return y * high - higher + a[0];
  }
  // f, twice its derivative and four times its second derivative.
  template <int orders> inline void operator()(V s, V& f, V& g, V& h) const {
    V p, inverse;
    if (given.exponent == 1) {
      p = rsqrt<T>(s);
      inverse = p * p;
    } else {
      inverse = T(1) / s;
      double half = given.exponent / 2;
      if (half == std::floor(half) && half < 16) {
        p = inverse;
        for (int k = 1; k < int(half); ++k) p = p * inverse;
      } else {
        for (int k = 0; k < L; ++k) p[k] = T(std::pow(double(s[k]), -half));
      }
    }
    T exponent = T(given.exponent);
    V dp = p * inverse * -exponent;
    auto in = s < T(given.end);
    V a = in ? V{} + T(given.inside) : V{} + T(given.outside);
    f = a * p;
    g = a * dp;
    if (orders > 2) h = g * inverse * -(exponent + T(2));
    if (given.factor != 0) {
      V y = s * T(2 / given.end) - T(1);
      V zero = V{};
      f += in ? polynomial(y, 0) : zero;
      g += in ? T(2) * polynomial(y, 1) : zero;
      if (orders > 2) h += in ? T(4) * polynomial(y, 2) : zero;
    }
  }
};

template <class T> static inline T total(typename Lanes<T>::V v) {
  T sum = 0;
  for (int k = 0; k < Lanes<T>::L; ++k) sum += v[k];
  return sum;
}

// So many pairs of one atom are worked on at a time: first all loads, then the arithmetic, then all
// stores, because a vector cannot be loaded before the numbers in it have reached the cache.
static const int MOST = 64;

// Atoms [from, to); table: positions and charge of each atom.
template <class T, bool changes, bool all>
static void rows(I from, I to, const double* table, const I* starts, const int32_t* second,
                 const int16_t* image, I images, const double* far, const I* batch, const T* moves,
                 const Radial<T>& radial, T* out, double* strains) {
  typedef typename Lanes<T>::V V;
  const int L = Lanes<T>::L;
  T d[4][MOST] __attribute__((aligned(64))), u[4][MOST] __attribute__((aligned(64)));
  T on[4][MOST] __attribute__((aligned(64)));
  for (I i = from; i < to; ++i) {
    const double* xi = table + 4 * i;
    const I start = all ? i + 1 : starts[i], end = all ? starts[i] : starts[i + 1];
    const I graph = batch ? batch[i] : 0;
    const double* cells = far + 3 * images * graph;
    const T qi = T(xi[3]);
    const T* ui = changes ? moves + 4 * i : nullptr;
    V sum[4] = {}, pull[6] = {};
    for (I p = start; p < end; p += MOST) {
      const int m = int(std::min<I>(MOST, end - p));
      for (int k = 0; k < m; ++k) {
        const I j = all ? p + k : I(second[p + k]);
        const double* xj = table + 4 * j;
        double x = xj[0] - xi[0], y = xj[1] - xi[1], z = xj[2] - xi[2];
        if (!all && image) {
          const double* c = cells + 3 * image[p + k];
          x += c[0];
          y += c[1];
          z += c[2];
        }
        d[0][k] = T(x);
        d[1][k] = T(y);
        d[2][k] = T(z);
        d[3][k] = T(xj[3]);
        if (changes) {
          const T* uj = moves + 4 * j;
          u[0][k] = uj[0];
          for (int a = 1; a < 4; ++a) u[a][k] = uj[a] - ui[a];
        }
      }
      for (int k = m; k % L; ++k) {  // far away and without charge
        d[0][k] = T(1e3);
        for (int a = 1; a < 4; ++a) d[a][k] = 0;
        if (changes)
          for (int a = 0; a < 4; ++a) u[a][k] = 0;
      }
      for (int v = 0; v < m; v += L) {
        V x[3], f, g, h;
        for (int a = 0; a < 3; ++a) x[a] = *(V*)(d[a] + v);
        V qj = *(V*)(d[3] + v);
        V s = x[0] * x[0] + x[1] * x[1] + x[2] * x[2];
        radial.template operator()<changes ? 3 : 2>(s, f, g, h);
        if (!changes) {
          V gj = g * qj, gi = g * qi;
          sum[0] += f * qj;
          *(V*)(on[0] + v) = f * qi;
          for (int a = 0; a < 3; ++a) {
            sum[1 + a] += gj * x[a];
            *(V*)(on[1 + a] + v) = gi * x[a];
          }
          if (strains) {
            for (int a = 0, n = 0; a < 3; ++a)
              for (int b = a; b < 3; ++b) pull[n++] += gj * x[a] * x[b];
          }
        } else {
          V w[3], uq = *(V*)(u[0] + v);
          for (int a = 0; a < 3; ++a) w[a] = *(V*)(u[1 + a] + v);
          V along = x[0] * w[0] + x[1] * w[1] + x[2] * w[2];
          sum[0] += uq * f + qj * g * along;
          *(V*)(on[0] + v) = ui[0] * f + qi * g * along;
          V even = (ui[0] * qj + qi * uq) * g + qi * qj * h * along, odd = qi * qj * g;
          for (int a = 0; a < 3; ++a) {
            V force = even * x[a] + odd * w[a];
            sum[1 + a] += force;
            *(V*)(on[1 + a] + v) = force;
          }
        }
      }
      for (int k = 0; k < m; ++k) {
        T* o = out + 4 * (all ? p + k : I(second[p + k]));
        o[0] += on[0][k];
        o[1] -= on[1][k];
        o[2] -= on[2][k];
        o[3] -= on[3][k];
      }
    }
    T* o = out + 4 * i;
    for (int a = 0; a < 4; ++a) o[a] += total<T>(sum[a]);
    if (strains && !changes) {
      double* w = strains + 9 * graph;
      for (int a = 0, n = 0; a < 3; ++a)
        for (int b = a; b < 3; ++b, ++n) {
          double value = double(qi) * double(total<T>(pull[n]));
          w[3 * a + b] += value;
          if (a != b) w[3 * b + a] += value;
        }
    }
  }
}

template <class T>
static void sums(I atoms, const double* table, const I* starts, const int32_t* second,
                 const int16_t* image, I images, const double* far, const I* batch, const T* moves,
                 const Function& function, T* out, double* strains, I graphs, I threads) {
  Radial<T> radial(function);
  auto work = [&](I from, I to, T* o, double* w) {
    if (!second && moves)
      rows<T, true, true>(from, to, table, starts, second, image, images, far, batch, moves,
                          radial, o, w);
    else if (!second)
      rows<T, false, true>(from, to, table, starts, second, image, images, far, batch, moves,
                           radial, o, w);
    else if (moves)
      rows<T, true, false>(from, to, table, starts, second, image, images, far, batch, moves,
                           radial, o, w);
    else
      rows<T, false, false>(from, to, table, starts, second, image, images, far, batch, moves,
                            radial, o, w);
  };
  if (threads < 2) return work(0, atoms, out, strains);
  std::vector<T> outs(size_t(4 * atoms * threads));
  std::vector<double> ws(size_t(9 * graphs * threads));
  const I portions = 8 * threads;
  #pragma omp parallel for num_threads(threads) schedule(static)
  for (I t = 0; t < threads; ++t)
    for (I k = 0; k < 8; ++k) {  // far portions to one thread: dense regions are shared
      const I n = k * threads + t;
      work(atoms * n / portions, atoms * (n + 1) / portions, &outs[4 * atoms * t],
           strains ? &ws[9 * graphs * t] : nullptr);
    }
  #pragma omp parallel for num_threads(threads) schedule(static)
  for (I k = 0; k < 4 * atoms; ++k)
    for (I t = 0; t < threads; ++t) out[k] += outs[4 * atoms * t + k];
  if (strains)
    for (I t = 0; t < threads; ++t)
      for (I k = 0; k < 9 * graphs; ++k) strains[k] += ws[9 * graphs * t + k];
}

extern "C" {

void sort_pairs(I pairs, I atoms, const I* first, const I* second, const I* image, I* starts,
                int32_t* seconds, int16_t* images) {
  std::memset(starts, 0, sizeof(I) * (atoms + 1));
  for (I p = 0; p < pairs; ++p) ++starts[first[p] + 1];
  for (I i = 0; i < atoms; ++i) starts[i + 1] += starts[i];
  std::vector<I> next(starts, starts + atoms);
  for (I p = 0; p < pairs; ++p) {
    const I k = next[first[p]]++;
    seconds[k] = int32_t(second[p]);
    if (image) images[k] = int16_t(image[p]);
  }
}

#define SUMS(NAME, T)                                                                             \
  void NAME(I atoms, const double* table, const I* starts, const int32_t* second,                 \
            const int16_t* image, I images, const double* far, const I* batch, const T* moves,    \
            double exponent, double inside, double outside, double factor, double end, I terms,   \
            I is_series, const double* series, T* out, double* strains, I graphs, I threads) {    \
    Function f{exponent, inside, outside, factor, end, terms, is_series, series};                 \
    sums<T>(atoms, table, starts, second, image, images, far, batch, moves, f, out, strains,      \
            graphs, threads);                                                                     \
  }
SUMS(pair_sums_double, double)
SUMS(pair_sums_float, float)
}
"""
