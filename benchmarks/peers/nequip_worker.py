"""NequIP's side of ``benchmarks/mace.py``, run by the Python of its own environment.

A NequIP with as many channels as the MACE it stands beside, and otherwise the layers (4) and degree
(2) that its documentation calls best, compiled the way NequIP compiles for training. It is another
model: only the time is compared. The protocol is that of ``mace_torch_worker.py``.
"""

import json
import os
import sys
import time
import warnings
from typing import Any

warnings.filterwarnings("ignore")

import ase.io
import torch
from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


class Session:
    """One model on one set of structures."""

    def __init__(
        self, structures: str, numbers: list[int], channels: int, cutoff: float, neighbors: float,
        dtype: str, variant: str, threads: int,
    ) -> None:  # fmt: skip
        set_global_state()
        torch.set_num_threads(threads)
        symbols = [ase.data.chemical_symbols[z] for z in numbers]
        frames = ase.io.read(structures, index=":")
        # NequIP runs a single structure without its compiler; two copies take twice the time.
        self.copies = 2 if len(frames) == 1 else 1
        graphs = []
        for atoms in frames * self.copies:
            data = compute_neighborlist_(from_ase(atoms), r_max=cutoff)
            types = [numbers.index(z) for z in atoms.numbers]
            data[AtomicDataDict.ATOM_TYPE_KEY] = torch.tensor(types)
            graphs.append(data)
        batch = AtomicDataDict.batched_from_list(graphs)
        precision = getattr(torch, dtype)
        self.batch = {
            key: value.to(precision) if torch.is_floating_point(value) else value
            for key, value in batch.items()
            if torch.is_tensor(value)
        }
        self.model = NequIPGNNModel(
            seed=0,
            model_dtype=dtype,
            compile_mode="compile" if variant == "compiled" else "eager",
            type_names=symbols,
            r_max=cutoff,
            num_layers=4,
            l_max=2,
            parity=False,
            num_features=channels,
            radial_mlp_depth=1,
            radial_mlp_width=128,
            avg_num_neighbors=neighbors,
            per_type_energy_scales=dict.fromkeys(symbols, 1.0),
            per_type_energy_shifts=dict.fromkeys(symbols, 0.0),
        )
        self.optimizer: torch.optim.Optimizer | None = None
        self.model.eval()

    def energy_and_forces(self) -> dict[str, torch.Tensor]:
        return self.model(dict(self.batch))

    def training_step(self) -> None:
        if self.optimizer is None:
            self.model.train()
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0, amsgrad=True)
        self.optimizer.zero_grad(set_to_none=True)
        out = self.model(dict(self.batch))
        energy = out[AtomicDataDict.TOTAL_ENERGY_KEY].square().mean()
        forces = out[AtomicDataDict.FORCE_KEY].square().mean()
        (energy + 100.0 * forces).backward()
        self.optimizer.step()

    def time(self, task: str, steps: int) -> dict:
        """Milliseconds per evaluation or training step."""
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.energy_and_forces() if task == "forces" else self.training_step()
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        steps *= self.copies
        return {"ms": 1e3 * wall / steps, "cpu_ms": 1e3 * cpu / steps}


def main() -> None:
    session: Session | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        action = request.pop("do")
        try:
            if action == "open":
                session, answer = Session(**request), {}
            else:
                answer = getattr(session, action)(**request)
        except Exception as error:  # reported to the other side, which decides
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}
        print(json.dumps(answer), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
