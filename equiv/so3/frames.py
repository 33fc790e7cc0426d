r"""Frames of edges: rotations of the polar axis into a direction, smooth in the direction."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.so3.coupling import wigner_3j


def edge_rotations(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    r"""Rotations that turn the polar axis into given directions, :math:`R\, e_y = \hat r`.

    .. math::
        R(\hat r) = \begin{cases} R_\text{min}(\hat r) & \hat r_y \ge 0 \\
        R_\text{min}(-\hat r)\, \operatorname{diag}(1, -1, -1) & \hat r_y < 0 \end{cases}, \qquad
        R_\text{min}(u) = \begin{pmatrix} 1 - \frac{u_x^2}{1 + u_y} & u_x & -\frac{u_x u_z}{1+u_y}
        \\ -u_x & u_y & -u_z \\ -\frac{u_x u_z}{1 + u_y} & u_z & 1 - \frac{u_z^2}{1+u_y}
        \end{pmatrix}

    :math:`R_\text{min}(u)` is the rotation by the smallest angle. No field of frames is smooth on
    the whole sphere; this one is smooth, poles included and with bounded derivatives of any order,
    except that it jumps at the equator by a rotation about :math:`\hat r` itself. A function that
    does not depend on how the frame is turned about :math:`\hat r`, such as
    :class:`equiv.tensor_products.SO2TensorProduct`, has therefore exact derivatives everywhere.
    Euler angles would have infinite ones at the poles.

    A vector of length zero gets the matrix 0 and gradient 0.

    Args:
        vectors: any floating dtype; their length does not matter.

    Raises:
        EquivError: ``vectors`` is not a floating tensor with a last axis of length 3.
    """
    if vectors.ndim == 0 or vectors.shape[-1] != 3 or not vectors.is_floating_point():
        raise EquivError(
            "edge_rotations: vectors must be a floating tensor [..., 3], "
            f"got {vectors.dtype} of shape {tuple(vectors.shape)}"
        )
    squares = (vectors * vectors).sum(-1, keepdim=True)
    missing = squares < torch.finfo(squares.dtype).tiny
    u = vectors * squares.masked_fill(missing, math.inf).rsqrt()
    side = torch.where(u[..., 1:2] < 0, -1.0, 1.0).to(u.dtype)  # a constant to the gradient
    x, y, z = (side * u).unbind(-1)
    side = side.squeeze(-1)
    here = (~missing.squeeze(-1)).to(u.dtype)
    a = 1 / (1 + y)
    xz = -a * x * z
    rows = [
        here - a * x * x, side * x, side * xz,
        -x, side * y, -side * z,
        xz, side * z, side * (here - a * z * z),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


class WignerMatrices(ExactConstants):
    r"""The matrices of many rotations on all degrees up to ``l_max``.

    .. math::
        D^l_{c c'}(R) = (2l+1) \sum_{b b'} \sum_{a a'} w_{abc}\, D^{l-1}_{a a'}(R)\, R_{b b'}\,
        w_{a' b' c'}, \qquad w = w^{(l-1, 1, l)}

    The recursion of :func:`equiv.so3.wigner_matrix`, for many edges at once: polynomials of the
    entries of :math:`R`, hence smooth, arranged as two matrix products per degree over all
    rotations. Cost: :math:`\approx 48\, l^3` multiply-adds for degree :math:`l` and rotation.

    A rotation 0 (an edge without direction, see :func:`edge_rotations`) gives
    :math:`D^0 = 1` and :math:`D^l = 0` for :math:`l > 0`.

    Args:
        l_max: highest degree.
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        if not isinstance(l_max, int) or isinstance(l_max, bool) or l_max < 0:
            raise EquivError(f"WignerMatrices: l_max must be a non-negative integer, got {l_max!r}")
        self.l_max = l_max
        for l in range(2, l_max + 1):
            w = math.sqrt(2 * l + 1) * wigner_3j(l - 1, 1, l)
            self.register_constant(f"left_{l}", w.permute(2, 1, 0).flatten(0, 1))  # [(c b), a]
            self.register_constant(f"right_{l}", w.permute(2, 1, 0).flatten(1))  # [c, (b a)]

    def forward(self, rotations: Float[Tensor, "*batch 3 3"]) -> list[Float[Tensor, "*batch m m"]]:
        """``[D^0, D^1, ..., D^l_max]``, each ``[..., 2 l + 1, 2 l + 1]``."""
        lead = rotations.shape[:-2]
        matrices = [torch.ones_like(rotations[..., :1, :1]), rotations][: self.l_max + 1]
        # rotations last while the degrees are built: [b, b', rows], [a, a', rows]
        r = rotations.reshape(-1, 3, 3).permute(1, 2, 0).contiguous()
        rows = r.shape[2]
        d = r
        for l in range(2, self.l_max + 1):
            n, m = 2 * l + 1, 2 * l - 1
            half = (getattr(self, f"left_{l}") @ d.flatten(1)).reshape(n, 3, 1, m, rows)
            # sum over b, point by point: [c, b', a', rows]
            half = (
                half[:, 0] * r[0, :, None] + half[:, 1] * r[1, :, None] + half[:, 2] * r[2, :, None]
            )
            d = getattr(self, f"right_{l}") @ half.reshape(n, 3 * m, rows)  # [c, c', rows]
            # contiguous, or products with these matrices take them one by one
            matrices.append(d.permute(2, 0, 1).contiguous().view(*lead, n, n))
        return matrices
