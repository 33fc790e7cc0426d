r"""How the channels of a product of spherical tensors meet, and with what weights."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.tensor_products.sectors import NATURAL, PSEUDO, Sectors, Stacks


class Channels(ABC):
    r"""What is done to the channels before and after a product that is the same for all channels.

    .. math::
        z^{l_3}_{w} = \sum_r C^{l_3}_{rw}\, P_{l_3}\Big[ \sum_{l_1 u} A^{l_1}_{ur}\, x^{l_1}_u,\;
        \sum_{l_2 v} B^{l_2}_{vr}\, y^{l_2}_v \Big]

    A, B and C have one matrix for each irrep of :math:`x`, :math:`y` and :math:`z`, natural ones
    first, by ascending degree. The weights are one vector, those of A, then B, then C, each
    row-major. It is never owned here: every method takes it with a first axis of rows, 1 if it is
    shared by all.

    Attributes:
        weight_numel: number of weights.
    """

    weight_numel: int

    @abstractmethod
    def before(
        self, x: Stacks, y: Stacks, weight: Float[Tensor, "rows_or_1 weights"] | None
    ) -> tuple[Stacks, Stacks]:
        """A applied to x, and B to y."""

    @abstractmethod
    def after(self, z: Stacks, weight: Float[Tensor, "rows_or_1 weights"] | None) -> Stacks:
        """C applied to z."""

    @abstractmethod
    def factors(
        self, weight: Float[Tensor, " weights"] | None
    ) -> tuple[
        Float[Tensor, "irreps1 u r"], Float[Tensor, "irreps2 v r"], Float[Tensor, "irreps r w"]
    ]:
        """A, B and C of shared weights, in float64, as the definition has them."""


class PlainChannels(Channels):
    r"""Channel by channel without weights; a single channel of one input meets all of the other."""

    def __init__(self, in1: Sectors, in2: Sectors, out: Sectors) -> None:
        self.weight_numel = 0
        self._in1, self._in2, self._out = in1, in2, out

    def before(self, x: Stacks, y: Stacks, weight: Tensor | None) -> tuple[Stacks, Stacks]:
        return x, y

    def after(self, z: Stacks, weight: Tensor | None) -> Stacks:
        return z

    def factors(self, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        same = torch.eye(self._out.channels, dtype=torch.float64)
        every = same.sum(0, keepdim=True)
        a, b, c = (
            (same if s.channels == self._out.channels else every).expand(len(s.rows), -1, -1)
            for s in (self._in1, self._in2, self._out)
        )
        return a, b, c


class DegreeWeights(Channels):
    r"""Channel by channel, with a weight for each irrep and channel of all three tensors.

    .. math::
        A^{l}_{ur} = a_{l r}\, \delta_{ur}, \qquad B^{l}_{vr} = b_{l r}\, \delta_{vr}, \qquad
        C^{l}_{rw} = c_{l r}\, \delta_{rw}

    The path from :math:`l_1` and :math:`l_2` to :math:`l_3` has the weight :math:`a_{l_1} b_{l_2}
    c_{l_3}` in each channel. If one input has a single channel, it meets all channels of the other,
    and has one weight for each irrep.
    """

    def __init__(self, in1: Sectors, in2: Sectors, out: Sectors) -> None:
        self._sectors = (in1, in2, out)
        self._shapes = [(len(s.rows), s.channels) for s in self._sectors]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.weight_numel = sum(self._sizes)

    def before(self, x: Stacks, y: Stacks, weight: Tensor | None) -> tuple[Stacks, Stacks]:
        a, b, _ = self._split(weight)
        return _scaled(x, a, self._sectors[0]), _scaled(y, b, self._sectors[1])

    def after(self, z: Stacks, weight: Tensor | None) -> Stacks:
        return _scaled(z, self._split(weight)[2], self._sectors[2])

    def factors(self, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert weight is not None
        a, b, c = (part[0] for part in self._split(weight.double().unsqueeze(0)))
        channels = self._shapes[2][1]
        a, b = (
            w.diag_embed() if w.shape[1] == channels else w.unsqueeze(2).expand(-1, -1, channels)
            for w in (a, b)
        )
        return a, b, c.diag_embed()

    def _split(self, weight: Tensor | None) -> list[Float[Tensor, "rows_or_1 irreps channels"]]:
        assert weight is not None  # checked by the product
        parts = weight.split(self._sizes, dim=1)
        return [part.unflatten(1, s) for part, s in zip(parts, self._shapes, strict=True)]


class ChannelMixing(Channels):
    r"""Linear maps of the channels, a product channel by channel, and a linear map again.

    .. math::
        A^l_{ur} = \frac{a_{lur}}{\sqrt{C_1}}, \qquad B^l_{vr} = \frac{b_{lvr}}{\sqrt{C_2}}, \qquad
        C^l_{rw} = \frac{c_{lrw}}{\sqrt{R}}

    with all weights independent and of unit variance at the start. The path weights of this map are
    a sum of ``rank`` products :math:`W^{l_1 l_2 l_3}_{uvw} = \sum_r A_{ur} B_{vr} C_{rw}`: with a
    rank of 2 to 9 (degrees 2 to 8) all path weights of one channel can be reached, while the cost
    is that of one product with ``rank`` channels.
    """

    def __init__(self, in1: Sectors, in2: Sectors, out: Sectors, rank: int) -> None:
        if rank < 1:
            raise EquivError(f"rank: expected a positive number of channels, got {rank}")
        self._sectors = (in1, in2, out)
        self._shapes = [
            (len(in1.rows), in1.channels, rank),
            (len(in2.rows), in2.channels, rank),
            (len(out.rows), rank, out.channels),
        ]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.weight_numel = sum(self._sizes)

    def before(self, x: Stacks, y: Stacks, weight: Tensor | None) -> tuple[Stacks, Stacks]:
        a, b, _ = self._split(weight)
        return _mixed(x, a, self._sectors[0]), _mixed(y, b, self._sectors[1])

    def after(self, z: Stacks, weight: Tensor | None) -> Stacks:
        return _mixed(z, self._split(weight)[2], self._sectors[2])

    def factors(self, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert weight is not None
        a, b, c = (part[0] for part in self._split(weight.double().unsqueeze(0)))
        return a, b, c

    def _split(self, weight: Tensor | None) -> list[Float[Tensor, "rows_or_1 irreps u r"]]:
        assert weight is not None  # checked by the product
        parts = weight.split(self._sizes, dim=1)
        return [
            part.unflatten(1, s) * s[1] ** -0.5 for part, s in zip(parts, self._shapes, strict=True)
        ]


def _scaled(
    stacks: Stacks, weight: Float[Tensor, "rows_or_1 irreps channels"], sectors: Sectors
) -> Stacks:
    natural, pseudo = weight.split([len(sectors.natural), len(sectors.pseudo)], dim=1)
    out = []
    for x, w, sign in zip(stacks, (natural, pseudo), (NATURAL, PSEUDO), strict=True):
        out.append(None if x is None else x * _by_component(w, sectors.degrees(sign)))
    return out[0], out[1]


def _by_component(
    weight: Float[Tensor, "rows_or_1 degrees channels"], degrees: Sequence[int]
) -> Float[Tensor, "rows_or_1 lm channels"]:
    """A weight for each component; 0 for the degrees that are missing."""
    parts = []
    for l in range(degrees[-1] + 1):
        if l in degrees:
            n = degrees.index(l)
            parts.append(weight[:, n : n + 1].expand(-1, 2 * l + 1, -1))
        else:
            parts.append(weight.new_zeros(weight.shape[0], 2 * l + 1, weight.shape[2]))
    return torch.cat(parts, dim=1)


def _mixed(
    stacks: Stacks, weight: Float[Tensor, "rows_or_1 irreps u r"], sectors: Sectors
) -> Stacks:
    natural, pseudo = weight.split([len(sectors.natural), len(sectors.pseudo)], dim=1)
    out = []
    for x, w, sign in zip(stacks, (natural, pseudo), (NATURAL, PSEUDO), strict=True):
        out.append(None if x is None else _mixed_degrees(x, w, sectors.degrees(sign)))
    return out[0], out[1]


def _mixed_degrees(
    x: Float[Tensor, "rows lm u"],
    weight: Float[Tensor, "rows_or_1 degrees u r"],
    degrees: Sequence[int],
) -> Float[Tensor, "rows lm r"]:
    parts = []
    for l in range(degrees[-1] + 1):
        block = x[:, l**2 : (l + 1) ** 2]
        if l in degrees:
            w = weight[:, degrees.index(l)]
            if w.shape[0] == 1:  # one large product for all rows
                flat = block.reshape(-1, block.shape[2]) @ w[0]
                parts.append(flat.view(block.shape[0], 2 * l + 1, w.shape[2]))
            else:
                parts.append(block @ w)
        else:
            parts.append(block.new_zeros(block.shape[0], 2 * l + 1, weight.shape[3]))
    return torch.cat(parts, dim=1)
