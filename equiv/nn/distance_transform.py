"""Distances measured in sizes of the two atoms, before radial functions see them."""

import torch
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch import Tensor

from equiv.constants import ExactConstants


class AgnesiTransform(ExactConstants):
    r"""Map distances onto (0, 1), steepest where bonds are.

    .. math::
        T(r) = \Big( 1 + \frac{a\, x^q}{1 + x^{q - p}} \Big)^{-1}, \qquad
        x = \frac{r}{(R_i + R_j) / 2}

    with :math:`a` = 1.0805, :math:`q` = 0.9183, :math:`p` = 4.5791 and covalent radii :math:`R` in
    Angstrom. Near the origin :math:`1 - T` falls as :math:`x^p`; far out :math:`T` falls as
    :math:`x^{-q}`. (Witt et al. 2023, J. Chem. Phys. 159, 164101.)
    """

    a, q, p = 1.0805, 0.9183, 4.5791

    def __init__(self) -> None:
        super().__init__()
        self.register_constant("radii", torch.as_tensor(covalent_radii, dtype=torch.float64))
        self.radii: Tensor

    def forward(
        self, r: Float[Tensor, "*edges"], z_i: Int[Tensor, "*edges"], z_j: Int[Tensor, "*edges"]
    ) -> Float[Tensor, "*edges"]:
        """Transformed distances, without a unit, from ``r`` > 0 (Angstrom) and atomic numbers."""
        x = 2 * r / (self.radii[z_i] + self.radii[z_j])
        return 1 / (1 + self.a * x**self.q / (1 + x ** (self.q - self.p)))


class SoftTransform(ExactConstants):
    r"""Leave distances as they are, except that short ones end at a floor.

    .. math::
        T(r) = r_0 + \frac{r - r_0}{2} \Big( 1 + \tanh \frac{\alpha (r - m)}{r_1 - r_0} \Big),
        \qquad r_0 = \tfrac34 R, \quad r_1 = \tfrac43 R, \quad m = \tfrac12 (r_0 + r_1)

    :math:`R = R_i + R_j` is the sum of the covalent radii (Angstrom) and :math:`\alpha` = 4.
    """

    alpha = 4.0

    def __init__(self) -> None:
        super().__init__()
        self.register_constant("radii", torch.as_tensor(covalent_radii, dtype=torch.float64))
        self.radii: Tensor

    def forward(
        self, r: Float[Tensor, "*edges"], z_i: Int[Tensor, "*edges"], z_j: Int[Tensor, "*edges"]
    ) -> Float[Tensor, "*edges"]:
        """Transformed distances in Angstrom, from ``r`` (Angstrom) and atomic numbers."""
        bond = self.radii[z_i] + self.radii[z_j]
        low, high = 0.75 * bond, 4 / 3 * bond
        steps = torch.tanh(self.alpha * (r - 0.5 * (low + high)) / (high - low))
        return low + 0.5 * (r - low) * (1 + steps)


DISTANCE_TRANSFORMS: dict[str, type[AgnesiTransform] | type[SoftTransform]] = {
    "agnesi": AgnesiTransform,
    "soft": SoftTransform,
}
"""Transforms by name."""
