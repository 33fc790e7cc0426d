r"""Real spherical harmonics of any degree."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3.coupling import wigner_3j

Normalization = Literal["component", "norm", "integral"]


def spherical_harmonics(
    l_max: int,
    vectors: Float[Tensor, "*batch 3"],
    *,
    normalization: Normalization = "component",
    normalize: bool = True,
) -> Float[Tensor, "*batch lm"]:
    r"""Real spherical harmonics of every degree up to ``l_max``, e3nn's order and sign.

    .. math::
        Y_{l} = c_l\, w^{(l-1,\,1,\,l)} \, Y_{l-1} \otimes \hat r, \qquad Y_{0} = n_0, \qquad
        Y_{l,0}(\hat y) = n_l

    Here :math:`\hat r = r / |r|` is the direction of a vector :math:`r = (x, y, z)`, :math:`w` the
    coupling coefficients of :func:`wigner_3j`, and the last equation fixes :math:`c_l`. With
    ``normalization``

    - ``"component"``: :math:`n_l = \sqrt{2l+1}`, so :math:`|Y_l|^2 = 2l + 1`,
    - ``"norm"``: :math:`n_l = 1`, so :math:`|Y_l|^2 = 1`,
    - ``"integral"``: :math:`n_l = \sqrt{(2l+1)/4\pi}`, so :math:`\int Y_{lm}^2\, d\Omega = 1`.

    Component ``l * l + l + m`` of the last axis is :math:`Y_{lm}`, :math:`m = -l \dots l`. The
    polar axis is *y*, and :math:`Y_1 = n_1 (x, y, z)`: the standard order (y, z, x) of a text that
    has its polar axis along z.

    Each degree is a polynomial in :math:`\hat r`, obtained from the one below by a map of norm 1,
    so rounding errors add up instead of growing, and all derivatives are smooth on the whole
    sphere, poles included. A vector of length zero (below 1e-19 in float32, 1e-154 in float64) has
    no direction: its components of degree above 0 are 0 and its gradient is 0, to every order.

    With ``normalize=False`` the vector itself takes the place of :math:`\hat r`, which gives the
    solid harmonics :math:`|r|^l Y_l(\hat r)`: polynomials, smooth everywhere.

    Rotations and reflections act on :math:`Y_l` as on an irrep of degree l and parity
    :math:`(-1)^l`. Cost: an outer product and a matrix product per degree, :math:`12 l^2`
    multiply-adds per vector. The result is stored with the vectors contiguous; call
    ``.contiguous()`` where the components should be.

    Args:
        l_max: highest degree.
        vectors: any floating dtype and leading shape; the result has the same.
        normalization: see above.
        normalize: whether the vectors are scaled to length 1 first.

    Raises:
        EquivError: ``l_max`` is not a non-negative integer, ``vectors`` is not a floating tensor
            with a last axis of length 3, or ``normalization`` is none of the three.
    """
    _check(l_max, vectors, normalization)
    n0, n1 = (_factor(l, normalization) for l in (0, 1))
    # vectors last while the degrees are built: every operation then runs along contiguous memory
    r = vectors.reshape(-1, 3).T.contiguous()
    if normalize:
        r = _directions(r)
    degrees = [torch.full_like(r[:1], n0)]
    y = r
    for l in range(1, l_max + 1):
        if l == 1:
            degrees.append(r if n1 == 1.0 else n1 * r)
        else:
            y = _step(l, normalization, r) @ (y[:, None] * r).flatten(0, 1)
            degrees.append(y)
    return torch.cat(degrees).T.reshape(*vectors.shape[:-1], (l_max + 1) ** 2)


def _directions(r: Float[Tensor, "3 vectors"]) -> Float[Tensor, "3 vectors"]:
    squares = (r * r).sum(0, keepdim=True)
    # 1 / sqrt(inf) is 0 and so are its derivatives: no direction, no gradient, no nan
    missing = squares < torch.finfo(squares.dtype).tiny
    return r * squares.masked_fill(missing, math.inf).rsqrt()


def _factor(l: int, normalization: Normalization) -> float:
    if normalization == "norm":
        return 1.0
    return math.sqrt(2 * l + 1) * (
        1.0 if normalization == "component" else math.sqrt(0.25 / math.pi)
    )


_STEPS: dict[tuple[int, str, torch.dtype, torch.device], Tensor] = {}


def _step(l: int, normalization: Normalization, like: Tensor) -> Float[Tensor, "m pairs"]:
    """Matrix from (degree l - 1) x (direction) to degree l; degree 1 enters unscaled."""
    if torch.compiler.is_compiling():
        # a compiler cannot fill a table of tensors while it traces, but it can embed numbers
        return torch.tensor(_step_numbers(l, normalization), dtype=like.dtype, device=like.device)
    key = (l, normalization, like.dtype, like.device)
    if key in _STEPS:
        return _STEPS[key]
    with torch.inference_mode(False):
        step = torch.tensor(_step_numbers(l, normalization), dtype=like.dtype, device=like.device)
    if type(step) is Tensor:  # not the stand-in of a tracer, which would outlive its trace
        _STEPS[key] = step
    return step


@torch.compiler.assume_constant_result
def _step_numbers(l: int, normalization: Normalization) -> list[list[float]]:
    w = wigner_3j(l - 1, 1, l)
    below = _factor(l - 1, normalization) if l > 2 else 1.0
    w = w * (_factor(l, normalization) / (below * w[l - 1, 1, l]))
    return w.flatten(0, 1).T.tolist()


def _check(l_max: int, vectors: Tensor, normalization: str) -> None:
    if not isinstance(l_max, int) or isinstance(l_max, bool) or l_max < 0:
        raise EquivError(
            f"spherical_harmonics: l_max must be a non-negative integer, got {l_max!r}"
        )
    if normalization not in (known := get_args(Normalization)):
        raise EquivError(
            f"spherical_harmonics: normalization must be one of {', '.join(known)}, "
            f"got {normalization!r}"
        )
    if not isinstance(vectors, Tensor) or not vectors.is_floating_point():
        came = vectors.dtype if isinstance(vectors, Tensor) else type(vectors).__name__
        raise EquivError(
            f"spherical_harmonics: vectors must be a floating-point tensor, got {came}"
        )
    if vectors.ndim == 0 or vectors.shape[-1] != 3:
        raise EquivError(
            "spherical_harmonics: vectors must have a last axis of length 3 (x, y, z), "
            f"got shape {tuple(vectors.shape)}"
        )
