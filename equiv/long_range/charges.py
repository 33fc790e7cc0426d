"""Where the charges come from: tabulated, learned, or equilibrated."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.long_range.equilibration import ChargeEquilibration
from equiv.long_range.pairs import Pairs
from equiv.long_range.potential import LongRangePotential
from equiv.nn.readout import NonlinearReadout


@dataclass(frozen=True)
class AtomicCharges:
    r"""Charges, and what it costs to put them there.

    Attributes:
        charges: in elementary charges; per structure they sum to the total charge.
        energies: :math:`\chi_i q_i + \tfrac12 h_i q_i^2` of equilibrated charges, eV; zero for the
            other models. The total electrostatic energy is that of the potential plus their sum.
    """

    charges: Float[Tensor, " atoms"]
    energies: Float[Tensor, " atoms"]


class Sites(NamedTuple):
    """Where charges sit: what a potential is told but for the charges themselves.

    Attributes:
        positions: Angstrom.
        cell: lattice vectors in rows, Angstrom.
        pbc: which of the three directions repeat; left out, nothing does.
        batch: the structure of each atom, ascending; left out, there is one.
        pairs: pairs of atoms closer than the real-space cutoff, if they are known already.
    """

    positions: Float[Tensor, "atoms 3"]
    cell: Float[Tensor, "graphs 3 3"] | None = None
    pbc: Bool[Tensor, "graphs 3"] | None = None
    batch: Int[Tensor, " atoms"] | None = None
    pairs: Pairs | None = None

    def energy(
        self, potential: LongRangePotential, charges: Float[Tensor, " atoms"]
    ) -> Float[Tensor, " graphs"]:
        """Energies of charges at the sites, eV."""
        return potential(self.positions, charges, *self[1:])

    def potentials(
        self, potential: LongRangePotential, charges: Float[Tensor, " atoms"]
    ) -> Float[Tensor, " atoms"]:
        """Potentials of charges at the sites, V."""
        return potential.potentials(self.positions, charges, *self[1:])


class ChargeModel(Protocol):
    """What all models of charges are called with; each takes from it what it needs."""

    def __call__(
        self,
        features: Float[Tensor, "atoms channels"],
        species: Int[Tensor, " atoms"],
        total_charge: Float[Tensor, " graphs"],
        sites: Sites,
    ) -> AtomicCharges: ...


def shifted_to_total(
    charges: Float[Tensor, " atoms"],
    total_charge: Float[Tensor, " graphs"],
    batch: Int[Tensor, " atoms"] | None = None,
    shares: Float[Tensor, " atoms"] | None = None,
) -> Float[Tensor, " atoms"]:
    r"""Charges with the right sum in every structure.

    .. math::
        q_i' = q_i + \frac{s_i}{\sum_j s_j} \Bigl(Q - \sum_j q_j\Bigr)

    Args:
        charges: :math:`q`.
        total_charge: :math:`Q`.
        batch: structure of each atom.
        shares: :math:`s > 0`; equal if left out.
    """
    if batch is None:
        batch = torch.zeros_like(charges, dtype=torch.long)
    shares = torch.ones_like(charges) if shares is None else shares
    sums = charges.new_zeros(2, len(total_charge), dtype=torch.float64)
    sums = sums.index_add(1, batch, torch.stack([charges, shares]).double())
    # Structures without atoms have nothing to share.
    missing = (total_charge.double() - sums[0]) / torch.where(sums[1] > 0, sums[1], 1.0)
    return charges + shares * missing.index_select(0, batch).to(charges.dtype)


def dipole_moments(
    positions: Float[Tensor, "atoms 3"],
    charges: Float[Tensor, " atoms"],
    batch: Int[Tensor, " atoms"] | None = None,
    num_graphs: int = 1,
) -> Float[Tensor, "graphs 3"]:
    r""":math:`\sum_i q_i (r_i - \bar r)` in e Angstrom, of finite structures.

    :math:`\bar r` is the mean position of the structure; neutral structures do not depend on it.
    """
    if batch is None:
        batch = torch.zeros_like(charges, dtype=torch.long)
    count = charges.new_zeros(num_graphs).index_add(0, batch, torch.ones_like(charges))
    zeros = positions.new_zeros(num_graphs, 3)
    mean = zeros.index_add(0, batch, positions) / count.clamp(min=1)[:, None]
    arms = positions - mean.index_select(0, batch)
    return zeros.index_add(0, batch, charges[:, None] * arms)


class FixedCharges(nn.Module):
    r"""One charge for each element, shifted equally to the total charge of the structure.

    Args:
        charges: in elementary charges, one per element in the order of ``species``.
        trainable: whether they are parameters.
    """

    def __init__(self, charges: Float[Tensor, " elements"], *, trainable: bool = False) -> None:
        super().__init__()
        self.charges = nn.Parameter(charges.detach().clone(), requires_grad=trainable)

    def forward(
        self,
        features: Float[Tensor, "atoms channels"],
        species: Int[Tensor, " atoms"],
        total_charge: Float[Tensor, " graphs"],
        sites: Sites,
    ) -> AtomicCharges:
        """See :class:`ChargeModel`."""
        charges = shifted_to_total(self.charges[species], total_charge, sites.batch)
        return AtomicCharges(charges, torch.zeros_like(charges))


class LearnedCharges(nn.Module):
    r"""Charges read from invariant features, with the total charge shared by a learned softness.

    .. math::
        q_i = \tilde q_i + \frac{s_i}{\sum_j s_j} \Bigl(Q - \sum_j \tilde q_j\Bigr), \qquad
        \tilde q_i = b_{Z_i} + \sigma f(x_i), \qquad s_i = \operatorname{softplus}(g(x_i))

    :math:`f` and :math:`g` are :class:`~equiv.nn.readout.NonlinearReadout`. Charges are not zero at
    birth: the Coulomb energy is quadratic in them, and zero would be a stationary point. Only
    energies, forces and, where given, dipoles train them.

    Args:
        channels: invariant channels.
        elements: number of elements.
        hidden: width of the readouts.
        scale: :math:`\sigma`, standard deviation of the charges at birth.
    """

    def __init__(
        self, channels: int, elements: int, *, hidden: int = 16, scale: float = 0.1
    ) -> None:
        super().__init__()
        self.scale = scale
        self.offsets = nn.Parameter(torch.zeros(elements))
        self.charge = NonlinearReadout(channels, hidden)
        self.softness = NonlinearReadout(channels, hidden)

    def forward(
        self,
        features: Float[Tensor, "atoms channels"],
        species: Int[Tensor, " atoms"],
        total_charge: Float[Tensor, " graphs"],
        sites: Sites,
    ) -> AtomicCharges:
        """See :class:`ChargeModel`."""
        raw = self.offsets[species] + self.scale * self.charge(features)
        shares = nn.functional.softplus(self.softness(features))
        charges = shifted_to_total(raw, total_charge, sites.batch, shares)
        return AtomicCharges(charges, torch.zeros_like(charges))

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


class EquilibratedCharges(nn.Module):
    r"""Charge equilibration with learned electronegativities and hardnesses.

    .. math::
        \chi_i = b_{Z_i} + \sigma f(x_i), \qquad
        h_i = \operatorname{softplus}(c_{Z_i} + g(x_i)) + 2\gamma

    in V and V/e, and the charges are those of
    :class:`~equiv.long_range.equilibration.ChargeEquilibration`: they answer to charges far beyond
    the cutoff of the features.

    Args:
        channels: invariant channels.
        elements: number of elements.
        equilibration: solves for the charges, with the potential of the model.
        hidden: width of the readouts.
        scale: :math:`\sigma` in V.
        self_interaction: :math:`2\gamma` in V/e, the least hardness; :math:`k_e K_L(0)` makes every
            problem solvable for a potential without its short-range part.
        hardness: :math:`\operatorname{softplus}(c)` at birth, in V/e.
    """

    def __init__(
        self,
        channels: int,
        elements: int,
        equilibration: ChargeEquilibration,
        *,
        hidden: int = 16,
        scale: float = 1.0,
        self_interaction: float = 0.0,
        hardness: float = 15.0,
    ) -> None:
        super().__init__()
        if not (hardness > 0 and self_interaction >= 0):
            raise EquivError(
                "hardness and self_interaction: expected a positive number and one that is not"
                f" negative (V/e), got {hardness} and {self_interaction}"
            )
        self.scale, self.self_interaction = scale, self_interaction
        self.equilibration = equilibration
        self.offsets = nn.Parameter(torch.zeros(elements))
        inverse = torch.tensor(hardness, dtype=torch.float64).expm1().log()
        self.hardnesses = nn.Parameter(inverse.to(self.offsets.dtype).repeat(elements))
        self.electronegativity = NonlinearReadout(channels, hidden)
        self.hardness = NonlinearReadout(channels, hidden)

    def forward(
        self,
        features: Float[Tensor, "atoms channels"],
        species: Int[Tensor, " atoms"],
        total_charge: Float[Tensor, " graphs"],
        sites: Sites,
    ) -> AtomicCharges:
        """See :class:`ChargeModel`."""
        chi = self.offsets[species] + self.scale * self.electronegativity(features)
        h = nn.functional.softplus(self.hardnesses[species] + self.hardness(features))
        h = h + self.self_interaction
        q = self.equilibration(chi, h, total_charge, *sites)
        return AtomicCharges(q, chi * q + 0.5 * h * q**2)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, self_interaction={self.self_interaction:g}"


class LearnedCoefficients(nn.Module):
    r"""Positive coefficients for higher inverse powers, such as :math:`\sqrt{C_6}` for dispersion.

    .. math::
        c_i = \operatorname{softplus}(b_{Z_i} + f(x_i)), \qquad
        E = -\tfrac12 \sum_{i \ne j} \frac{c_i c_j}{r_{ij}^6}

    They are given to a potential in place of charges; there is no total to keep.

    Args:
        channels: invariant channels.
        elements: number of elements.
        hidden: width of the readout.
    """

    def __init__(self, channels: int, elements: int, *, hidden: int = 16) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.zeros(elements))
        self.coefficient = NonlinearReadout(channels, hidden)

    def forward(
        self, features: Float[Tensor, "atoms channels"], species: Int[Tensor, " atoms"]
    ) -> Float[Tensor, " atoms"]:
        """One positive coefficient per atom."""
        return nn.functional.softplus(self.offsets[species] + self.coefficient(features))
