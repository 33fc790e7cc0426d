"""The convolution as it is written on paper: the definition that fast paths are compared with."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.so3 import wigner_3j


def convolution_reference(
    features: Float[Tensor, "atoms lm_in channels"],
    harmonics: Float[Tensor, "edges lm_edge"],
    weights: Float[Tensor, "edges paths_channels"],
    senders: Int[Tensor, " edges"],
    receivers: Int[Tensor, " edges"],
    *,
    paths: Sequence[tuple[int, int, int]],
) -> list[Float[Tensor, "atoms m paths_channels"]]:
    r"""One message per edge and path, added up at the receiver.

    .. math::
        m_{i,\,l_3 m_3,\,p c} = \sqrt{2 l_3 + 1} \sum_{j \to i} R_{ij,pc} \sum_{m_1 m_2}
        \begin{pmatrix} l_1 & l_2 & l_3 \\ m_1 & m_2 & m_3 \end{pmatrix} h_{j,\,l_1 m_1,\,c}\;
        Y_{l_2 m_2}(\hat r_{ij})

    Args:
        features: :math:`h`, spherical tensors of the atoms.
        harmonics: :math:`Y`, of the edges.
        weights: :math:`R`, path-major.
        senders: atom in which each edge begins.
        receivers: atom in which each edge ends.
        paths: degrees :math:`(l_1, l_2, l_3)`, in order of :math:`l_3`.

    Returns:
        Messages of degree 0, 1, ...; the channels of a degree are those of its paths in order.
        Memory: :math:`2 l_3 + 1` numbers per edge, path and channel; for checks, not for work.
    """
    channels = features.shape[-1]
    messages: list[list[Tensor]] = [[] for _ in range(max(l3 for _, _, l3 in paths) + 1)]
    for (l1, l2, l3), radial in zip(paths, weights.split(channels, dim=-1), strict=True):
        h = features[senders, l1**2 : (l1 + 1) ** 2]
        y = harmonics[:, l2**2 : (l2 + 1) ** 2]
        w = math.sqrt(2 * l3 + 1) * wigner_3j(l1, l2, l3).to(features)
        per_edge = torch.einsum("abm,eac,eb,ec->emc", w, h, y, radial)
        zeros = features.new_zeros(features.shape[0], 2 * l3 + 1, channels)
        messages[l3].append(zeros.index_add(0, receivers, per_edge))
    return [torch.cat(parts, dim=-1) for parts in messages]
