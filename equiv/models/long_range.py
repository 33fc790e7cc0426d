"""A short-range model with a long-range term beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.choices import choose
from equiv.errors import DataError, EquivError
from equiv.long_range import ChebyshevTucker, Pairs
from equiv.long_range.charges import (
    AtomicCharges,
    EquilibratedCharges,
    FixedCharges,
    LearnedCharges,
    LearnedCoefficients,
    Sites,
    dipole_moments,
)
from equiv.long_range.equilibration import ChargeEquilibration
from equiv.models.block_model import BlockModel
from equiv.models.interface import Model, Prediction
from equiv.models.mace import MACE
from equiv.models.ponita import Ponita
from equiv.units import COULOMB

Charges = Literal["learned", "equilibrated", "fixed"]

LOCAL_MODELS: dict[str, type[BlockModel]] = {model.name: model for model in (MACE, Ponita)}
"""Short-range models that offer invariants to read charges from, by name."""


@dataclass(frozen=True)
class LongRange:
    """What is added to a short-range model.

    Attributes:
        charges: ``"learned"`` from the invariants of each atom; ``"equilibrated"``, which answer to
            charges at any distance; ``"fixed"`` for each element.
        fixed_charges: in e by chemical symbol, for ``"fixed"``.
        short_range: whether the Coulomb energy within the cutoff is added too. Without it, that is
            left to the short-range model, and what is added is smooth everywhere.
        dispersion: whether learned :math:`1/r^6` attractions are added.
        tolerance: relative error of the long-range forces.
    """

    charges: Charges = "learned"
    fixed_charges: Mapping[str, float] | None = None
    short_range: bool = False
    dispersion: bool = False
    tolerance: float = 1e-4

    @classmethod
    def of(cls, settings: "LongRange | Mapping[str, Any]") -> "LongRange":
        """From a mapping, as recipes and model files hold it.

        Raises:
            EquivError: a key or value makes no sense.
        """
        if isinstance(settings, LongRange):
            return settings
        known = {field.name: field.name for field in fields(cls)}
        for key in settings:
            choose(known, key, "long_range")
        made = cls(**settings)
        choose(dict.fromkeys(get_args(Charges)), made.charges, "long_range.charges")
        if (made.charges == "fixed") != (made.fixed_charges is not None):
            raise EquivError(
                "long_range.fixed_charges belongs to charges = 'fixed', and is needed there; got "
                f"charges = {made.charges!r} and fixed_charges = {made.fixed_charges}"
            )
        if made.charges == "equilibrated" and made.short_range:
            raise EquivError(
                "long_range.short_range must be false for equilibrated charges: point charges that "
                "come close have no stable equilibrium"
            )
        return made


class LongRangeModel(Model):
    r"""A short-range model, and the electrostatics of charges that it knows.

    .. math::
        E = \sum_i \Big( E_i^\text{local} + e_i + \tfrac12 q_i \phi_i \Big) + E_6, \qquad
        \phi_i = k_e \sum_{j \ne i} q_j K(r_{ij}), \qquad
        E_6 = -\tfrac12 \sum_{i \ne j} \frac{c_i c_j}{r_{ij}^6}

    The charges :math:`q_i` come from the invariant features of the short-range model
    (:mod:`equiv.long_range.charges`), keep the total charge of the structure and cost
    :math:`e_i` where they are equilibrated. The sums go over all distances and periodic images, in
    linear time (:class:`equiv.long_range.ChebyshevTucker`). :math:`K` is :math:`1/r` outside of the
    cutoff; inside it is :math:`1/r` with ``short_range`` and smooth without. The dispersion
    :math:`E_6`, if asked for, is softened inside of the cutoff likewise.

    Forces and stress are exact derivatives, through the charges as well. Predictions carry
    ``charges`` [atoms] in e and, for structures that are not periodic, ``dipole`` [graphs, 3] in e
    Angstrom (NaN for periodic ones) in their ``extras``. In ``energies`` every atom has its share
    of the long-range energy; derivatives of it are right for sums over a structure only.

    Args:
        architecture: name of the short-range model, a key of :data:`LOCAL_MODELS`.
        long_range: a :class:`LongRange` or a mapping with its fields.
        recipe: arguments of the short-range model.

    Raises:
        EquivError: an unknown architecture or setting, or an element without a fixed charge.
    """

    name: ClassVar[str] = "long_range"
    extra_properties: ClassVar[tuple[str, ...]] = ("charges", "dipole")
    long_ranged: ClassVar[bool] = True

    def __init__(
        self, architecture: str, *, long_range: LongRange | Mapping[str, Any], **recipe: Any
    ) -> None:
        settings = LongRange.of(long_range)
        local = choose(LOCAL_MODELS, architecture, "model")(**recipe)
        super().__init__(local.elements, local.cutoff)
        self.settings, self.local = settings, local
        self.recipe = {"architecture": architecture, "long_range": asdict(settings), **local.recipe}
        if settings.fixed_charges is not None:
            self.recipe["long_range"]["fixed_charges"] = dict(settings.fixed_charges)
        self.potential = self._potential(1.0, settings.short_range)
        self.charges = self._charges(local.recipe["elements"])
        self.coefficients = self.dispersion = None
        if settings.dispersion:
            channels = local.invariant_channels
            self.coefficients = LearnedCoefficients(channels, len(self.elements))
            self.dispersion = self._potential(6.0, False)

    @classmethod
    def construction_size(cls, recipe: dict[str, Any]) -> int:
        """That of the short-range model."""
        architecture = LOCAL_MODELS[recipe["architecture"]]
        own = ("architecture", "long_range")
        return architecture.construction_size({k: v for k, v in recipe.items() if k not in own})

    def forward(
        self, batch: Any, *, forces: bool = True, stress: bool = False, atomic_virials: bool = False
    ) -> Prediction:
        """Predict a batch; see :meth:`equiv.models.Model.forward`.

        Raises:
            EquivError: ``atomic_virials`` were asked for: those of a sum over all distances are not
                a sum over edges.
        """
        if atomic_virials:
            raise EquivError(
                "a model with a long-range term has no virials of single atoms; ask for the "
                "stress of the structure"
            )
        return super().forward(batch, forces=forces, stress=stress)

    @property
    def exact_rotations(self) -> Float[Tensor, "rotations 3 3"] | None:
        """Those of the short-range model: charges are read from its invariants."""
        return self.local.exact_rotations

    def advance(self, step: int) -> None:
        """Tell the short-range model."""
        self.local.advance(step)

    @property
    def stage(self) -> int:
        """That of the short-range model."""
        return self.local.stage

    @property
    def kept_paths(self) -> Mapping[str, tuple[int, int]]:
        """Those of the short-range model."""
        return self.local.kept_paths

    def compact(self) -> "LongRangeModel":
        """The same with a compact short-range model; itself if that drops nothing."""
        local = self.local.compact()
        if local is self.local:
            return self
        name, settings = self.recipe["architecture"], self.settings
        other = LongRangeModel(name, long_range=settings, **local.recipe)
        other = other.to(device=self.device, dtype=self.dtype)
        kept = {k: x for k, x in self.state_dict().items() if not k.startswith("local.")}
        other.load_state_dict(kept | {f"local.{k}": x for k, x in local.state_dict().items()})
        other.card = dict(self.card)
        return other.train(self.training)

    def predict_energy(
        self,
        batch: Any,
        positions: Float[Tensor, "atoms 3"],
        cell: Float[Tensor, "graphs 3 3"],
        vectors: Float[Tensor, "edges 3"],
        species: Int[Tensor, " atoms"],
    ) -> Prediction:
        """Local and long-range energies, with charges and dipoles."""
        atoms = self._atoms(batch, positions, cell, vectors, species)
        energy = per_structure(atoms.local, batch) + atoms.long_range
        mean = (atoms.long_range / (batch.ptr[1:] - batch.ptr[:-1]).clamp(min=1))[batch.batch]
        energies = atoms.local + mean + (atoms.shares - mean).detach()
        return Prediction(energy, energies, extras=self._extras(batch, atoms.charges))

    def atomic_energies(
        self, batch: Any, vectors: Float[Tensor, "edges 3"], species: Int[Tensor, " atoms"]
    ) -> Float[Tensor, " atoms"]:
        """Not available: the energy is no function of the edges.

        Raises:
            EquivError: always.
        """
        raise EquivError("the energy of a long-range model does not follow from its edges alone")

    def _atoms(
        self, batch: Any, positions: Tensor, cell: Tensor, vectors: Tensor, species: Tensor
    ) -> "_Atoms":
        """Energies and charges."""
        local, invariants = self.local.atomic_outputs(batch, vectors, species)
        total = batch.total_charge
        if not bool(torch.isfinite(total).all()):
            raise DataError(
                "the total charge of a structure is not known: info['charge'] (or 'total_charge') "
                "must be one finite number of elementary charges"
            )
        pairs = Pairs.from_edges(batch.senders, batch.receivers, batch.shifts)
        sites = Sites(positions, cell, batch.pbc, batch.batch, pairs)
        atoms: AtomicCharges = self.charges(invariants, species, total, sites)
        # In float64 whatever the weights: sums over all distances cancel.
        charges = atoms.charges.double()
        terms = [(charges, self.potential, 1.0)]
        if self.coefficients is not None and self.dispersion is not None:
            terms.append((self.coefficients(invariants, species).double(), self.dispersion, -1.0))
        local = local + atoms.energies.double()
        energy, shares = local.new_zeros(batch.num_graphs), torch.zeros_like(local)
        for q, potential, sign in terms:
            energy = energy + sign * sites.energy(potential, q)
            with torch.no_grad():
                shares = shares + 0.5 * sign * q * sites.potentials(potential, q)
        return _Atoms(local, energy, shares, charges)

    def _extras(self, batch: Any, charges: Tensor) -> dict[str, Tensor]:
        dipole = dipole_moments(batch.positions, charges, batch.batch, batch.num_graphs)
        finite = ~batch.pbc.any(dim=1, keepdim=True)
        return {"charges": charges, "dipole": torch.where(finite, dipole, torch.nan)}

    def _potential(self, exponent: float, short_range: bool) -> ChebyshevTucker:
        return ChebyshevTucker(
            self.settings.tolerance,
            cutoff=self.cutoff,
            exponent=exponent,
            prefactor=COULOMB if exponent == 1.0 else 1.0,
            short_range=short_range,
        )

    def _charges(self, symbols: Sequence[str]) -> nn.Module:
        channels, elements = self.local.invariant_channels, len(self.elements)
        if self.settings.charges == "learned":
            return LearnedCharges(channels, elements)
        if self.settings.charges == "equilibrated":
            return EquilibratedCharges(
                channels,
                elements,
                ChargeEquilibration(self.potential),
                self_interaction=self._self_interaction(),
            )
        values = self.settings.fixed_charges or {}
        if missing := [s for s in symbols if s not in values]:
            raise EquivError(
                f"long_range.fixed_charges has no charge for {', '.join(missing)}; the model knows "
                f"{', '.join(symbols)}"
            )
        return FixedCharges(torch.tensor([float(values[s]) for s in symbols]))

    def _self_interaction(self) -> float:
        r"""Twice the energy :math:`\gamma q^2` of the smooth charges themselves, V/e.

        With it every equilibration has a solution, because :math:`K` has a positive transform.
        """
        return self.potential.prefactor * self.potential.splitting().self_value


@dataclass(frozen=True)
class _Atoms:
    """What a long-range model knows of a batch before it differentiates.

    Attributes:
        local: energies of the atoms without the sums over all distances, eV.
        long_range: energies of those sums, eV.
        shares: the atoms' shares of them, eV, without derivatives.
        charges: e.
    """

    local: Float[Tensor, " atoms"]
    long_range: Float[Tensor, " graphs"]
    shares: Float[Tensor, " atoms"]
    charges: Float[Tensor, " atoms"]


def per_structure(energies: Float[Tensor, " atoms"], batch: Any) -> Float[Tensor, " graphs"]:
    """Sums over the atoms of each structure."""
    return energies.new_zeros(batch.num_graphs).index_add(0, batch.batch, energies)
