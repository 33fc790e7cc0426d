r"""mace-torch's weights here and there: equal numbers, and the time each takes.

    python benchmarks/mace.py [--quick | --all] [--peer-python PYTHON] [--nequip-python PYTHON]

Each model is made by mace-torch 0.3.16 in a virtual environment of its own (installed under
``build/peers`` at the first run unless ``--peer-python`` names one), converted by ``equiv convert``
and compared there and here in float64. Then both sides are measured in float32 on the same cores
in turns: one waits while the other computes, and medians of the turns are reported. Tasks: energy
and forces; a training step (energy and forces loss, backward, Adam); a step of molecular dynamics
in ASE, neighbour list included. Ours is measured as it is and compiled, and the faster counts.

Beside mace-torch as it comes (``mace-torch``) stand its compiled form (``mace-torch compiled``),
cuEquivariance without a GPU (``mace-torch cuequivariance``) and a NequIP with as many channels, 4
layers and degree 2, compiled (``nequip compiled``).

The second part is the growth of cost: time per atom and peak memory from 64 to 10,648 silicon
atoms. Writes ``results/mace.json`` and ``results/mace.png``.
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import matplotlib
import numpy as np
import torch
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from peers.worker import Peer, PeerError, peer_python
from structures import SYSTEMS, silicon

import equiv
from equiv.data import Frame
from equiv.graph import AtomGraph, collate
from equiv.models import Prediction
from equiv.train.loss import EnergyForcesStressLoss, LossWeights
from equiv.train.step import CompiledStep, EagerStep

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WORKERS = {"mace-torch": "mace_torch_worker.py", "nequip": "nequip_worker.py"}
CUTOFF = 5.0
# The same for every model, so that compiled code serves all systems.
ELEMENTS, NEIGHBORS = [1, 6, 8, 14], 30.0
TASKS = ("forces", "training", "dynamics")
HIDDEN = ("128x0e", "64x0e+64x1o", "128x0e+128x1o")
OURS = {"equiv": "off", "equiv compiled": "on"}
GROWTH = (2, 3, 4, 5, 6, 8, 9, 11)  # cells per edge of silicon: 64 to 10,648 atoms


@dataclass(frozen=True)
class Case:
    """What is measured: one model on one system with one number of threads."""

    system: str
    hidden: str
    threads: int
    peers: tuple[str, ...] = ("mace-torch",)


def cases(quick: bool, everything: bool) -> list[Case]:
    """What is measured; the peers that are slow to start on the box of water only."""
    water, single, both = "water, 192 atoms", ("mace-torch",), ("mace-torch", "mace-torch compiled")
    middle = "64x0e+64x1o"
    if quick:
        return [Case(water, middle, 2, both)]
    plan = [Case(system, middle, 2, both if system == water else single) for system in SYSTEMS]
    plan += [Case(water, hidden, 2) for hidden in HIDDEN if hidden != middle]
    others = (*both, "mace-torch cuequivariance", "nequip compiled")
    plan += [Case(water, middle, 1, others), Case("molecule, 15 atoms", middle, 1)]
    if everything:
        known = {(case.system, case.hidden, case.threads) for case in plan}
        plan += [
            Case(*key) for key in itertools.product(SYSTEMS, HIDDEN, (1, 2)) if key not in known
        ]
    return plan


class Ours:
    """The converted model on the same structures, as it is or compiled."""

    def __init__(
        self, path: Path, frames: list[ase.Atoms], threads: int, dtype: torch.dtype, mode: str
    ) -> None:
        torch.set_num_threads(threads)
        self.path, self.frames, self.mode = path, frames, mode
        self.model = equiv.load_model(path).to(dtype)
        self.model.compile(mode)
        graphs = [AtomGraph.from_atoms(atoms, self.model.cutoff) for atoms in frames]
        self.batch = collate(graphs)
        self.step: Any = None
        self.integrator: VelocityVerlet | None = None

    def energy_and_forces(self) -> Prediction:
        return self.model.eval()(self.batch)

    def training_step(self) -> None:
        if self.step is None:
            self.prepare_training()
        self.step(self.labelled, LossWeights(1.0, 100.0, 0.0))
        self.optimizer.step()

    def prepare_training(self) -> None:
        model = equiv.load_model(self.path).to(self.model.dtype)
        prediction = self.energy_and_forces()
        start, labelled = 0, []
        for index, atoms in enumerate(self.frames):
            rows = slice(start, start := start + len(atoms))
            labels = Frame(
                atoms,
                index=index,
                energy=0.9 * prediction.energy[index].item(),
                forces=0.9 * prediction.forces[rows].double().numpy(),
                stress=None,
                source=Path("benchmark"),
            )
            labelled.append(AtomGraph.from_atoms(atoms, model.cutoff, labels=labels))
        self.labelled = collate(labelled)
        # A rate of zero: the arithmetic of a step, and a model that stays where it is.
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.0, amsgrad=True)
        loss = EnergyForcesStressLoss("mse", delta=1.0, energy=True, forces=True, stress=False)
        eager = EagerStep(model, loss)
        self.step = CompiledStep(eager, self.labelled, print) if self.mode == "on" else eager

    def dynamics(self, steps: int) -> None:
        if self.integrator is None:
            atoms = self.frames[0].copy()
            dtype = str(self.model.dtype).removeprefix("torch.")
            atoms.calc = equiv.EquivCalculator(self.path, dtype=dtype, compile=self.mode)
            MaxwellBoltzmannDistribution(atoms, temperature_K=100, rng=np.random.default_rng(0))
            self.integrator = VelocityVerlet(atoms, 0.1 * units.fs)
        self.integrator.run(steps)

    def time(self, task: str, steps: int) -> float:
        """Milliseconds per evaluation, training step or step of dynamics."""
        start = time.perf_counter()
        if task == "dynamics":
            self.dynamics(steps)
        else:
            for _ in range(steps):
                self.energy_and_forces() if task == "forces" else self.training_step()
        return 1e3 * (time.perf_counter() - start) / steps


class Bench:
    """Runs the cases and collects rows."""

    def __init__(self, pythons: dict[str, Path | str], place: Path, rounds: int) -> None:
        self.pythons, self.place, self.rounds = pythons, place, rounds
        self.rows: list[dict[str, Any]] = []

    def run(self, case: Case) -> None:
        frames = SYSTEMS[case.system]()
        structures = self.place / "structures.xyz"
        ase.io.write(structures, frames)
        source, target = self.place / "model.model", self.place / "model.safetensors"
        with self.peer("mace-torch", 1) as peer:
            peer.ask(
                "create",
                path=str(source),
                numbers=ELEMENTS,
                hidden=case.hidden,
                cutoff=CUTOFF,
                neighbors=NEIGHBORS,
            )
            difference = self.compare(peer, source, structures, target, frames)
        ours = {
            name: Ours(target, frames, case.threads, torch.float32, mode)
            for name, mode in OURS.items()
        }
        workers: dict[str, Peer] = {}
        for name in case.peers:
            package, _, variant = name.partition(" ")
            workers[name] = worker = self.peer(package, case.threads)
            request: dict[str, Any] = {
                "structures": str(structures),
                "dtype": "float32",
                "variant": variant or "eager",
                "threads": case.threads,
            }
            if package == "mace-torch":
                request["path"] = str(source)
            else:
                request |= {
                    "numbers": ELEMENTS,
                    "channels": int(case.hidden.partition("x")[0]),
                    "cutoff": CUTOFF,
                    "neighbors": NEIGHBORS,
                }
            worker.ask("open", **request)
        try:
            for task in TASKS:
                if task == "dynamics" and len(frames) > 1:
                    continue
                self.measure(case, task, ours, workers, difference)
        finally:
            for worker in workers.values():
                worker.close()

    def peer(self, package: str, threads: int) -> Peer:
        return Peer(self.pythons[package], HERE / "peers" / WORKERS[package], threads)

    def compare(
        self, peer: Peer, source: Path, structures: Path, target: Path, frames: list[ase.Atoms]
    ) -> float:
        """Convert the model; the largest difference of a force in float64, eV/Angstrom."""
        convert(source, target)
        results = self.place / "peer.npz"
        peer.ask(
            "open",
            path=str(source),
            structures=str(structures),
            dtype="float64",
            variant="eager",
            threads=1,
        )
        peer.ask("predict", results=str(results))
        theirs = np.load(results)
        prediction = Ours(target, frames, 1, torch.float64, "off").energy_and_forces()
        difference = np.abs(prediction.forces.detach().numpy() - theirs["forces"]).max()
        energy = np.abs(prediction.energy.detach().numpy() - theirs["energy"]).max()
        scale = max(1.0, np.abs(theirs["forces"]).max())
        if not (difference < 1e-7 * scale and energy / len(frames[0]) < 1e-8 * scale):
            raise SystemExit(f"numbers differ: energy {energy:g} eV, forces {difference:g} eV/A")
        return float(difference)

    def measure(
        self,
        case: Case,
        task: str,
        ours: dict[str, Ours],
        workers: dict[str, Peer],
        difference: float,
    ) -> None:
        times: dict[str, list[float]] = {name: [] for name in (*ours, *workers)}

        def turn(name: str, steps: int) -> float:
            if name in ours:
                return ours[name].time(task, steps)
            return workers[name].ask("time", task=task, steps=steps)["ms"]

        steps = {}
        for name in list(times):
            try:
                for _ in range(3):  # compilers and TorchScript's profiler need a few calls
                    warm = turn(name, 1)
            except PeerError as error:
                print(f"  {name}: {task} not possible: {error}", flush=True)
                del times[name]
                continue
            steps[name] = max(1, math.ceil(400.0 / warm))
        for _ in range(self.rounds):
            for name in times:
                times[name].append(turn(name, steps[name]))
        medians = {name: statistics.median(values) for name, values in times.items()}
        best = min(ours, key=lambda name: medians[name])
        for name in [name for name in workers if name in medians]:
            row = {
                "system": case.system,
                "model": case.hidden,
                "task": task,
                "threads": case.threads,
                "ours_ms": medians[best],
                "ours": best,
                **{f"{name}_ms": medians[name] for name in ours},
                "peer": name,
                "peer_ms": medians[name],
                "ratio": medians[name] / medians[best],
                "max_force_difference": difference if name == "mace-torch" else None,
            }
            self.rows.append(row)
            print(
                f"{case.system:25}{case.hidden:15}{task:10}{case.threads:2} threads"
                f"  equiv{medians['equiv']:9.1f} ms, compiled{medians['equiv compiled']:9.1f} ms"
                f"  {name}{row['peer_ms']:10.1f} ms{row['ratio']:7.1f}x",
                flush=True,
            )


def convert(source: Path, target: Path) -> None:
    """What a user does: ``equiv convert model.model -o model.safetensors --trust``."""
    command = [sys.executable, "-m", "equiv.cli.main", "convert", source, "-o", target, "--trust"]
    target.unlink(missing_ok=True)
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def growth(path: Path) -> list[dict[str, Any]]:
    """Time per atom and peak memory of energy and forces against the number of atoms."""
    rows = []
    for cells in GROWTH:
        command = [sys.executable, str(Path(__file__)), "--grow", str(cells), "--model", str(path)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(
            f"silicon {rows[-1]['atoms']:6} atoms{rows[-1]['ms']:12.1f} ms"
            f"{1e3 * rows[-1]['ms'] / rows[-1]['atoms']:8.1f} us/atom"
            f"{rows[-1]['peak_gb']:7.2f} GB",
            flush=True,
        )
    return rows


def grow(cells: int, path: Path) -> None:
    """One point of :func:`growth`, in a process of its own for the sake of its peak memory."""
    import resource

    ours = Ours(path, silicon(cells), 1, torch.float32, "on")
    for _ in range(2):
        ours.energy_and_forces()
    times = [ours.time("forces", 1) for _ in range(5)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    atoms = len(ours.frames[0])
    print(json.dumps({"atoms": atoms, "ms": statistics.median(times), "peak_gb": peak}))


def slope(rows: list[dict[str, Any]]) -> float:
    """Exponent of the time in the number of atoms, by least squares in the logarithms."""
    x, y = np.log([r["atoms"] for r in rows]), np.log([r["ms"] for r in rows])
    return float(np.polyfit(x, y, 1)[0])


def plot(rows: list[dict[str, Any]], points: list[dict[str, Any]], path: Path) -> None:
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 0.22 * len(rows) + 2.4), layout="constrained", width_ratios=(2, 1)
    )
    ordered = sorted(rows, key=lambda r: (r["peer"], r["task"], r["threads"], r["system"]))[::-1]
    colors = dict(zip(sorted({r["peer"] for r in rows}), plt.cm.tab10.colors, strict=False))
    labels = [
        f"{r['task']}, {r['system']}, {r['model']}, {r['threads']} thread{'s'[: r['threads'] - 1]}"
        for r in ordered
    ]
    left.barh(range(len(ordered)), [r["ratio"] for r in ordered],
              color=[colors[r["peer"]] for r in ordered])  # fmt: skip
    left.set_yticks(range(len(ordered)), labels, fontsize=6.5)
    for y, row in enumerate(ordered):
        left.annotate(f" {row['ratio']:.1f}", (row["ratio"], y), va="center", fontsize=6.5)
    left.axvline(1.0, color="0.3", lw=0.8)
    left.set_xlabel("time of the peer / time of equiv")
    left.set_ylim(-0.7, len(ordered) - 0.3)
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    left.legend(handles, list(colors), fontsize=7, loc="lower right")
    if points:
        atoms = [p["atoms"] for p in points]
        right.loglog(atoms, [p["ms"] for p in points], "o-", color="#1f6f8b")
        right.set_title(f"energy and forces of silicon, slope {slope(points):.2f}", fontsize=9)
        right.set_xlabel("atoms")
        right.set_ylabel("ms", color="#1f6f8b")
        memory = right.twinx()
        memory.loglog(atoms, [p["peak_gb"] for p in points], "s--", color="#c0504d")
        memory.set_ylabel("peak memory of the process, GB", color="#c0504d")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one system, one model, two threads")
    parser.add_argument("--all", action="store_true", help="every system, model and thread number")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (median)")
    parser.add_argument("--peer-python", help="Python of an environment with mace-torch 0.3.16")
    parser.add_argument("--nequip-python", help="Python of an environment with nequip 0.19")
    parser.add_argument("--grow", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.grow:
        grow(arguments.grow, arguments.model)
        return
    torch_first = f"torch=={torch.__version__.partition('+')[0]}"
    plan = cases(arguments.quick, arguments.all)
    pythons: dict[str, Path | str] = {
        "mace-torch": arguments.peer_python
        or peer_python(
            "mace-torch",
            [torch_first, "mace-torch==0.3.16", "cuequivariance", "cuequivariance-torch"],
        )
    }
    if any(name.startswith("nequip") for case in plan for name in case.peers):
        pythons["nequip"] = arguments.nequip_python or peer_python(
            "nequip", [torch_first, "nequip==0.19.1"]
        )
    name = "mace_quick" if arguments.quick else "mace"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(pythons, Path(folder), arguments.rounds)
        started = time.monotonic()
        for number, case in enumerate(plan):
            if number:
                left = (time.monotonic() - started) / number * (len(plan) - number)
                print(f"[{number}/{len(plan)} done, about {left / 60:.0f} min left]", flush=True)
            bench.run(case)
            write(bench.rows, [], name)
        if not arguments.quick:
            points = growth(Path(folder) / "model.safetensors")
            print(f"cost of energy and forces grows as atoms^{slope(points):.2f}")
            write(bench.rows, points, name)


def write(rows: list[dict[str, Any]], points: list[dict[str, Any]], name: str) -> None:
    """Store what is known so far."""
    RESULTS.mkdir(exist_ok=True)
    report = {"rows": rows, "growth": points, "slope": slope(points) if points else None}
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(rows, points, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
