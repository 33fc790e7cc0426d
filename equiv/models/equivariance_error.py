r"""How well a potential keeps a symmetry that it need not keep by construction."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import ase
import torch
from torch import Tensor

from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate
from equiv.so3 import random_rotations

if TYPE_CHECKING:
    from equiv.models.interface import Model


@dataclass(frozen=True)
class EquivarianceError:
    r"""Errors under rotations, root mean squares over structures and rotations.

    Attributes:
        structures: how many.
        rotations: how many for each.
        energy: :math:`E(Rx) - E(x)`, eV.
        energy_spread: standard deviation of the energies per atom times the mean number of atoms,
            eV; 0 for a single structure.
        forces: :math:`R^{-1} F(Rx) - F(x)` per component, eV/Angstrom.
        forces_size: root mean square of a component of the forces, eV/Angstrom.
        torque: :math:`|\sum_i (r_i - \bar r) \times F_i|`, eV; NaN if all structures are periodic,
            for which it means nothing.
        torque_relative: the same over :math:`\sum_i |(r_i - \bar r) \times F_i|`; likewise.
    """

    structures: int
    rotations: int
    energy: float
    energy_spread: float
    forces: float
    forces_size: float
    torque: float
    torque_relative: float

    @property
    def energy_relative(self) -> float:
        """Energy error over the spread of the energies; NaN for a single structure."""
        return self.energy / self.energy_spread if self.energy_spread > 0 else float("nan")

    @property
    def forces_relative(self) -> float:
        """Force error over the size of the forces."""
        return self.forces / self.forces_size if self.forces_size > 0 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; what is not defined is None."""
        values = asdict(self) | {
            "energy_relative": self.energy_relative,
            "forces_relative": self.forces_relative,
        }
        return {key: None if value != value else value for key, value in values.items()}

    def __str__(self) -> str:
        of_spread = f" ({_percent(self.energy_relative)} of their spread)"
        of_torques = f" ({_percent(self.torque_relative)})"
        return (
            f"energies {1e3 * self.energy:.2g} meV{of_spread if self.energy_spread > 0 else ''}, "
            f"forces {1e3 * self.forces:.2g} meV/A ({_percent(self.forces_relative)}), net torque "
            + ("none: periodic" if self.torque != self.torque else f"{1e3 * self.torque:.2g} meV")
            + (of_torques if self.torque == self.torque else "")
        )


def equivariance_error(
    model: "Model",
    structures: ase.Atoms | Sequence[ase.Atoms],
    *,
    rotations: int = 8,
    seed: int = 0,
) -> EquivarianceError:
    r"""Turn structures at random and see how much predictions fail to turn with them.

    .. math::
        E(R x) = E(x), \qquad F(R x) = R\, F(x), \qquad \sum_i r_i \times F_i = 0

    hold exactly for models that are invariant by construction, and measure rounding there. The
    third is the first for infinitely small rotations: what it is off by drives the angular
    momentum of molecular dynamics.

    Cost: ``rotations`` + 1 evaluations of every structure.

    Args:
        model: any potential, on any device, in any precision.
        structures: what to turn; several give the energies a spread to compare with.
        rotations: random rotations of each structure.
        seed: of the rotations.

    Raises:
        EquivError: there are no structures or no rotations.
    """
    frames = [structures] if isinstance(structures, ase.Atoms) else list(structures)
    frames = [atoms for atoms in frames if len(atoms)]
    if not frames or rotations < 1:
        raise EquivError(
            "equivariance_error needs at least one structure with atoms and one rotation, got "
            f"{len(frames)} and {rotations}"
        )
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.eval()
    energy = forces = torques = relative = finite = 0.0
    energies, squares, components = [], 0.0, 0
    try:
        for atoms in frames:
            e, f = _predict(model, [atoms])
            turns = random_rotations(rotations, generator=generator)
            turned_e, turned_f = _predict(model, [_turned(atoms, q) for q in turns])
            back = turned_f.view(rotations, -1, 3) @ turns
            energy += float((turned_e - e).square().mean())
            forces += float((back - f).square().sum()) / rotations
            squares += float(f.square().sum())
            components += f.numel()
            energies.append(float(e) / len(atoms))
            if not atoms.pbc.any():
                x = torch.as_tensor(atoms.positions)
                torque = torch.linalg.cross(x - x.mean(0), f)
                net, size = float(torque.sum(0).norm()), float(torque.norm(dim=1).sum())
                torques += net**2
                relative += (net / size) ** 2 if size > 0 else 0.0
                finite += 1
    finally:
        model.train(training)
    mean_atoms = sum(map(len, frames)) / len(frames)
    per_atom = torch.tensor(energies, dtype=torch.float64)
    return EquivarianceError(
        structures=len(frames),
        rotations=rotations,
        energy=(energy / len(frames)) ** 0.5,
        energy_spread=float(per_atom.std(correction=0)) * mean_atoms,
        forces=(forces / components) ** 0.5,
        forces_size=(squares / components) ** 0.5,
        torque=(torques / finite) ** 0.5 if finite else float("nan"),
        torque_relative=(relative / finite) ** 0.5 if finite else float("nan"),
    )


def _turned(atoms: ase.Atoms, rotation: Tensor) -> ase.Atoms:
    q, turned = rotation.numpy(), atoms.copy()
    turned.set_cell(atoms.cell.array @ q.T)
    turned.positions = atoms.positions @ q.T
    return turned


def _predict(model: "Model", frames: Sequence[ase.Atoms]) -> tuple[Tensor, Tensor]:
    """Energies and forces, in float64 on the CPU."""
    batch = collate([AtomGraph.from_atoms(atoms, model.cutoff) for atoms in frames])
    prediction = model(batch.to(model.device), forces=True)
    assert prediction.forces is not None
    return prediction.energy.double().cpu(), prediction.forces.double().cpu()


def _percent(x: float) -> str:
    return f"{100 * x:.2g} %"
