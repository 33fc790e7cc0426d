"""The training loss: errors of energy per atom, force components and stress components."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.models.interface import Prediction
from equiv.train.recipe_potential import TrainRecipe
from equiv.train.targets import Targets


@dataclass(frozen=True)
class LossWeights:
    r"""Weights of the three terms of the loss.

    .. math:: w_E = w_0 (w_1 / w_0)^{\max(0,\, 2p - 1)}

    The energy weight may change in the second half of the training, from :math:`w_0` to
    :math:`w_1`; :math:`p \in [0, 1]` is the share of the training that is done.
    """

    energy: float
    forces: float
    stress: float

    @classmethod
    def at(cls, recipe: TrainRecipe, progress: float) -> "LossWeights":
        """The weights with `progress` of the training done."""
        start, end = recipe.energy_weight, recipe.final_energy_weight
        energy = start
        if end is not None and start != 0 and end != 0:
            energy = start * (end / start) ** min(max(2 * progress - 1, 0.0), 1.0)
        return cls(energy, recipe.forces_weight, recipe.stress_weight)


class EnergyForcesStressLoss(nn.Module):
    r"""Weighted sum of the mean penalties of energy, forces and stress.

    .. math::
        L = w_E \Big\langle \omega_s\, h\Big(\frac{\hat E_s - E_s}{N_s}\Big) \Big\rangle_s
          + w_F \big\langle \omega_s\, h(\hat F_{i\alpha} - F_{i\alpha}) \big\rangle_{i\alpha}
          + w_S \big\langle \omega_s\, h(\hat\sigma_{s\alpha\beta} - \sigma_{s\alpha\beta})
          \big\rangle_{s\alpha\beta}

    Here :math:`s` runs over structures with :math:`N_s` atoms and weight :math:`\omega_s`, and each
    mean runs over exactly those labels that exist: a structure without forces enters the energy
    term only. The penalty is :math:`h(x) = x^2` (`mse`) or Huber's, :math:`h(x) = x^2/2` below
    :math:`\delta` and :math:`\delta(|x| - \delta/2)` above. Energies in eV, forces in eV/Angstrom,
    stress in eV/Angstrom^3.

    Args:
        kind: `mse` or `huber`.
        delta: Huber's :math:`\delta`.
        energy: whether energies are learned.
        forces: whether forces are learned.
        stress: whether stresses are learned.
    """

    def __init__(
        self, kind: str, *, delta: float, energy: bool, forces: bool, stress: bool
    ) -> None:
        super().__init__()
        if kind not in ("mse", "huber"):
            raise ValueError(f"loss must be 'mse' or 'huber', got {kind!r}")
        self.kind, self.delta = kind, delta
        self.energy, self.forces, self.stress = energy, forces, stress

    def forward(
        self, prediction: Prediction, batch: Any, weights: LossWeights
    ) -> Float[Tensor, ""]:
        """The loss of a batch, a float64 scalar."""
        parts = (weights.energy, weights.forces, weights.stress)
        return self.of(prediction, Targets.of(batch), parts)

    def of(
        self,
        prediction: Prediction,
        targets: Targets,
        weights: Sequence[float] | Float[Tensor, "3"],
    ) -> Float[Tensor, ""]:
        """The same, without a look at any value; ``weights`` are those of the three terms."""
        total = prediction.energy.new_zeros((), dtype=torch.float64)
        if self.energy:
            error = (prediction.energy - targets.energy) * targets.per_atom
            total = total + weights[0] * self._sum(error, targets.energy_share)
        if self.forces and prediction.forces is not None:
            error = prediction.forces - targets.forces
            total = total + weights[1] * self._sum(error, targets.forces_share)
        if self.stress and prediction.virials is not None:
            # From virials and not from the predicted stress: that one divides by the volume of
            # every structure, and where there is none, 0 * (1/0) would poison the gradient of the
            # others.
            error = -prediction.virials * targets.per_volume[:, None, None] - targets.stress
            total = total + weights[2] * self._sum(error, targets.stress_share)
        return total

    def _sum(
        self, error: Float[Tensor, "items ..."], share: Float[Tensor, " items"]
    ) -> Float[Tensor, ""]:
        """Sum of the penalties, each with its share."""
        if self.kind == "mse":
            penalty = error.square()
        else:
            penalty = nn.functional.huber_loss(
                error, torch.zeros_like(error), delta=self.delta, reduction="none"
            )
        return (penalty * share.view(-1, *[1] * (error.ndim - 1))).sum()

    def extra_repr(self) -> str:
        learned = [name for name in ("energy", "forces", "stress") if getattr(self, name)]
        return f"{self.kind}, delta={self.delta:g}, learns {' '.join(learned)}"
