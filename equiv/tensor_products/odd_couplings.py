"""Products with odd couplings besides the even ones."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.tensor_products.pointwise import PointwiseProduct
from equiv.tensor_products.sectors import SIGNS, Stacks
from equiv.tensor_products.spherical import SphericalTensorProduct


class OddCouplingTensorProduct(SphericalTensorProduct):
    """A spherical product one kernel of which takes natural and pseudo parity together.

    A subclass gives that kernel (:meth:`kernel_of`), for tensors that are natural stacks, then
    pseudo ones, of those that there are.
    """

    couples_odd = True

    @abstractmethod
    def kernel_of(self, scales: Sequence[dict[int, Float[Tensor, " lm"]]]) -> PointwiseProduct:
        """The kernel for scales of both inputs and the result, by the sign of the parity."""
        raise NotImplementedError

    def build(self) -> None:
        operands = (
            (self.sectors1, self.scale1),
            (self.sectors2, self.scale2),
            (self.sectors, self.scale),
        )
        self.kernel = self.kernel_of(
            [
                {sign: scale(sign) for sign in SIGNS if sectors.degrees(sign)}
                for sectors, scale in operands
            ]
        )

    def couple(self, x1: Stacks, x2: Stacks) -> Stacks:
        z = self.kernel(_joined(x1), _joined(x2))
        natural, pseudo = z.split(self.sectors.dims, dim=1)
        return (
            natural if self.sectors.natural else None,
            pseudo if self.sectors.pseudo else None,
        )


def _joined(stacks: Stacks) -> Float[Tensor, "rows lm channels"]:
    parts = [part for part in stacks if part is not None]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
