"""What the C++ kernels of this folder have in common."""

import torch

NUMBERS = {torch.float32: "float", torch.float64: "double"}


def vector_bytes(channels: int, dtype: torch.dtype) -> int:
    """Width of the vectors that divides the channels."""
    size = dtype.itemsize
    return next(w for w in (64, 32, 16, size) if channels % (w // size) == 0)


def head(dtype: torch.dtype, channels: int, **constants: int) -> str:
    """Types, loads and stores, and constants: ``C`` channels, ``L`` of them in a vector."""
    width = vector_bytes(channels, dtype)
    lanes = width // dtype.itemsize
    strip = next(u for u in (4, 2, 1) if channels % (u * lanes) == 0)
    constants |= {"C": channels, "L": lanes, "U": strip}
    text = ", ".join(f"{name} = {value}" for name, value in constants.items())
    return _HEAD.format(number=NUMBERS[dtype], bytes=width, constants=text)


_HEAD = """
#include <cmath>
#include <cstdint>
#include <cstring>
typedef {number} T;
typedef T V __attribute__((vector_size({bytes}), aligned(sizeof(T)), may_alias));
typedef int64_t I;
static const I {constants};
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
"""
