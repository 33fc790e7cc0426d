"""A few training steps of a small SPHNet, alone or as one of several processes (test_ranks.py).

python ranked_training.py RANK PROCESSES MEETING_FILE OUTPUT.json
"""

import json
import sys

import torch
import torch.distributed as dist

from equiv.hamiltonian import BlockLayout, OrbitalBasis
from equiv.models import SPHNet

MOLECULES, STEPS = 4, 9
NUMBERS = torch.tensor([8, 1, 1])
BASIS = OrbitalBasis("sto-3g", {1: (0,), 8: (0, 0, 1)})


class Batch:
    """Molecules side by side."""

    def __init__(self, molecules):
        count = len(molecules)
        self.numbers = NUMBERS.repeat(count)
        self.positions = torch.cat([positions for positions, _ in molecules])
        batch = torch.arange(count).repeat_interleave(3)
        self.layout = BlockLayout.build(BASIS, self.numbers, batch)
        self.targets = torch.tensor([target for _, target in molecules], dtype=torch.float64)


def molecules():
    g = torch.Generator().manual_seed(0)
    return [
        (torch.randn(3, 3, generator=g, dtype=torch.float64), target) for target in range(MOLECULES)
    ]


def mean_over_ranks(parameters, processes):
    """What DistributedDataParallel does to gradients."""
    for parameter in parameters:
        if processes > 1 and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= processes


def main(rank, processes, meeting, output):
    if processes > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes
        )
    mine = Batch(molecules()[rank::processes])
    torch.manual_seed(0)
    model = SPHNet(
        BASIS, channels=4, hidden=8, vectorial_layers=0, sparsity=0.6, random_until=3,
        fixed_from=6, mean_neighbors=2.0,
    ).double()  # fmt: skip
    with torch.no_grad():
        for other in (g for g in model.gates if hasattr(g, "selection")):
            # A path that is alone at its output has no gradient: equal scores would tie.
            other.scores.add_(0.1 * torch.rand(len(other.scores)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # Adam's first steps tie scores
    torch.manual_seed(rank)  # global random states differ; selections must not
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        diagonal, pairs = model.train().features(mine)
        size = diagonal.square().sum((1, 2)) + 0.1 * diagonal[:, 0].sum(-1)
        per_molecule = size.unflatten(0, (-1, 3)).sum(1) + pairs.square().sum((1, 2)).unflatten(
            0, (-1, 3)
        ).sum(1)
        (per_molecule - mine.targets).square().mean().backward()
        mean_over_ranks(model.parameters(), processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.advance(step + 1)
        found.append([g.selection for g in model.gates if hasattr(g, "selection")])
    with open(output, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
