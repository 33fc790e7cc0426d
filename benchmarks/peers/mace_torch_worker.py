"""mace-torch's side of ``benchmarks/mace.py``, run by the Python of its own environment.

Reads one JSON request per line from standard input and answers each with one line. Between
requests the process sleeps, so that two sides can be measured in turns on the same cores.
"""

import os

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

import json
import logging
import sys
import time
import warnings
from typing import Any

warnings.filterwarnings("ignore")

import ase.io
import numpy as np
import torch
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from e3nn import o3
from mace import data, modules, tools
from mace.calculators import MACECalculator
from mace.tools import torch_geometric

ANSWERS = os.fdopen(os.dup(1), "w")  # what the libraries print must not mix with the answers
os.dup2(2, 1)
logging.disable(logging.CRITICAL)


def create(path: str, numbers: list[int], hidden: str, cutoff: float, neighbors: float) -> dict:
    """Save a ``ScaleShiftMACE`` with random weights, as ``mace_run_train`` would save it."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    residual = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=residual,
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=neighbors,
        atomic_numbers=numbers,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    torch.save(model, path)
    return {"parameters": sum(p.numel() for p in model.parameters())}


class Session:
    """One model on one set of structures, in one of mace-torch's execution modes."""

    def __init__(self, path: str, structures: str, dtype: str, variant: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.calculator = MACECalculator(
            model_paths=path,
            device="cpu",
            default_dtype=dtype,
            compile_mode="default" if variant == "compiled" else None,
            enable_cueq=variant == "cuequivariance",
        )
        self.compiled = variant == "compiled"
        self.model = self.calculator.models[0]
        self.frames = ase.io.read(structures, index=":")
        z_table = tools.AtomicNumberTable([int(z) for z in self.calculator.z_table.zs])
        graphs = [
            data.AtomicData.from_config(
                data.config_from_atoms(atoms), z_table=z_table, cutoff=self.calculator.r_max
            )
            for atoms in self.frames
        ]
        loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs))
        self.batch = next(iter(loader)).to_dict()
        self.batch["positions"].requires_grad_(self.compiled)
        self.batch["node_attrs"].requires_grad_(self.compiled)
        self.optimizer: torch.optim.Optimizer | None = None

    def energy_and_forces(self) -> dict[str, torch.Tensor]:
        return self.model(self.batch, training=self.compiled, compute_force=True)

    def training_step(self) -> None:
        if self.optimizer is None:
            for parameter in self.model.parameters():
                parameter.requires_grad_(True)
            self.model.train()
            # A rate of zero: the arithmetic of a step, and a model that stays where it is.
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0, amsgrad=True)
            out = self.model(self.batch, training=True, compute_force=True)
            self.target = (0.9 * out["energy"].detach(), 0.9 * out["forces"].detach())
        self.optimizer.zero_grad(set_to_none=True)
        out = self.model(self.batch, training=True, compute_force=True)
        energy = (out["energy"] - self.target[0]).square().mean()
        forces = (out["forces"] - self.target[1]).square().mean()
        (energy + 100.0 * forces).backward()
        self.optimizer.step()

    def dynamics(self, steps: int) -> None:
        self.integrator.run(steps)

    def prepare_dynamics(self) -> None:
        atoms = self.frames[0].copy()
        atoms.calc = self.calculator
        MaxwellBoltzmannDistribution(atoms, temperature_K=100, rng=np.random.default_rng(0))
        self.integrator = VelocityVerlet(atoms, 0.1 * units.fs)

    def predict(self, results: str) -> dict:
        out = self.energy_and_forces()
        np.savez(
            results,
            energy=out["energy"].detach().double().numpy(),
            forces=out["forces"].detach().double().numpy(),
        )
        return {}

    def time(self, task: str, steps: int) -> dict:
        """Milliseconds per evaluation, training step or step of dynamics."""
        if task == "dynamics" and not hasattr(self, "integrator"):
            self.prepare_dynamics()
        start, start_cpu = time.perf_counter(), time.process_time()
        if task == "dynamics":
            self.dynamics(steps)
        else:
            for _ in range(steps):
                self.energy_and_forces() if task == "forces" else self.training_step()
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        return {"ms": 1e3 * wall / steps, "cpu_ms": 1e3 * cpu / steps}


def main() -> None:
    session: Session | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        action = request.pop("do")
        try:
            if action == "create":
                answer = create(**request)
            elif action == "open":
                session, answer = Session(**request), {}
            else:
                answer = getattr(session, action)(**request)
        except Exception as error:  # reported to the other side, which decides
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}
        print(json.dumps(answer), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
