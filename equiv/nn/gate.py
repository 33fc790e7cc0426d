"""Nonlinearity for spherical tensors."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.nn.linear import degree_sizes
from equiv.nn.mlp import SILU_GAIN

SIGMOID_GAIN = 1.8462285453386051
r""":math:`\langle \sigma(z)^2 \rangle^{-1/2}` for normal :math:`z`."""


class Gate(nn.Module):
    r"""Activate what is invariant, scale what turns by an invariant.

    .. math::
        y_{00,c} = g_0\, \mathrm{silu}(x_{00,c}), \qquad
        y_{lm,c} = g_1\, \sigma(u_{l,c})\, x_{lm,c} \quad (l > 0)

    :math:`g_0` and :math:`g_1` keep unit second moments. Rotations and reflections act on
    :math:`lm`; the gates :math:`u` do not turn. (Weiler et al. 2018.)

    Args:
        degree: highest degree of ``x``.
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(
        self,
        x: Float[Tensor, "atoms lm channels"],
        gates: Float[Tensor, "atoms degree_channels"],
    ) -> Float[Tensor, "atoms lm channels"]:
        """Apply ``gates``, degree by degree from 1 on and channels within."""
        scalars, *tensors = x.split(degree_sizes(self.degree), dim=1)
        scales = SIGMOID_GAIN * torch.sigmoid(gates)
        scales = scales.unflatten(-1, (self.degree, x.shape[-1])).unsqueeze(2).unbind(1)
        active = SILU_GAIN * nn.functional.silu(scalars)
        return torch.cat([active, *(t * s for t, s in zip(tensors, scales, strict=True))], dim=1)

    def extra_repr(self) -> str:
        return f"degree={self.degree}"
