"""Equivariance of any function of tensors, checked at random rotations and reflections."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equiv.so3 import wigner_3j


@dataclass(frozen=True)
class Spherical:
    """The layout inside models: ``(..., (degree + 1)**2, channels)`` with natural parity."""

    degree: int


Behavior = None | Literal["vector"] | str | o3.Irreps | Spherical
"""How a tensor turns: ``None`` not at all; ``"vector"`` as Cartesian vectors on its last axis;
irreps or their string as e3nn's flat layout on the last axis; :class:`Spherical` as in models."""


def random_rotation(generator: torch.Generator, *, reflect: bool = False) -> Float[Tensor, "3 3"]:
    """A float64 orthogonal matrix drawn uniformly (Haar), with determinant -1 if ``reflect``."""
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    q = q * torch.sign(torch.diagonal(r))
    return q * torch.linalg.det(q) * (-1 if reflect else 1)


def turn(tensor: Tensor, behavior: Behavior, rotation: Float[Tensor, "3 3"]) -> Tensor:
    r"""Act with an orthogonal matrix, :math:`x \mapsto D(R)\, x`.

    Args:
        tensor: what to turn.
        behavior: how it turns, see :data:`Behavior`.
        rotation: an orthogonal matrix in float64; determinant -1 is a rotation and the inversion.
    """
    if behavior is None:
        return tensor
    if behavior == "vector":
        return tensor @ rotation.T.to(tensor.dtype)
    if isinstance(behavior, Spherical):
        blocks = _natural_parity_matrices(rotation, behavior.degree)
        return torch.block_diag(*blocks).to(tensor.dtype) @ tensor
    return tensor @ _flat_matrix(o3.Irreps(behavior), rotation).T.to(tensor.dtype)


def assert_equivariant(
    function: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor],
    *,
    behaviors_in: Sequence[Behavior],
    behaviors_out: Behavior | Sequence[Behavior],
    tolerance: float | None = None,
    rotations: int = 3,
    seed: int = 0,
) -> float:
    r"""Assert that turning the inputs turns the output.

    .. math::
        f(D_1(R)\, x_1, D_2(R)\, x_2, \dots) = D_\text{out}(R)\, f(x_1, x_2, \dots)

    for random rotations :math:`R` and as many improper ones.

    Args:
        function: of tensors, with one tensor or a sequence of tensors as its result.
        inputs: :math:`x_1, x_2, \dots`
        behaviors_in: how each of them turns, see :data:`Behavior`.
        behaviors_out: how the result turns; a list if there are several.
        tolerance: largest error allowed, relative to the largest component of the result; by
            default 1e-11 in float64 and 1e-4 in float32.
        rotations: how many of each kind are tried.
        seed: of the generator that draws them.

    Returns:
        The largest relative error found.

    Raises:
        AssertionError: the law is broken; names the output, the kind of rotation and the error.
        ValueError: the lists do not match, or the function vanishes on these inputs, which would
            prove nothing.

    >>> cross = lambda a, b: torch.linalg.cross(a, b)
    >>> a, b = torch.eye(3, dtype=torch.float64)[:2]
    >>> error = assert_equivariant(cross, [a, b], behaviors_in=["1o", "1o"], behaviors_out="1e")
    """
    if len(inputs) != len(behaviors_in):
        raise ValueError(f"{len(inputs)} inputs but {len(behaviors_in)} behaviors_in")
    expected = _as_list(function(*inputs))
    behaviors = list(behaviors_out) if isinstance(behaviors_out, (list, tuple)) else [behaviors_out]
    if len(expected) != len(behaviors):
        raise ValueError(
            f"the function has {len(expected)} outputs but behaviors_out names {len(behaviors)}"
        )
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for trial in range(2 * rotations):
        reflect = trial % 2 == 1
        rotation = random_rotation(generator, reflect=reflect)
        turned = _as_list(
            function(*(turn(x, how, rotation) for x, how in zip(inputs, behaviors_in, strict=True)))
        )
        for index, (before, after, how) in enumerate(zip(expected, turned, behaviors, strict=True)):
            scale = before.detach().abs().max().item() if before.numel() else 0.0
            if scale == 0.0:
                raise ValueError(
                    f"output {index} is zero on these inputs, which proves nothing; choose others"
                )
            error = (after - turn(before, how, rotation)).detach().abs().max().item() / scale
            allowed = tolerance if tolerance is not None else default_tolerance(before.dtype)
            if not error <= allowed:
                kind = "an improper rotation (rotation and inversion)" if reflect else "a rotation"
                raise AssertionError(
                    f"output {index} is not equivariant under {kind}: relative error {error:.1e}, "
                    f"allowed {allowed:.1e}; it should turn as {how!r}"
                )
            worst = max(worst, error)
    return worst


def default_tolerance(dtype: torch.dtype) -> float:
    """Relative error that rounding explains in a short chain of operations."""
    return 1e-11 if dtype == torch.float64 else 1e-4


def _as_list(result: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _natural_parity_matrices(rotation: Tensor, degree: int) -> list[Tensor]:
    """Matrices of degree 0, 1, ..., each from the one below: independent of the harmonics."""
    matrices = [torch.ones(1, 1, dtype=torch.float64), rotation]
    for l in range(2, degree + 1):
        w = wigner_3j(l - 1, 1, l)
        below = torch.einsum("abc,ad,be->dec", w, matrices[-1], rotation)
        matrices.append((2 * l + 1) * torch.einsum("dec,def->cf", below, w))
    return matrices[: degree + 1]


def _flat_matrix(irreps: o3.Irreps, rotation: Tensor) -> Tensor:
    natural = _natural_parity_matrices(rotation, irreps.lmax if irreps.dim else 0)
    sign = torch.linalg.det(rotation).round()
    blocks = []
    for multiplicity, ir in irreps:
        block = natural[ir.l] * (sign if ir.p != (-1) ** ir.l else 1)
        blocks.extend([block] * multiplicity)
    return torch.block_diag(*blocks) if blocks else torch.zeros(0, 0, dtype=torch.float64)
