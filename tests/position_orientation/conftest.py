import pytest
import torch

from equiv.graph.blocks import neighbor_blocks


class Cluster:
    """Atoms that all see each other, in float64."""

    def __init__(self, atoms=6, seed=0, dim=3):
        self.generator = torch.Generator().manual_seed(seed)
        self.atoms = atoms
        self.positions = 1.5 * self.normal(atoms, dim)
        pairs = [(i, j) for i in range(atoms) for j in range(atoms) if i != j]
        self.senders, self.receivers = torch.tensor(pairs).T.contiguous()
        shifts = torch.zeros(len(pairs), 3)
        self.neighbors, _ = neighbor_blocks(self.senders, self.receivers, shifts, atoms)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def vectors(self, positions=None):
        return self.neighbors.differences(self.positions if positions is None else positions)


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def make_cluster():
    return Cluster
