r"""C++ for the derivatives of a pair form (:mod:`equiv.message_passing.pair_form`).

The source is written out for one form, so that every loop over components has constant bounds and
its sums live in registers; a vector register holds neighbouring channels. Each of the four kernels
does :math:`\sum_q d_q d'_q` multiply-adds per direction and channel (two more loads for every
:math:`d_q + d'_q` of them), which is about the number of multiply-adds a core does in the time it
takes to load the radial weights.
"""

import ctypes
from functools import cache
from typing import NamedTuple

import torch

from equiv.native import load_library


class Path(NamedTuple):
    """One path of a form.

    Attributes:
        start_in: first component of the sender's features.
        dim_in: how many there are.
        start_out: first component of the receiver's messages.
        step_out: from one component of the message to the next.
        dim_out: how many there are.
        odd: whether it changes sign with the direction of the pair, 0 or 1.
    """

    start_in: int
    dim_in: int
    start_out: int
    step_out: int
    dim_out: int
    odd: int


# Vector registers that hold sums at once; the widest machines have 32.
MOST_SUMS = 24


def vector_bytes(channels: int, dtype: torch.dtype) -> int:
    """Width of the vectors that divides the channels."""
    size = dtype.itemsize
    return next(w for w in (64, 32, 16, size) if channels % (w // size) == 0)


@cache
def kernels(key: str, dtype: torch.dtype, vector: int) -> ctypes.CDLL | None:
    """The kernels of a form, or ``None`` where they cannot be built."""
    dim_in, dim_out, text = key.split("|")
    paths = [Path(*map(int, path.split(","))) for path in text.split(";")]
    library = load_library(source(paths, int(dim_in), int(dim_out), dtype, vector))
    if library is not None:
        library.run.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_void_p] * 10 + [ctypes.c_int64]
        library.run.restype = None
    return library


def source(paths: list[Path], dim_in: int, dim_out: int, dtype: torch.dtype, vector: int) -> str:
    """The C++ source for one form, number type and vector width (bytes)."""
    starts, total = [], 0
    for path in paths:
        starts.append(total)
        total += path.dim_in * path.dim_out
    numbered = list(zip(range(len(paths)), paths, starts, strict=True))
    lanes = vector // dtype.itemsize
    header = _HEADER.format(
        number={torch.float32: "float", torch.float64: "double"}[dtype],
        bytes=vector,
        lanes=lanes,
        dim_in=dim_in,
        dim_out=dim_out,
        paths=len(paths),
        couplings=total,
    )
    body = [
        _over_slots("derivative_g", "x", "IN", "OUT", [_group_g(g) for g in _grouped(numbered)]),
        _over_slots("derivative_x", "g", "OUT", "IN", [_group_x(numbered)]),
        _OVER_PAIRS.format(
            name="derivative_r",
            given="const T* Z",
            setup="const T* z = Z + p * COUPLINGS; T* o = out + p * PATHS * C;",
            missing="for (I v = 0; v < PATHS * C; ++v) o[v] = 0;",
            body="for (I v = 0; v < C; v += L) {\n" + "".join(map(_path_r, numbered)) + "}",
        ),
        _OVER_PAIRS.format(
            name="derivative_z",
            given="const T* R",
            setup="const T* r0 = R + p * PATHS * C; T* o = out + p * COUPLINGS;",
            missing="for (I v = 0; v < COUPLINGS; ++v) o[v] = 0;",
            body="".join(map(_path_z, numbered)),
        ),
    ]
    return header + "\n".join(body) + _RUN


Numbered = tuple[int, Path, int]


def _grouped(paths: list[Numbered]) -> list[list[Numbered]]:
    """Paths whose sums fit into the registers together, those of one input degree side by side."""
    groups: list[list[Numbered]] = []
    for entry in sorted(paths, key=lambda e: (e[1].start_in, e[0])):
        last = groups[-1] if groups else None
        size = sum(p.dim_out for _, p, _ in last) if last else 0
        same = last is not None and last[0][1].start_in == entry[1].start_in
        if last is not None and same and size + entry[1].dim_out <= MOST_SUMS:
            last.append(entry)
        else:
            groups.append([entry])
    return groups


def _group_g(group: list[Numbered]) -> tuple[str, str, str]:
    declare, step, store = [], [], []
    path = group[0][1]
    step += [f"V x{a} = load(u + {path.start_in + a} * C + v);\n" for a in range(path.dim_in)]
    for q, p, start in group:
        declare += [f"V s{q}_{c} = zero();\n" for c in range(p.dim_out)]
        sign = " * sigma" if p.odd else ""
        step.append(f"{{ V r = load(r0 + {q} * C + v){sign};\n")
        step += [f"V t{a} = x{a} * r;\n" for a in range(p.dim_in)]
        for c in range(p.dim_out):
            for a in range(p.dim_in):
                step.append(f"s{q}_{c} += z[{start + a * p.dim_out + c}] * t{a};\n")
        step.append("}\n")
        for c in range(p.dim_out):
            store.append(f"store(o + {p.start_out + c * p.step_out} * C + v, s{q}_{c});\n")
    return "".join(declare), "".join(step), "".join(store)


def _group_x(paths: list[Numbered]) -> tuple[str, str, str]:
    components = sorted({p.start_in + a for _, p, _ in paths for a in range(p.dim_in)})
    declare = "".join(f"V s{a} = zero();\n" for a in components)
    store = "".join(f"store(o + {a} * C + v, s{a});\n" for a in components)
    step = []
    for q, p, start in paths:
        # The reverse slot is the one in which this row's atom sends.
        sign = " * -sigma" if p.odd else ""
        step.append(f"{{ V r = load(r0 + {q} * C + v){sign};\n")
        for c in range(p.dim_out):
            at = p.start_out + c * p.step_out
            step.append(f"V g{c} = load(u + {at} * C + v);\n")
        for a in range(p.dim_in):
            terms = " + ".join(f"z[{start + a * p.dim_out + c}] * g{c}" for c in range(p.dim_out))
            step.append(f"s{p.start_in + a} += r * ({terms});\n")
        step.append("}\n")
    return declare, "".join(step), store


def _path_r(entry: Numbered) -> str:
    q, p, start = entry
    lines = ["{ V one = zero(), two = zero();\n"]
    for c in range(p.dim_out):
        at = p.start_out + c * p.step_out
        lines.append(f"V gi{c} = load(gi + {at} * C + v), gj{c} = load(gj + {at} * C + v);\n")
    for a in range(p.dim_in):
        for side, x, g in (("one", "xj", "gi"), ("two", "xi", "gj")):
            terms = " + ".join(f"z[{start + a * p.dim_out + c}] * {g}{c}" for c in range(p.dim_out))
            lines.append(f"{side} += load({x} + {p.start_in + a} * C + v) * ({terms});\n")
    lines.append(f"store(o + {q} * C + v, one {'-' if p.odd else '+'} two); }}\n")
    return "".join(lines)


def _path_z(entry: Numbered) -> str:
    q, p, start = entry
    pairs = [(a, c) for a in range(p.dim_in) for c in range(p.dim_out)]
    lines = ["{ ", *(f"V s{a}_{c} = zero();\n" for a, c in pairs)]
    lines.append(f"for (I v = 0; v < C; v += L) {{ V r = load(r0 + {q} * C + v);\n")
    for a in range(p.dim_in):
        at = p.start_in + a
        lines.append(
            f"V j{a} = r * load(xj + {at} * C + v), "
            f"i{a} = {'-' if p.odd else ''}r * load(xi + {at} * C + v);\n"
        )
    for c in range(p.dim_out):
        at = p.start_out + c * p.step_out
        lines.append(f"{{ V a = load(gi + {at} * C + v), b = load(gj + {at} * C + v);\n")
        lines += [f"s{a}_{c} += j{a} * a; s{a}_{c} += i{a} * b;\n" for a in range(p.dim_in)]
        lines.append("}\n")
    lines.append("}\n")
    lines += [f"o[{start + a * p.dim_out + c}] = sum(s{a}_{c});\n" for a, c in pairs]
    return "".join(lines) + "}\n"


def _over_slots(
    name: str, given: str, dim_given: str, dim_out: str, groups: list[tuple[str, str, str]]
) -> str:
    loops = "".join(
        _GROUP.format(declare=declare, step=step, store=store, dim_given=dim_given)
        for declare, step, store in groups
    )
    return _OVER_SLOTS.format(name=name, given=given, dim_out=dim_out, loops=loops)


_HEADER = """
#include <cstdint>
#include <cstring>
typedef {number} T;
typedef T V __attribute__((vector_size({bytes}), aligned(sizeof(T)), may_alias));
typedef int64_t I;
static const I L = {lanes}, IN = {dim_in}, OUT = {dim_out}, PATHS = {paths};
static const I COUPLINGS = {couplings};
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

_OVER_SLOTS = """
static void {name}(I blocks, I width, I C, const I* pair, const int8_t* sign, const I* senders,
                   const T* {given}, const T* Z, const T* R, T* out, I threads) {{
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 4)
  for (I b = 0; b < blocks; ++b) {{
    const T* u0 = {given};
    T* o = out + b * {dim_out} * C;
    std::memset(o, 0, sizeof(T) * {dim_out} * C);
    {loops}
  }}
}}
"""

_GROUP = """
    for (I v = 0; v < C; v += L) {{
      {declare}
      for (I k = b * width; k < (b + 1) * width; ++k) {{
        if (!sign[k]) continue;
        const T sigma = sign[k];
        (void)sigma;
        const T* z = Z + pair[k] * COUPLINGS;
        const T* r0 = R + pair[k] * PATHS * C;
        const T* u = u0 + senders[k] * {dim_given} * C;
        {step}
      }}
      {store}
    }}
"""

_OVER_PAIRS = """
static void {name}(I pairs, I C, const I* first, const I* second, const int8_t* sign,
                   const I* slots, const T* g, const T* x, {given}, T* out, I threads) {{
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I p = 0; p < pairs; ++p) {{
    const T *gi = g + first[p] * OUT * C, *gj = g + second[p] * OUT * C;
    const T *xi = x + first[p] * IN * C, *xj = x + second[p] * IN * C;
    {setup}
    if (!sign[slots[2 * p]]) {{ {missing} continue; }}
    {body}
  }}
}}
"""

_RUN = """
extern "C" void run(I wanted, I blocks, I width, I pairs, I C, const I* first, const I* second,
                    const I* pair, const int8_t* sign, const I* senders, const I* slots,
                    const T* a, const T* b, const T* c, T* out, I threads) {
  if (wanted == 0) derivative_g(blocks, width, C, pair, sign, senders, a, b, c, out, threads);
  if (wanted == 1) derivative_x(blocks, width, C, pair, sign, senders, a, b, c, out, threads);
  if (wanted == 2) derivative_z(pairs, C, first, second, sign, slots, a, b, c, out, threads);
  if (wanted == 3) derivative_r(pairs, C, first, second, sign, slots, a, b, c, out, threads);
}
"""
