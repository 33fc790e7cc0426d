r"""C++ for products channel by channel: rows and channels as the lanes of vector registers.

What the kernels of this package share (:mod:`equiv.tensor_products.coupling_kernel`,
:mod:`equiv.tensor_products.grid_kernel`). Rows and channels, ``n = row * channels + channel``, are
taken in blocks of a few vector registers. The components of an operand lie anywhere in its rows (an
offset and a step from channel to channel for each), are brought into a block ``[components,
lanes]`` that stays in the nearest cache, and taken back from one. So the arithmetic in between
knows neither layouts nor numbers of channels, and every loop over lanes has a constant length.
"""

import ctypes
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


@dataclass(frozen=True)
class Components:
    """Where the components of an operand are in its rows.

    Attributes:
        offsets: of channel 0 of each component, from the start of a row.
        steps: from one channel to the next, for each component; 0 where there is a single channel
            that meets all channels of the others.
        size: numbers in a row.
    """

    offsets: tuple[int, ...]
    steps: tuple[int, ...]
    size: int

    @cached_property
    def table(self) -> Tensor:
        """Offsets, then steps, as the kernels read them."""
        return torch.tensor([*self.offsets, *self.steps], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.offsets)


def is_plain(x: Tensor) -> bool:
    """Whether a kernel that torch does not see may take its numbers from ``x``, here and now.

    Not under a compiler, a tracer or a mode that records operations, nor for ``torch.func``.
    """
    return (
        x.device.type == "cpu"
        and (x.dtype is torch.float32 or x.dtype is torch.float64)
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not isinstance(x, FakeTensor)
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def source(dtype: torch.dtype, body: str) -> str:
    """The C++ source of kernels for one number type, with what they share before the ``body``."""
    number = {torch.float32: "float", torch.float64: "double"}[dtype]
    return f"typedef {number} T;\n{_SHARED}\n{body}"


def pointer(x: Tensor | None) -> int | None:
    """Where the numbers of a contiguous tensor are; None for no tensor."""
    return None if x is None else x.data_ptr()


class Operand(ctypes.Structure):
    """An operand of a kernel, as C++ sees it."""

    _fields_ = (
        ("size", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
    )


_SHARED = r"""
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#define VECTORS 4
#elif defined(__AVX__)
#define BYTES 32
#define VECTORS 2
#else
#define BYTES 16
#define VECTORS 4
#endif

typedef T V __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
typedef int64_t I;
static const I W = BYTES / sizeof(T), LANES = VECTORS * W;
static inline V load(const T* p) { return *(const V*)p; }
static inline void store(T* p, V v) { *(V*)p = v; }
static inline V zero() { V v = {}; return v; }

// One operand: its components in a row, the rows, and where its derivative goes.
struct Operand {
  I size;          // components
  const I* table;  // their offsets in a row, then their steps from channel to channel
  I row;           // from row to row; 0 if all rows have the same
  T* data;         // numbers, or null
  T* gradient;     // where to write, or null
};

// Lanes [lane, lane + count) of a block are channels [channel, channel + count) of a row.
struct Run { I row, channel, lane, count; };

static I runs_of(I first, I last, I channels, Run* runs) {
  I n = 0, row = first / channels, channel = first % channels;
  for (I at = first; at < last; ++n, ++row, channel = 0) {
    I count = channels - channel;
    if (count > last - at) count = last - at;
    runs[n] = {row, channel, at - first, count};
    at += count;
  }
  return n;
}

template <int n> static inline void copy_some(const Operand& x, const Run& r, T* block) {
  const T* from = x.data + r.row * x.row + r.channel;
  for (I i = 0; i < x.size; ++i) {
    const T* p = from + x.table[i];
    T* q = block + i * LANES + r.lane;
    std::memcpy(q, p, n * sizeof(T));
  }
}

template <int n> static inline void copy_back(const Operand& x, const Run& r, const T* block) {
  T* to = x.gradient + r.row * x.row + r.channel;
  for (I i = 0; i < x.size; ++i) {
    T* p = to + x.table[i];
    const T* q = block + i * LANES + r.lane;
    std::memcpy(p, q, n * sizeof(T));
  }
}

static bool channels_last(const Operand& x) {
  for (I i = 0; i < x.size; ++i) if (x.table[x.size + i] != 1) return false;
  return true;
}

// Components of the runs into a block [components, lanes].
static void bring(const Operand& x, const Run* runs, I n, bool last, T* block) {
  if (runs[n - 1].lane + runs[n - 1].count < LANES)
    std::memset(block, 0, sizeof(T) * x.size * LANES);
  for (const Run* r = runs; r < runs + n; ++r) {
    if (last && r->count == 8) { copy_some<8>(x, *r, block); continue; }
    if (last && r->count == 16) { copy_some<16>(x, *r, block); continue; }
    if (last && r->count == LANES) { copy_some<LANES>(x, *r, block); continue; }
    for (I i = 0; i < x.size; ++i) {
      const I step = x.table[x.size + i];
      const T* p = x.data + r->row * x.row + x.table[i] + r->channel * step;
      T* q = block + i * LANES + r->lane;
      if (step == 1) for (I c = 0; c < r->count; ++c) q[c] = p[c];
      else for (I c = 0; c < r->count; ++c) q[c] = p[c * step];
    }
  }
}

// A block back to the runs; a single channel that met many gets their sum.
static void take(const Operand& x, const Run* runs, I n, bool last, const T* block) {
  for (const Run* r = runs; r < runs + n; ++r) {
    if (last && r->count == 8) { copy_back<8>(x, *r, block); continue; }
    if (last && r->count == 16) { copy_back<16>(x, *r, block); continue; }
    if (last && r->count == LANES) { copy_back<LANES>(x, *r, block); continue; }
    for (I i = 0; i < x.size; ++i) {
      const I step = x.table[x.size + i];
      T* p = x.gradient + r->row * x.row + x.table[i] + r->channel * step;
      const T* q = block + i * LANES + r->lane;
      if (step == 0) {
        T sum = 0;
        for (I c = 0; c < r->count; ++c) sum += q[c];
        *p = r->channel ? *p + sum : sum;
      }
      else if (step == 1) for (I c = 0; c < r->count; ++c) p[c] = q[c];
      else for (I c = 0; c < r->count; ++c) p[c * step] = q[c];
    }
  }
}

// Sums over rows: a block is added to sums [a row] in double precision, and set to zero.
static void add_rows(const Operand& x, const Run* runs, I n, T* block, double* sums) {
  for (const Run* r = runs; r < runs + n; ++r)
    for (I i = 0; i < x.size; ++i) {
      const I step = x.table[x.size + i];
      double* p = sums + x.table[i] + r->channel * step;
      T* q = block + i * LANES + r->lane;
      for (I c = 0; c < r->count; ++c) p[c * step] += q[c];
    }
  std::memset(block, 0, sizeof(T) * x.size * LANES);
}

// Memory of this thread for numbers that no one else sees, aligned; kept from call to call.
static T* scratch(size_t numbers) {
  static thread_local std::vector<char> memory;
  if (memory.size() < numbers * sizeof(T) + 64) memory.resize(numbers * sizeof(T) + 64);
  return (T*)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
}
"""
