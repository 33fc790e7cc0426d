r"""Rotations and reflections, and how they act on irreps and on spherical tensors."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3.coupling import wigner_3j
from equiv.so3.irreps import Irreps, parse_irreps


def random_rotations(
    *shape: int, generator: torch.Generator, improper: bool = False
) -> Float[Tensor, "*shape 3 3"]:
    r"""Rotation matrices drawn uniformly (Haar measure), from unit quaternions :math:`q = g / |g|`.

    The four components of :math:`g` are independent normal numbers. With ``improper`` every matrix
    is multiplied by the inversion -1, so its determinant is -1.

    Args:
        shape: leading shape; none gives one matrix.
        generator: source of the random numbers; the global one is not touched.
        improper: whether to follow each rotation by the inversion.

    Returns:
        float64 on the CPU.
    """
    g = torch.randn(*shape, 4, dtype=torch.float64, generator=generator)
    w, x, y, z = (g / torch.linalg.vector_norm(g, dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    rotations = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    return -rotations if improper else rotations


def wigner_matrix(
    l: int, rotations: Float[Tensor, "*batch 3 3"], *, parity: int | None = None
) -> Float[Tensor, "*batch m m"]:
    r"""Matrix by which an orthogonal transformation acts on one irrep.

    .. math::
        D^{l}_{cc'}(R) = (2l+1) \sum_{aba'b'} w_{abc}\, D^{l-1}_{aa'}(R)\, R_{bb'}\, w_{a'b'c'},
        \qquad D^1(R) = R

    with :math:`w` = ``wigner_3j(l - 1, 1, l)``. It satisfies :math:`Y_l(R r) = D^l(R)\, Y_l(r)` and
    :math:`D(R_1 R_2) = D(R_1) D(R_2)`, and for proper rotations equals ``e3nn.o3.wigner_D`` of
    their Euler angles, without angles and their singularities. Smooth in ``rotations``. Cost:
    :math:`O(l^4)` per matrix.

    Args:
        l: degree.
        rotations: orthogonal matrices, in the floating dtype of the result.
        parity: 1 or -1, the sign that the inversion gives; by default the natural parity
            :math:`(-1)^l`.

    Raises:
        EquivError: an argument out of its range.
    """
    return _wigner_matrices(l, rotations, parity)[-1]


def rotate_spherical(
    x: Float[Tensor, "*batch lm channels"], rotations: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch lm channels"]:
    r"""Act on a spherical tensor of natural parity.

    .. math::
        x_{lm,c} \mapsto \sum_{m'} D^l_{mm'}(R)\, x_{lm',c}

    Args:
        x: spherical tensor, ``lm = (l_max + 1) ** 2``.
        rotations: orthogonal matrices, whose leading shape broadcasts with that of ``x``.

    Raises:
        EquivError: the component axis is not a square number.
    """
    l_max = math.isqrt(x.shape[-2]) - 1 if x.ndim >= 2 else -1
    if l_max < 0 or (l_max + 1) ** 2 != x.shape[-2]:
        raise EquivError(
            "rotate_spherical: expected a spherical tensor [..., (l_max + 1)**2, channels], "
            f"got shape {tuple(x.shape)}"
        )
    degrees = x.split([2 * l + 1 for l in range(l_max + 1)], dim=-2)
    matrices = _wigner_matrices(l_max, rotations.to(x.dtype), None)
    return torch.cat([d @ y for d, y in zip(matrices, degrees, strict=True)], dim=-2)


def irreps_matrix(
    irreps: str | Irreps, rotations: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch dim dim"]:
    r"""Block-diagonal matrix by which an orthogonal transformation acts on e3nn's flat layout.

    .. math::
        D(R) = \bigoplus_{(n \times l^p)} \mathbb 1_n \otimes D^{l,p}(R)

    Args:
        irreps: any irreps.
        rotations: orthogonal matrices; determinant -1 is a rotation followed by the inversion.
    """
    irreps = parse_irreps(irreps)
    out = rotations.new_zeros(*rotations.shape[:-2], irreps.dim, irreps.dim)
    natural = _wigner_matrices(irreps.lmax, rotations, None) if irreps.dim else []
    sign = torch.linalg.det(rotations).sign()[..., None, None]
    first = 0
    for mul, ir in irreps:
        block = natural[ir.l] if ir.p == (-1) ** ir.l else sign * natural[ir.l]
        for _ in range(mul):
            out[..., first : first + ir.dim, first : first + ir.dim] = block
            first += ir.dim
    return out


def _wigner_matrices(l_max: int, rotations: Tensor, parity: int | None) -> list[Tensor]:
    if l_max < 0 or parity not in (None, 1, -1):
        raise EquivError(
            "wigner_matrix: l must be at least 0 and parity 1, -1 or None, "
            f"got {l_max} and {parity}"
        )
    if rotations.ndim < 2 or rotations.shape[-2:] != (3, 3) or not rotations.is_floating_point():
        raise EquivError(
            "wigner_matrix: rotations must be a floating tensor [..., 3, 3], "
            f"got {rotations.dtype} of shape {tuple(rotations.shape)}"
        )
    matrices = [torch.ones_like(rotations[..., :1, :1]), rotations]
    for l in range(2, l_max + 1):
        w = math.sqrt(2 * l + 1) * wigner_3j(l - 1, 1, l).to(rotations)
        half = torch.einsum("...ad,abc->...dbc", matrices[-1], w)
        half = torch.einsum("...be,...dbc->...dec", rotations, half)
        matrices.append(torch.einsum("...dec,def->...cf", half, w))
    matrices = matrices[: l_max + 1]
    if parity is not None and parity != (-1) ** l_max:
        matrices[-1] = torch.linalg.det(rotations).sign()[..., None, None] * matrices[-1]
    return matrices
