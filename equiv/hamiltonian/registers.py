"""Vector registers, as the C++ of this package writes them."""

REGISTERS = r"""
#include <cstdint>
typedef int64_t I;
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
// A vector register of so many bytes.
template <int B> struct Register {
  typedef T V __attribute__((vector_size(B), aligned(sizeof(T)), may_alias));
  static const I lanes = B / sizeof(T);
};
"""
