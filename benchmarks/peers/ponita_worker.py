"""One side of ``benchmarks/ponita.py``: the published PONITA or ours, in a process of its own.

Reads one JSON request per line from standard input and answers each with one line. Between requests
the process sleeps, so that sides can be measured in turns on the same cores, and each has its own
peak of memory.
"""

import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MOLECULES, ATOMS, SPECIES, CHANNELS, BASIS, LAYERS = 32, 21, 5, 128, 256, 5
REACH = 12.0  # no pair is farther apart
GRID, WEIGHTS = "grid.safetensors", "weights.safetensors"


@dataclass
class Structures:
    """Fully connected molecules of random atoms, about 1.5 Angstrom apart."""

    positions: Tensor
    kinds: Tensor
    senders: Tensor
    receivers: Tensor

    @staticmethod
    def random(molecules: int = MOLECULES) -> "Structures":
        generator = torch.Generator().manual_seed(0)
        positions, kinds = [], []
        for _ in range(molecules):
            x = 1.6 * torch.randn(ATOMS, 3, generator=generator, dtype=torch.float64)
            z = torch.randint(SPECIES, (ATOMS,), generator=generator)
            positions.append(x.float())
            kinds.append(torch.nn.functional.one_hot(z, SPECIES).float())
        one = torch.tensor([(i, j) for i in range(ATOMS) for j in range(ATOMS) if i != j]).T
        pairs = torch.cat([one + ATOMS * k for k in range(molecules)], 1)
        return Structures(torch.cat(positions), torch.cat(kinds), *pairs)


class Side(ABC):
    """A network, its structures, and the four things that are timed.

    What a side needs of other packages it imports itself, so that no side carries those of another.
    """

    network: torch.nn.Module

    def __init__(self) -> None:
        self.structures = Structures.random()

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Build the network on the grid in a folder, where the published one leaves its weights."""

    @abstractmethod
    def energies(self, positions: Tensor) -> Tensor:
        """Of the molecules. Shape ``[molecules, 1]``."""

    def forward(self) -> None:
        with torch.no_grad():
            self.energies(self.structures.positions)

    def energy_step(self) -> None:
        self.energies(self.structures.positions).square().mean().backward()

    def forces(self) -> None:
        positions = self.structures.positions.clone().requires_grad_()
        torch.autograd.grad(self.energies(positions).sum(), positions)

    def force_step(self) -> None:
        positions = self.structures.positions.clone().requires_grad_()
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


class Official(Side):
    """The published network, from a checkout."""

    def __init__(self, checkout: str) -> None:
        from benchmarks.peers import ponita_official

        super().__init__()
        self.tools, self.checkout = ponita_official, checkout
        ponita_official.load_official(checkout)

    def make(self, folder: Path) -> None:
        points = load_file(folder / GRID)["points"]
        self.network = self.tools.make_official(
            self.checkout,
            points=points,
            input_dim=SPECIES,
            hidden_dim=CHANNELS,
            output_dim=1,
            num_layers=LAYERS,
            num_ori=points.shape[0],
            basis_dim=BASIS,
            task_level="graph",
        )
        # A lazy layer wants to see data once; a few atoms do, and leave no peak of memory.
        self.tools.prime(self.network, self.graph(Structures.random(1)))
        self.batch = self.graph(self.structures)
        state = {k: v.contiguous() for k, v in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)

    def graph(self, structures: Structures) -> Any:
        from torch_geometric.data import Batch, Data

        pairs = torch.stack([structures.senders, structures.receivers])
        within = [pairs[:, pairs[0] // ATOMS == k] - k * ATOMS for k in range(
            structures.positions.shape[0] // ATOMS
        )]  # fmt: skip
        parts = zip(
            structures.positions.split(ATOMS), structures.kinds.split(ATOMS), within, strict=True
        )
        return Batch.from_data_list([Data(pos=x, x=z, edge_index=e) for x, z, e in parts])

    def energies(self, positions: Tensor) -> Tensor:
        batch = self.batch.clone()
        batch.pos = positions
        return self.network(batch)[0]


class Ours(Side):
    """Our network, with the published kernel and weights or with the smooth kernel."""

    def __init__(self, kernel: str) -> None:
        import equiv.position_orientation

        super().__init__()
        self.kernel, self.tools = kernel, equiv.position_orientation

    def make(self, folder: Path) -> None:
        from equiv.graph.blocks import neighbor_blocks
        from equiv.nn.cutoff import PolynomialCutoff
        from equiv.nn.radial import BesselBasis

        tools, outputs = self.tools, self.tools.Channels(scalars=1)
        points = load_file(folder / GRID)["points"]
        if self.kernel == "polynomial":
            state = load_file(folder / WEIGHTS)
            self.network = tools.from_official_state_dict(state, points, outputs=outputs)
        else:
            self.network = tools.OrientationNetwork(
                grid=tools.OrientationGrid(points),
                kernel=tools.LegendreKernel(4, BesselBasis(8, REACH, PolynomialCutoff(6))),
                inputs=tools.Channels(scalars=SPECIES),
                outputs=outputs,
                channels=CHANNELS,
                layers=LAYERS,
                mean_neighbors=float(ATOMS - 1),
            )
        pairs = self.structures.senders, self.structures.receivers
        shifts = torch.zeros(pairs[0].shape[0], 3)
        self.neighbors, _ = neighbor_blocks(*pairs, shifts, MOLECULES * ATOMS)

    def energies(self, positions: Tensor) -> Tensor:
        vectors = self.neighbors.differences(positions)
        out = self.network(vectors, self.neighbors, scalars=self.structures.kinds).scalars
        return out.view(MOLECULES, ATOMS).sum(1, keepdim=True)


def answer(request: dict[str, Any], sides: dict[str, Side]) -> dict[str, Any]:
    if request["do"] == "open":
        torch.set_num_threads(request["threads"])
        torch.manual_seed(0)
        kind = request["kind"]
        side = sides["it"] = Official(request["checkout"]) if kind == "official" else Ours(kind)
        start = memory_gb()
        side.make(Path(request["folder"]))
        parameters = sum(p.numel() for p in side.network.parameters())
        return {"parameters": parameters, "start_gb": start}
    side = sides["it"]
    if request["do"] == "energies":
        with torch.no_grad():
            return {"energies": side.energies(side.structures.positions).flatten().tolist()}
    if request["do"] == "forces":
        positions = side.structures.positions.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(side.energies(positions).sum(), positions)
        return {"forces": (-gradient).flatten().tolist()}
    return {**side.run(request["case"]), "peak_gb": memory_gb()}


def memory_gb() -> float:
    """The most memory that the process has had so far.

    Linux only. What ``getrusage`` says has a lower bound: the memory of whoever started the worker.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # what libraries print must not mix with the answers
    os.dup2(2, 1)
    sides: dict[str, Side] = {}
    for line in sys.stdin:
        try:
            result = answer(json.loads(line), sides)
        except Exception:
            result = {"error": traceback.format_exc()}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
