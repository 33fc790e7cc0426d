"""A potential as somebody else would write it, and one broken copy for every law."""

from typing import ClassVar

import torch
from torch import nn

from equiv.models import Model


class ToyModel(Model):
    """Pairs with a smooth cutoff, inside an embedding function of the local density."""

    name: ClassVar[str] = "toy"

    def __init__(self, elements=(1, 6, 8), cutoff=3.0):
        super().__init__(elements, cutoff)
        self.recipe = {"elements": list(elements), "cutoff": cutoff}
        self.charge = nn.Parameter(torch.linspace(0.6, 1.4, len(elements)))
        self.depth = nn.Parameter(torch.tensor(1.3))

    def radial(self, r):
        return (1 - r / self.cutoff).clamp(min=0) ** 3 * torch.exp(-r)

    def atomic_energies(self, batch, vectors, species):
        vectors = vectors.to(self.dtype)
        r = torch.linalg.vector_norm(vectors, dim=-1)
        q = self.charge[species]
        pairs = self.radial(r) * q[batch.senders] * q[batch.receivers]
        density = pairs.new_zeros(len(species)).index_add(0, batch.receivers, pairs)
        energies = density - self.depth * torch.log1p(density**2)
        return self.finish(energies, batch, vectors, r).double()

    def finish(self, energies, batch, vectors, r):
        return energies


class PrefersAnAxis(ToyModel):
    def finish(self, energies, batch, vectors, r):
        return energies.index_add(0, batch.receivers, 0.01 * self.radial(r) * vectors[:, 2] ** 2)


class IsChiral(ToyModel):
    def finish(self, energies, batch, vectors, r):
        moments = [
            torch.zeros(len(energies), 3, dtype=energies.dtype).index_add(
                0, batch.receivers, (self.radial(r) * r**k)[:, None] * vectors
            )
            for k in range(3)
        ]
        return energies + 3.0 * torch.linalg.det(torch.stack(moments, 1))


class KnowsWhereItStands(ToyModel):
    def finish(self, energies, batch, vectors, r):
        return energies + 1e-3 * batch.positions[:, 0]


class CountsItsAtoms(ToyModel):
    def finish(self, energies, batch, vectors, r):
        first = torch.bincount(batch.batch, minlength=batch.num_graphs).cumsum(0)
        first = torch.cat([first.new_zeros(1), first[:-1]])
        place = torch.arange(len(energies)) - first[batch.batch]
        return energies * (1 + 0.01 * place)


class SeesTheWholeBatch(ToyModel):
    def finish(self, energies, batch, vectors, r):
        return energies + 1e-3 * energies.sum().detach()


class LosesEnergy(ToyModel):
    def forward(self, batch, **choice):
        prediction = super().forward(batch, **choice)
        prediction.energy = 1.001 * prediction.energy
        return prediction


class PushesTooHard(ToyModel):
    def forward(self, batch, *, forces=True, **choice):
        prediction = super().forward(batch, forces=forces, **choice)
        if forces:
            prediction.forces = 1.001 * prediction.forces
        return prediction


class PressesTooHard(ToyModel):
    def forward(self, batch, *, stress=False, **choice):
        prediction = super().forward(batch, stress=stress, **choice)
        if stress:
            prediction.virials = 1.001 * prediction.virials
        return prediction


class ForgetsTheVolume(ToyModel):
    def forward(self, batch, *, stress=False, **choice):
        prediction = super().forward(batch, stress=stress, **choice)
        if stress:
            prediction.stress = -prediction.virials
        return prediction


class LearnsTheWrongWay(ToyModel):
    def finish(self, energies, batch, vectors, r):
        return energies * (2 * self.depth.detach() - self.depth) / self.depth.detach()


class CannotLearn(ToyModel):
    def forward(self, batch, **choice):
        self.requires_grad_(False)
        prediction = super().forward(batch, **choice)
        self.requires_grad_(True)
        return prediction


class EndsAbruptly(ToyModel):
    def radial(self, r):
        return torch.where(r < self.cutoff, torch.exp(-r), torch.zeros_like(r))


class HasAKink(ToyModel):
    def radial(self, r):
        return (1 - r / self.cutoff).clamp(min=0) * torch.exp(-r)


class CancelsDigits(ToyModel):
    def finish(self, energies, batch, vectors, r):
        return (energies + 1e5) - 1e5


class KeepsSomethingBack(ToyModel):
    hidden = 1.0

    def finish(self, energies, batch, vectors, r):
        return energies * self.hidden


class IsNotExtensive(ToyModel):
    def finish(self, energies, batch, vectors, r):
        sizes = torch.bincount(batch.batch, minlength=batch.num_graphs)
        return energies * (1 + 0.01 / sizes[batch.batch])


class RemembersTheLastCall(ToyModel):
    calls = 0

    def finish(self, energies, batch, vectors, r):
        self.calls += 1
        return energies * (1 + 1e-6 * self.calls)


class EditsItsInput(ToyModel):
    def forward(self, batch, **choice):
        batch.positions = batch.positions - batch.positions.mean(0)
        return super().forward(batch, **choice)


class GivesNan(ToyModel):
    def finish(self, energies, batch, vectors, r):
        # the square root has no slope at zero: isolated atoms have no finite forces
        return energies + torch.sqrt(energies.detach() * 0 + self.radial(r).sum() * 0)


class DoesNothing(ToyModel):
    def finish(self, energies, batch, vectors, r):
        return 0 * energies
