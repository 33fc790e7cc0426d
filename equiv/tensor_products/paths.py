r"""Paths: which irreps meet in a tensor product, how their channels meet, and with what factor."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3 import Irrep, Irreps, parse_irreps, wigner_3j
from equiv.tensor_products.protocol import TensorProduct

Mode = Literal["uvw", "uvu", "uvv", "uuw", "uuu", "uvuv"]
IrrepNormalization = Literal["component", "norm", "none"]
PathNormalization = Literal["element", "path", "none"]
Term = tuple[int, Irrep]


@dataclass(frozen=True)
class Path:
    """One way from two irreps to a third: input terms ``in1``, ``in2`` add to term ``out``.

    ``mode`` names the channels of first input, second input and output, as in e3nn: ``"uvw"`` every
    pair of input channels reaches every output channel; ``"uvu"`` the output has the channels of
    the first input, ``"uvv"`` those of the second; ``"uuw"`` channels of the inputs meet one by one
    and then reach every output channel; ``"uuu"`` all three have the same channels; ``"uvuv"``
    every pair of input channels is an output channel, the second input's running faster.
    ``path_weight`` is a variance: its square root multiplies the path.
    """

    in1: int
    in2: int
    out: int
    mode: Mode
    has_weight: bool = True
    path_weight: float = 1.0

    def terms(self, in1: Irreps, in2: Irreps, out: Irreps) -> tuple[Term, Term, Term]:
        """The three ``(multiplicity, irrep)`` that the path connects."""
        return cast(tuple[Term, Term, Term], (in1[self.in1], in2[self.in2], out[self.out]))

    def weight_shape(self, in1: Irreps, in2: Irreps, out: Irreps) -> tuple[int, ...]:
        """Shape of the weights; ``(0,)`` if the path has none."""
        (u, _), (v, _), (w, _) = self.terms(in1, in2, out)
        return (
            {
                "uvw": (u, v, w),
                "uvu": (u, v),
                "uvv": (u, v),
                "uuw": (u, w),
                "uuu": (u,),
                "uvuv": (u, v),
            }[self.mode]
            if self.has_weight
            else (0,)
        )

    def num_summed(self, in1: Irreps, in2: Irreps, out: Irreps) -> int:
        """How many pairs of input channels add up in one output channel."""
        (u, _), (v, _), _ = self.terms(in1, in2, out)
        return {"uvw": u * v, "uvu": v, "uvv": u, "uuw": u, "uuu": 1, "uvuv": 1}[self.mode]


Instructions = Sequence[Path | tuple[Any, ...]]
"""Paths, or e3nn's tuples ``(in1, in2, out, mode, has_weight[, path_weight])``."""


class PathTensorProduct(TensorProduct):
    r"""A tensor product given path by path, with Clebsch-Gordan coefficients.

    .. math::
        z^{(o)}_{m_3 w} = \sum_{p \to o} \sqrt{\alpha_p} \sum_{uv} W^{(p)}_{uvw} \sum_{m_1 m_2}
        \begin{pmatrix} l_1 & l_2 & l_3 \\ m_1 & m_2 & m_3 \end{pmatrix} x_{m_1 u}\, y_{m_2 v}

    The bracket is :func:`equiv.so3.wigner_3j`. In mode ``uvu`` :math:`W_{uvw} = W_{uv}\,
    \delta_{uw}`, in mode ``uuu`` :math:`W_{uvw} = W_u\, \delta_{uv}\, \delta_{uw}`, and so on
    (:class:`Path`); without weight, 1 in place of :math:`W`. The weights of all paths that have
    some lie one after the other in the order of ``instructions``, each row-major: the order of
    e3nn, so weights can be exchanged with ``e3nn.o3.TensorProduct``. Its normalisation too,

    .. math::
        \alpha_p = \frac{\pi_p\, \nu_p}{\chi_p}, \qquad
        \nu_p = \begin{cases} 2l_3+1 & \text{component} \\ (2l_1+1)(2l_2+1) & \text{norm}
        \end{cases}, \qquad \chi_p = \begin{cases} \sum_{p' \to o} n_{p'} & \text{element} \\ n_p\,
        \#\{p' \to o\} & \text{path} \end{cases}

    with :math:`\pi_p` = ``path_weight`` and :math:`n_p` the number of terms that the path adds up
    for one output channel (uvw: channels of both inputs multiplied, uvu: those of the second, uuu:
    1). ``component`` keeps unit variance of components, ``norm`` unit norm of irreps, if the
    weights have unit variance.

    Args:
        irreps_in1: irreps of the first argument.
        irreps_in2: irreps of the second argument.
        irreps_out: irreps of the result; each must be reached by a path.
        mode: mode of the paths that are made if ``instructions`` are not given: all that the
            selection rules allow and whose multiplicities fit the mode, ordered by in1, in2, out.
            With ``"uvw"`` this is e3nn's ``FullyConnectedTensorProduct``.
        instructions: the paths, instead.
        irrep_normalization: :math:`\nu_p`; ``"none"`` for 1.
        path_normalization: :math:`1/\chi_p`; ``"none"`` for 1.
        internal_weights: see :class:`TensorProduct`.

    Raises:
        EquivError: a path breaks a selection rule or does not fit its mode; an output irrep is
            never reached.
    """

    def __init__(
        self,
        irreps_in1: str | Irreps,
        irreps_in2: str | Irreps,
        irreps_out: str | Irreps,
        *,
        mode: Mode = "uvw",
        instructions: Instructions | None = None,
        irrep_normalization: IrrepNormalization = "component",
        path_normalization: PathNormalization = "element",
        internal_weights: bool = True,
    ) -> None:
        irreps = (
            parse_irreps(irreps_in1, "irreps_in1"),
            parse_irreps(irreps_in2, "irreps_in2"),
            parse_irreps(irreps_out, "irreps_out"),
        )
        _check_choice("mode", mode, Mode)
        _check_choice("irrep_normalization", irrep_normalization, IrrepNormalization)
        _check_choice("path_normalization", path_normalization, PathNormalization)
        if instructions is None:
            paths = tuple(all_paths(*irreps, mode))
        else:
            paths = tuple(p if isinstance(p, Path) else Path(*p) for p in instructions)
        for path in paths:
            _check_path(path, *irreps)
        _check_all_reached(paths, *irreps)
        shapes = [path.weight_shape(*irreps) for path in paths]
        super().__init__(
            *irreps,
            weight_numel=sum(math.prod(shape) for shape in shapes),
            internal_weights=internal_weights,
        )
        self.instructions = paths
        self.terms = [path.terms(*irreps) for path in paths]
        self.weight_shapes = shapes
        self.coefficients = [
            math.sqrt(_variance(p, paths, *irreps, irrep_normalization, path_normalization))
            for p in paths
        ]

    def dense_coefficients(
        self, weight: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "in1 in2 out"]:
        """As :meth:`TensorProduct.dense_coefficients`: the sum in the docstring, path by path."""
        weight = self._definition_weight(weight)
        shape = (self.irreps_in1.dim, self.irreps_in2.dim, self.irreps_out.dim)
        out = torch.zeros(shape, dtype=torch.float64)
        for n, at, coupling in self.entries():
            out[at] += coupling if n is None or weight is None else weight[n] * coupling
        return out

    def entries(self) -> Iterator[tuple[int | None, tuple[slice, slice, slice], Tensor]]:
        """The map of every weight: its number, None for a path without; where it acts; the array.

        The slices are those of the flat layouts of both inputs and the output.
        """
        slices1, slices2, slices = (
            irreps.slices() for irreps in (self.irreps_in1, self.irreps_in2, self.irreps_out)
        )
        n = 0
        for path, terms, coefficient in zip(
            self.instructions, self.terms, self.coefficients, strict=True
        ):
            (mul1, ir1), (mul2, ir2), (mul, ir) = terms
            coupling = coefficient * wigner_3j(ir1.l, ir2.l, ir.l)
            for u, v, w in _channel_triples(path.mode, mul1, mul2, mul):
                at = (
                    _channel(slices1[path.in1], u, ir1),
                    _channel(slices2[path.in2], v, ir2),
                    _channel(slices[path.out], w, ir),
                )
                yield n if path.has_weight else None, at, coupling
                n += path.has_weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {len(self.instructions)} paths"


def _channel_triples(mode: Mode, mul1: int, mul2: int, mul: int) -> list[tuple[int, int, int]]:
    """Channels ``(u, v, w)`` that meet, each triple with a weight, in the order of the weights."""
    u, v, w = range(mul1), range(mul2), range(mul)
    return {
        "uvw": [(a, b, c) for a in u for b in v for c in w],
        "uvu": [(a, b, a) for a in u for b in v],
        "uvv": [(a, b, b) for a in u for b in v],
        "uuw": [(a, a, c) for a in u for c in w],
        "uuu": [(a, a, a) for a in u],
        "uvuv": [(a, b, a * mul2 + b) for a in u for b in v],
    }[mode]


def _channel(block: slice, channel: int, ir: Irrep) -> slice:
    return slice(block.start + channel * ir.dim, block.start + (channel + 1) * ir.dim)


def all_paths(
    irreps_in1: Irreps, irreps_in2: Irreps, irreps_out: Irreps, mode: Mode
) -> Iterator[Path]:
    """Every path that the selection rules allow and whose multiplicities fit the mode."""
    for i1, (mul1, ir1) in enumerate(irreps_in1):
        for i2, (mul2, ir2) in enumerate(irreps_in2):
            for i, (mul, ir) in enumerate(irreps_out):
                if ir in ir1 * ir2 and _fits(mode, mul1, mul2, mul):
                    yield Path(i1, i2, i, mode)


def channelwise_paths(
    irreps_in1: str | Irreps, irreps_in2: str | Irreps, irreps_out: str | Irreps
) -> tuple[Irreps, list[Path]]:
    r"""Output irreps and ``uvu`` paths of a product in which no two paths are added.

    For every :math:`l_1 \otimes l_2 \to l_3` with :math:`l_3` among ``irreps_out`` (whose
    multiplicities do not matter) there is one output term, with the multiplicity of the first
    input. The terms are sorted by irrep, and paths to equal irreps keep the order of the inputs:
    what message passing uses before a linear layer.

    >>> channelwise_paths("8x0e + 8x1o", "0e + 1o", "0e + 1o")[0]
    8x0e+8x0e+8x1o+8x1o
    """
    in1, in2 = parse_irreps(irreps_in1, "irreps_in1"), parse_irreps(irreps_in2, "irreps_in2")
    wanted = {ir for _, ir in parse_irreps(irreps_out, "irreps_out")}
    found = [
        (ir, mul1, i1, i2)
        for i1, (mul1, ir1) in enumerate(in1)
        for i2, (_, ir2) in enumerate(in2)
        for ir in ir1 * ir2
        if ir in wanted
    ]
    found.sort(key=lambda path: path[0])
    out = cast(Irreps, Irreps([(mul, ir) for ir, mul, _, _ in found]))
    return out, [Path(i1, i2, i, "uvu") for i, (_, _, i1, i2) in enumerate(found)]


def _variance(
    path: Path,
    paths: Sequence[Path],
    in1: Irreps,
    in2: Irreps,
    out: Irreps,
    irrep_normalization: IrrepNormalization,
    path_normalization: PathNormalization,
) -> float:
    (_, ir1), (_, ir2), (_, ir) = path.terms(in1, in2, out)
    nu = {"component": ir.dim, "norm": ir1.dim * ir2.dim, "none": 1}[irrep_normalization]
    summed = [p.num_summed(in1, in2, out) for p in paths if p.out == path.out]
    own = path.num_summed(in1, in2, out)
    chi = {"element": sum(summed), "path": own * len(summed), "none": 1}[path_normalization]
    return path.path_weight * nu / (chi or 1)


def _fits(mode: Mode, u: int, v: int, w: int) -> bool:
    return {
        "uvw": True,
        "uvu": w == u,
        "uvv": w == v,
        "uuw": u == v,
        "uuu": u == v == w,
        "uvuv": w == u * v,
    }[mode]


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise EquivError(f"{name}: expected one of {', '.join(get_args(choices))}, got {value!r}")


def _check_path(path: Path, in1: Irreps, in2: Irreps, out: Irreps) -> None:
    _check_choice(f"mode of {path}", path.mode, Mode)
    for name, index, irreps in (
        ("in1", path.in1, in1),
        ("in2", path.in2, in2),
        ("out", path.out, out),
    ):
        if not 0 <= index < len(irreps):
            raise EquivError(
                f"{path}: {name}={index}, but irreps_{name} = '{irreps}' has {len(irreps)} terms"
            )
    (u, ir1), (v, ir2), (w, ir) = path.terms(in1, in2, out)
    if ir not in ir1 * ir2:
        raise EquivError(
            f"{path}: {ir1} x {ir2} does not contain {ir}, only {', '.join(map(str, ir1 * ir2))}"
        )
    if not _fits(path.mode, u, v, w):
        raise EquivError(
            f"{path}: mode {path.mode} does not fit multiplicities {u} of {ir1}, {v} of {ir2} "
            f"and {w} of {ir}"
        )
    if path.mode == "uvw" and not path.has_weight:
        raise EquivError(f"{path}: mode uvw needs weights to lead from channels u, v to w")
    if path.mode == "uuw" and not path.has_weight and w != 1:
        raise EquivError(f"{path}: mode uuw needs weights to lead from channels u to {w} channels")
    if path.path_weight < 0:
        raise EquivError(f"{path}: path_weight is a variance and cannot be negative")


def _check_all_reached(paths: Sequence[Path], in1: Irreps, in2: Irreps, out: Irreps) -> None:
    reached = {p.out for p in paths if in1[p.in1].dim and in2[p.in2].dim}
    missed = [f"{mul_ir}" for i, mul_ir in enumerate(out) if i not in reached and mul_ir.mul]
    if missed:
        possible = sorted({ir for _, ir1 in in1 for _, ir2 in in2 for ir in ir1 * ir2})
        raise EquivError(
            f"irreps_out: no path reaches {', '.join(missed)} from '{in1}' x '{in2}', which "
            f"contains {', '.join(map(str, possible)) or 'nothing'}; drop what cannot be reached, "
            "or choose multiplicities that fit the mode (uvu: those of irreps_in1; uuu: all equal)"
        )
