"""Equivariance of any function of tensors, checked at random rotations and reflections."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.so3 import Irreps, irreps_matrix, natural_irreps, random_rotations


@dataclass(frozen=True)
class Spherical:
    """The layout inside models: ``(..., (degree + 1)**2, channels)`` with natural parity."""

    degree: int


Behavior = None | Literal["vector"] | str | Irreps | Spherical
"""How a tensor turns: ``None`` not at all; ``"vector"`` as Cartesian vectors on its last axis;
irreps or their string as e3nn's flat layout on the last axis; :class:`Spherical` as in models."""


def turn(tensor: Tensor, behavior: Behavior, rotation: Float[Tensor, "3 3"]) -> Tensor:
    r"""Act with an orthogonal matrix, :math:`x \mapsto D(R)\, x`.

    Args:
        tensor: what to turn.
        behavior: how it turns, see :data:`Behavior`.
        rotation: an orthogonal matrix in float64; determinant -1 is a rotation and the inversion.

    Raises:
        ValueError: the tensor has not the components that the behavior needs.
    """
    if behavior is None:
        return tensor
    if behavior == "vector":
        matrix, axis = rotation, -1
    elif isinstance(behavior, Spherical):
        matrix, axis = irreps_matrix(natural_irreps(behavior.degree, 1), rotation), -2
    else:
        matrix, axis = irreps_matrix(behavior, rotation), -1
    if tensor.ndim < -axis or tensor.shape[axis] != matrix.shape[0]:
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} cannot turn as {behavior!r}, which needs "
            f"{matrix.shape[0]} components on axis {axis}"
        )
    matrix = matrix.to(dtype=tensor.dtype, device=tensor.device)
    return matrix @ tensor if axis == -2 else tensor @ matrix.T


def assert_equivariant(
    function: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor],
    *,
    behaviors_in: Sequence[Behavior],
    behaviors_out: Behavior | list[Behavior],
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
    behaviors: list[Behavior] = (
        list(behaviors_out) if isinstance(behaviors_out, list) else [behaviors_out]
    )
    if len(expected) != len(behaviors):
        raise ValueError(
            f"the function has {len(expected)} outputs but behaviors_out names {len(behaviors)}"
        )
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for trial in range(2 * rotations):
        reflect = trial % 2 == 1
        rotation = random_rotations(generator=generator, improper=reflect)
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
