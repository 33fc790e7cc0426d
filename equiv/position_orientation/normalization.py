r"""Features of mean 0 and variance 1 over the channels, cheap to differentiate twice."""

import ctypes
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from equiv.graph.tracing import is_traced
from equiv.native import load_library
from equiv.position_orientation.vector_source import head

LEAST_SIZE = 1 << 14
"""Numbers below which a single step is bound by the call."""


def normalize(
    x: Float[Tensor, "*points channels"], epsilon: float = 1e-5
) -> Float[Tensor, "*points channels"]:
    r"""Subtract the mean over the channels, and divide by their standard deviation.

    .. math::
        \hat x = (x - \mu)\, s, \qquad s = (\sigma^2 + \epsilon)^{-1/2}

    as in layer normalisation without its learned weights. The derivatives,

    .. math::
        B(g) = s\, \big(g - \overline{g} - \hat x\, \overline{g \hat x}\big), \qquad
        \partial_x \langle u, B(g) \rangle = -s^2 \hat x\, (\overline{g u} - \overline g\,
        \overline u - a b) - s\, (b\, B(g) + a\, B(u)), \quad
        a = \overline{g \hat x},\; b = \overline{u \hat x},

    are one pass over memory each.
    """
    if (
        x.device.type != "cpu"
        or x.dtype not in (torch.float32, torch.float64)
        or torch.compiler.is_dynamo_compiling()
        or is_traced(x)
        or x.numel() < LEAST_SIZE
        or _library(int(x.shape[-1]), x.dtype) is None
    ):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=epsilon)
    return _Normalize.apply(x.contiguous(), epsilon)


class _Normalize(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float) -> Tensor:
        y, scale = torch.empty_like(x), x.new_empty(x.shape[:-1])
        _run(0, [x, x, x], [y, scale], epsilon)
        ctx.save_for_backward(x, y, scale)
        ctx.epsilon = epsilon
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, y, scale = ctx.saved_tensors
        # What was computed from x is given along as a number, its derivative is known.
        given = (grads[0], x, y.detach(), scale, ctx.epsilon)
        return _NormalizeBackward.apply(*given), None


class _NormalizeBackward(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, y: Tensor, scale: Tensor, epsilon: float) -> Tensor:
        g = g.contiguous()
        out = torch.empty_like(g)
        _run(1, [g, y, scale], [out, out], epsilon)
        ctx.save_for_backward(g, x, y, scale)
        ctx.epsilon = epsilon
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        g, x, y, scale = ctx.saved_tensors
        (u,) = grads
        if torch.is_grad_enabled():  # somebody wants a third derivative
            by_g, by_x = _second(u, g, x, ctx.epsilon)
            return by_g, by_x, None, None, None
        u = u.contiguous()
        by_g, by_x = torch.empty_like(g), torch.empty_like(g)
        _run(2, [u, y, scale, g], [by_g, by_x], ctx.epsilon)
        return by_g, by_x, None, None, None


def _second(u: Tensor, g: Tensor, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The second derivatives term by term."""

    def mean(t: Tensor) -> Tensor:
        return t.mean(-1, keepdim=True)

    centered = x - mean(x)
    s = (mean(centered.square()) + epsilon).rsqrt()
    y = centered * s
    a, b = mean(g * y), mean(u * y)
    of_g, of_u = s * (g - mean(g) - y * a), s * (u - mean(u) - y * b)
    by_x = -s.square() * y * (mean(g * u) - mean(g) * mean(u) - a * b) - s * (b * of_g + a * of_u)
    return of_u, by_x


def _run(what: int, given: list[Tensor], out: list[Tensor], epsilon: float) -> None:
    library = _library(given[0].shape[-1], given[0].dtype)
    assert library is not None
    given = [*given, given[0]][:4]
    library.run(
        what,
        given[0].numel() // given[0].shape[-1],
        *(t.data_ptr() for t in (*given, *out)),
        epsilon,
        torch.get_num_threads(),
    )


@cache
def _library(channels: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    library = load_library(head(dtype, channels) + _SOURCE)
    if library is not None:
        library.run.argtypes = [
            *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 6, ctypes.c_double, ctypes.c_int64,
        ]  # fmt: skip
        library.run.restype = None
    return library


_SOURCE = """
static inline T mean(const T* p) {
  V s = zero();
  for (I v = 0; v < C; v += L) s += load(p + v);
  return sum(s) / C;
}
static inline T mean(const T* p, const T* q) {
  V s = zero();
  for (I v = 0; v < C; v += L) s += load(p + v) * load(q + v);
  return sum(s) / C;
}

static void forward(const T* x, T* y, T* scale, T epsilon) {
  const T m = mean(x);
  V s = zero();
  for (I v = 0; v < C; v += L) {
    const V d = load(x + v) - m;
    store(y + v, d);
    s += d * d;
  }
  *scale = 1 / std::sqrt(sum(s) / C + epsilon);
  for (I v = 0; v < C; v += L) store(y + v, load(y + v) * *scale);
}

static void backward(const T* g, const T* y, T s, T* out) {
  const T m = mean(g), a = mean(g, y);
  for (I v = 0; v < C; v += L) store(out + v, s * (load(g + v) - m - a * load(y + v)));
}

static void twice(const T* u, const T* y, T s, const T* g, T* by_g, T* by_x) {
  const T mg = mean(g), mu = mean(u), a = mean(g, y), b = mean(u, y);
  const T c = mean(g, u) - mg * mu - a * b;
  for (I v = 0; v < C; v += L) {
    const V n = load(y + v);
    const V of_g = s * (load(g + v) - mg - a * n), of_u = s * (load(u + v) - mu - b * n);
    store(by_g + v, of_u);
    store(by_x + v, -s * (s * c * n + b * of_g + a * of_u));
  }
}

extern "C" void run(I what, I rows, const T* a, const T* b, const T* c, const T* d, T* e, T* f,
                    double epsilon, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I r = 0; r < rows; ++r) {
    const I at = r * C;
    if (what == 0) forward(a + at, e + at, f + r, epsilon);
    if (what == 1) backward(a + at, b + at, c[r], e + at);
    if (what == 2) twice(a + at, b + at, c[r], d + at, e + at, f + at);
  }
}
"""
