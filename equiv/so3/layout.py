r"""Between e3nn's flat layout and the channels-last layout inside models."""

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3.irreps import Irreps, parse_irreps, spherical_shape


def spherical_from_flat(
    x: Float[Tensor, "*batch dim"], irreps: str | Irreps
) -> Float[Tensor, "*batch lm channels"]:
    r"""Rearrange a flat irreps tensor as a spherical tensor.

    .. math::
        y_{l^2 + l + m,\, c} = x_{o_l + (2l+1)\, c + l + m}

    :math:`o_l` is where degree :math:`l` starts in the flat layout, in which the channel is outside
    and the component inside; in the spherical layout the channel is the last axis. If one degree is
    spread over several terms of ``irreps``, its channels are counted through. Inverse of
    :func:`flat_from_spherical`; a copy.

    Args:
        x: flat tensor; the last axis is ``irreps.dim``.
        irreps: natural parities of degree 0 to l_max with one multiplicity, in any order.

    Raises:
        EquivError: ``irreps`` are no spherical tensor (see :func:`spherical_shape`) or ``x`` does
            not have them.

    >>> spherical_from_flat(torch.arange(8.0), "2x0e + 2x1o").tolist()
    [[0.0, 1.0], [2.0, 5.0], [3.0, 6.0], [4.0, 7.0]]
    """
    irreps = parse_irreps(irreps)
    l_max, _ = spherical_shape(irreps)
    if x.ndim == 0 or x.shape[-1] != irreps.dim:
        raise EquivError(
            f"spherical_from_flat: '{irreps}' needs a last axis of length {irreps.dim}, "
            f"got shape {tuple(x.shape)}"
        )
    degrees: list[list[Tensor]] = [[] for _ in range(l_max + 1)]
    parts = x.split([mul * ir.dim for mul, ir in irreps], dim=-1)
    for part, (mul, ir) in zip(parts, irreps, strict=True):
        if mul:
            degrees[ir.l].append(part.unflatten(-1, (mul, ir.dim)).transpose(-1, -2))
    return torch.cat([torch.cat(blocks, dim=-1) for blocks in degrees], dim=-2)


def flat_from_spherical(
    x: Float[Tensor, "*batch lm channels"], irreps: str | Irreps
) -> Float[Tensor, "*batch dim"]:
    r"""Rearrange a spherical tensor as a flat irreps tensor.

    .. math::
        y_{o_l + (2l+1)\, c + l + m} = x_{l^2 + l + m,\, c}

    Inverse of :func:`spherical_from_flat`, which explains the symbols; a copy.

    Raises:
        EquivError: ``irreps`` are no spherical tensor (see :func:`spherical_shape`) or ``x`` does
            not have its shape.
    """
    irreps = parse_irreps(irreps)
    l_max, channels = spherical_shape(irreps)
    shape = ((l_max + 1) ** 2, channels)
    if x.ndim < 2 or tuple(x.shape[-2:]) != shape:
        raise EquivError(
            f"flat_from_spherical: '{irreps}' needs shape [..., {shape[0]}, {shape[1]}] "
            f"([..., (l_max + 1)**2, channels]), got shape {tuple(x.shape)}"
        )
    used = [0] * (l_max + 1)
    parts = []
    for mul, ir in irreps:
        if mul:
            block = x[..., ir.l**2 : (ir.l + 1) ** 2, used[ir.l] : used[ir.l] + mul]
            used[ir.l] += mul
            parts.append(block.transpose(-1, -2).flatten(-2))
    return torch.cat(parts, dim=-1)
