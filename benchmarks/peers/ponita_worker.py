"""One side of ``benchmarks/ponita.py``: the published PONITA or ours, in a process of its own.

Reads one JSON request per line from standard input and answers each with one line. Between requests
the process sleeps, so that sides can be measured in turns on the same cores, and each has its own
peak of memory.
"""

import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ANSWERS = os.fdopen(os.dup(1), "w")  # what libraries print must not mix with the answers
os.dup2(2, 1)
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from benchmarks.peers.ponita_official import make_official, prime
from equiv.graph.blocks import neighbor_blocks
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.radial import BesselBasis
from equiv.position_orientation import (
    Channels,
    LegendreKernel,
    OrientationNetwork,
    from_official_state_dict,
    orientation_grid,
)

MOLECULES, ATOMS, SPECIES, CHANNELS, BASIS, LAYERS = 32, 21, 5, 128, 256, 5
REACH = 12.0  # no pair is farther apart


def structures(dtype: torch.dtype = torch.float32) -> Batch:
    """Fully connected molecules of random atoms, about 1.5 Angstrom apart."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.tensor([(i, j) for i in range(ATOMS) for j in range(ATOMS) if i != j]).T
    graphs = []
    for _ in range(MOLECULES):
        positions = 1.6 * torch.randn(ATOMS, 3, generator=generator, dtype=torch.float64)
        kinds = torch.randint(SPECIES, (ATOMS,), generator=generator)
        x = torch.nn.functional.one_hot(kinds, SPECIES).to(dtype)
        graphs.append(Data(pos=positions.to(dtype), x=x, edge_index=pairs))
    return Batch.from_data_list(graphs)


class Side:
    """A network, its batch, and the four things that are timed."""

    def __init__(self, kind: str, grid: str, num: int | None, checkout: str) -> None:
        torch.manual_seed(0)
        self.kind, self.batch = kind, structures()
        self.grid = orientation_grid(grid, num)
        self.official: Any = None
        if kind != "legendre":
            self.official = make_official(
                checkout,
                points=self.grid.points,
                input_dim=SPECIES,
                hidden_dim=CHANNELS,
                output_dim=1,
                num_layers=LAYERS,
                num_ori=self.grid.num,
                basis_dim=BASIS,
                task_level="graph",
            )
            # A lazy layer wants to see data once; a few atoms do, and leave no peak of memory.
            prime(self.official, structures_small())
        if kind == "official":
            self.network = self.official
            return
        if kind == "polynomial":
            self.network = from_official_state_dict(
                self.official.state_dict(), self.grid.points, outputs=Channels(scalars=1)
            )
            self.official = None
        else:
            self.network = OrientationNetwork(
                grid=self.grid,
                kernel=LegendreKernel(4, BesselBasis(8, REACH, PolynomialCutoff(6))),
                inputs=Channels(scalars=SPECIES),
                outputs=Channels(scalars=1),
                channels=CHANNELS,
                layers=LAYERS,
                mean_neighbors=float(ATOMS - 1),
            )
        senders, receivers = self.batch.edge_index
        shifts = torch.zeros(senders.shape[0], 3)
        rows = MOLECULES * ATOMS
        self.neighbors, _ = neighbor_blocks(senders, receivers, shifts, rows)

    def energies(self, positions: Tensor) -> Tensor:
        if self.kind == "official":
            batch = self.batch.clone()
            batch.pos = positions
            return self.network(batch)[0]
        vectors = self.neighbors.differences(positions)
        out = self.network(vectors, self.neighbors, scalars=self.batch.x).scalars
        return out.view(MOLECULES, ATOMS).sum(1, keepdim=True)

    def forward(self) -> None:
        with torch.no_grad():
            self.energies(self.batch.pos)

    def energy_step(self) -> None:
        self.energies(self.batch.pos).square().mean().backward()

    def forces(self) -> None:
        positions = self.batch.pos.clone().requires_grad_()
        torch.autograd.grad(self.energies(positions).sum(), positions)

    def force_step(self) -> None:
        positions = self.batch.pos.clone().requires_grad_()
        energies = self.energies(positions)
        (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=True)
        (energies.square().mean() / 500 + gradient.square().mean()).backward()

    def run(self, case: str) -> dict[str, float]:
        """Milliseconds of the processor and of the clock."""
        self.network.zero_grad(set_to_none=True)
        start, cpu = time.perf_counter(), time.process_time()
        getattr(self, case)()
        return {
            "wall_ms": 1e3 * (time.perf_counter() - start),
            "cpu_ms": 1e3 * (time.process_time() - cpu),
        }


def structures_small() -> Batch:
    whole = structures()
    return Batch.from_data_list(whole.to_data_list()[:1])


def answer(request: dict[str, Any], sides: dict[str, Side]) -> dict[str, Any]:
    if request["do"] == "open":
        torch.set_num_threads(request["threads"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        side = Side(request["kind"], request["grid"], request["num"], request["checkout"])
        sides["it"] = side
        parameters = sum(p.numel() for p in side.network.parameters())
        return {"parameters": parameters, "start_gb": before}
    side = sides["it"]
    if request["do"] == "energies":
        with torch.no_grad():
            return {"energies": side.energies(side.batch.pos).flatten().tolist()}
    if request["do"] == "forces":
        positions = side.batch.pos.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(side.energies(positions).sum(), positions)
        return {"forces": (-gradient).flatten().tolist()}
    times = side.run(request["case"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**times, "peak_gb": peak}


def main() -> None:
    sides: dict[str, Side] = {}
    for line in sys.stdin:
        try:
            result = answer(json.loads(line), sides)
        except Exception:
            result = {"error": traceback.format_exc()}
        print(json.dumps(result), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
