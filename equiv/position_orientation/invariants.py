r"""Numbers that tell pairs of points apart, up to motions of the whole.

A pair of points of a homogeneous space has an equivalence class :math:`\{(g x_i, g x_j) : g \in
G\}`. Weights are shared within a class if they are functions of *invariants* of the pair, and
nothing is lost if the invariants are injective, that is, if they tell any two classes apart.
(Bekkers et al. 2024.) All functions here take :math:`r = p_j - p_i`, so translations are gone
already, and are smooth unless they say otherwise.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor


class PairInvariants(ABC):
    """Invariants of two points of one space.

    Attributes:
        count: how many numbers there are.
        dim: of the space of positions.
    """

    count: ClassVar[int]
    dim: ClassVar[int]

    @abstractmethod
    def __call__(
        self,
        vectors: Float[Tensor, "*pairs dim"],
        receiver: Float[Tensor, "*pairs _"] | None = None,
        sender: Float[Tensor, "*pairs _"] | None = None,
    ) -> Float[Tensor, "*pairs count"]:
        """The invariants.

        Args:
            vectors: :math:`r = p_j - p_i`, from the receiver to the sender.
            receiver: what the receiver has besides its position: nothing, an orientation (unit
                vector), or a frame (rotation matrix, shape ``[..., dim, dim]``).
            sender: the same of the sender. All three broadcast against each other.
        """


class R2Invariants(PairInvariants):
    r"""Points of the plane, up to E(2): :math:`|r|`. Not differentiable at :math:`r = 0`."""

    count, dim = 1, 2

    def __call__(self, vectors, receiver=None, sender=None):
        return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)


class R3Invariants(R2Invariants):
    r"""Points of space, up to E(3): :math:`|r|`. Not differentiable at :math:`r = 0`."""

    count, dim = 1, 3


class R2S1Invariants(PairInvariants):
    r"""Points of the plane with an orientation, up to SE(2).

    .. math::
        (r \cdot o_i,\; o_i \times r,\; o_i \cdot o_j,\; o_i \times o_j), \qquad
        a \times b = a_x b_y - a_y b_x

    :math:`\mathbb R^2 \times S^1` is the group SE(2) itself, so these are the coordinates of
    :math:`x_i^{-1} x_j`: complete. The fourth, the sine of the angle between the orientations, is
    missing in the published code, which therefore cannot tell a left turn from a right turn.
    """

    count, dim = 4, 2

    def __call__(self, vectors, receiver=None, sender=None):
        assert receiver is not None
        assert sender is not None
        numbers = [
            (vectors * receiver).sum(-1),
            _cross(receiver, vectors),
            (receiver * sender).sum(-1),
            _cross(receiver, sender),
        ]
        return torch.stack(torch.broadcast_tensors(*numbers), -1)


class PublishedR3S2Invariants(PairInvariants):
    r"""Points of space with an orientation, up to E(3), as published.

    .. math::
        (r \cdot o_i,\; |r - (r \cdot o_i)\, o_i|,\; o_i \cdot o_j)

    Three numbers for a quotient of dimension :math:`10 - 6 = 4`: not injective. :math:`r = \hat x`,
    :math:`o_i = \hat z` with :math:`o_j = \hat x` or :math:`\hat y` gives (0, 1, 0) both times.
    The second has a cusp where :math:`r` is parallel to :math:`o_i`.
    """

    count, dim = 3, 3

    def __call__(self, vectors, receiver=None, sender=None):
        assert receiver is not None
        assert sender is not None
        along, across = published_attributes(vectors, receiver).unbind(-1)
        numbers = [along, across, (receiver * sender).sum(-1)]
        return torch.stack(torch.broadcast_tensors(*numbers), -1)


class R3S2Invariants(PairInvariants):
    r"""Points of space with an orientation, up to E(3): complete and smooth.

    .. math::
        (r \cdot o_i,\; r \cdot o_j,\; |r|^2,\; o_i \cdot o_j)

    With :math:`|o| = 1` these are the Gram matrix of :math:`(r, o_i, o_j)`, which determines the
    three vectors up to O(3). For SE(3), where mirror images count as different, the sign of
    :math:`\det(r, o_i, o_j)` would have to be added. (That four are needed: Bellaard, Smets, Duits
    2025.)
    """

    count, dim = 4, 3

    def __call__(self, vectors, receiver=None, sender=None):
        assert receiver is not None
        assert sender is not None
        numbers = [
            (vectors * receiver).sum(-1),
            (vectors * sender).sum(-1),
            vectors.square().sum(-1),
            (receiver * sender).sum(-1),
        ]
        return torch.stack(torch.broadcast_tensors(*numbers), -1)


class SE3Invariants(PairInvariants):
    r"""Points of space with a whole frame, up to SE(3).

    .. math::
        (R_i^\mathsf{T} r,\; R_i^\mathsf{T} R_j)

    The space is the group itself, and these are the twelve numbers of :math:`x_i^{-1} x_j`, the
    matrix row by row.
    """

    count, dim = 12, 3

    def __call__(self, vectors, receiver=None, sender=None):
        assert receiver is not None
        assert sender is not None
        position = (receiver.mT @ vectors.unsqueeze(-1)).squeeze(-1)
        turn = (receiver.mT @ sender).flatten(-2)
        shape = torch.broadcast_shapes(position.shape[:-1], turn.shape[:-1])
        return torch.cat([position.expand(*shape, 3), turn.expand(*shape, 9)], -1)


PAIR_INVARIANTS: dict[str, type[PairInvariants]] = {
    "r2": R2Invariants,
    "r3": R3Invariants,
    "r2s1": R2S1Invariants,
    "r3s2": R3S2Invariants,
    "r3s2_published": PublishedR3S2Invariants,
    "se3": SE3Invariants,
}


def published_attributes(
    vectors: Float[Tensor, "*pairs 3"], orientation: Float[Tensor, "*pairs 3"]
) -> Float[Tensor, "*pairs 2"]:
    r"""A vector as one orientation sees it: :math:`(r \cdot o,\; |r - (r \cdot o)\, o|)`.

    The length across has a cusp where it vanishes; there its first derivative is taken to be 0,
    and its second does not exist.
    """
    along = (vectors * orientation).sum(-1, keepdim=True)
    across = torch.linalg.vector_norm(vectors - along * orientation, dim=-1, keepdim=True)
    return torch.cat([along, across], -1)


def smooth_attributes(
    vectors: Float[Tensor, "*pairs 3"], orientation: Float[Tensor, "*pairs 3"]
) -> Float[Tensor, "*pairs 2"]:
    r"""The same without the cusp: :math:`(r \cdot o,\; |r|^2 - (r \cdot o)^2)`, polynomials."""
    along = (vectors * orientation).sum(-1)
    return torch.stack([along, vectors.square().sum(-1) - along.square()], -1)


def planar_attributes(
    vectors: Float[Tensor, "*pairs 2"], orientation: Float[Tensor, "*pairs 2"]
) -> Float[Tensor, "*pairs 2"]:
    r"""A vector of the plane in the frame of an orientation: :math:`(r \cdot o,\; o \times r)`."""
    return torch.stack([(vectors * orientation).sum(-1), _cross(orientation, vectors)], -1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
