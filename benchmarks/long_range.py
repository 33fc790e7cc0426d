"""Accuracy against time of long-range electrostatics: Chebyshev-Tucker potentials and torch-pme.

Jittered lattices of 0.1 charges per cubic Angstrom, random signs, periodic or finite. torch-pme's
Ewald, PME and P3M get their parameters from its own tuner, at several real-space cutoffs and
accuracies; what counts is the relative error of the forces that comes out. Both sides get their
neighbour list for nothing and take turns within one loop; medians are kept, of processor time on
one thread and of wall time on several. A ratio compares the fastest of each side at a relative
force error of 1e-4, interpolated along its front.

Results are merged into results/long_range.json, so large sizes can run for themselves; what
torch-pme's tuner chose is kept there too and found again:

    pip install torch-pme==0.5.0
    OMP_NUM_THREADS=1 python benchmarks/long_range.py --system periodic --n 1000
    OMP_NUM_THREADS=1 python benchmarks/long_range.py --million
    python benchmarks/long_range.py --plot
"""

import argparse
import json
import math
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equiv.long_range import ChebyshevTucker, DirectSum, EwaldSum, Pairs, PointCharges
from equiv.units import COULOMB

RESULTS = Path(__file__).parent / "results" / "long_range.json"
TARGET = 1e-4
EV, STEP = "energy + forces", "force-training step"


def melt(n: int, density: float = 0.1) -> tuple[Tensor, Tensor, float]:
    """Positions (Angstrom), neutral charges and the length of the cube."""
    g = torch.Generator().manual_seed(1)
    sites = math.ceil(n ** (1 / 3) - 1e-9)
    spacing = density ** (-1 / 3)
    x = torch.cartesian_prod(*[torch.arange(sites).double()] * 3)
    x = x[torch.randperm(len(x), generator=g)[:n].sort().values]
    x = (x + 0.5 + 0.5 * (torch.rand(n, 3, generator=g, dtype=torch.float64) - 0.5)) * spacing
    q = torch.ones(n, dtype=torch.float64)
    q[n // 2 :] = -1
    q = q[torch.randperm(n, generator=g)]
    return x, q - q.mean(), sites * spacing


class Problem:
    """One system with its neighbour lists and exact forces."""

    def __init__(self, system: str, n: int) -> None:
        self.system, self.n = system, n
        self.x, self.q, length = melt(n)
        self.cell = length * torch.eye(3, dtype=torch.float64)
        self.pbc = torch.full((1, 3), system == "periodic")
        charges = PointCharges.checked(self.x, self.q, self.cell, self.pbc)
        self.pairs = {cutoff: Pairs.search(charges, cutoff) for cutoff in (5.0, 6.0)}
        if n <= 20000 and system == "finite":
            exact = DirectSum()
        elif n <= 1000:
            exact = EwaldSum(1e-9)
        else:
            exact = ChebyshevTucker(1e-7)
        given = self.pairs[6.0] if isinstance(exact, ChebyshevTucker) else None
        self.forces = exact.evaluate(self.x, self.q, self.cell, self.pbc, pairs=given).forces

    def error(self, forces: Tensor) -> float:
        return float((forces - self.forces).norm() / self.forces.norm())


Energy = Callable[[Tensor, Tensor], Tensor]


def clock() -> float:
    """Seconds: of the processor if there is one thread, so that other jobs do not count."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def ours(problem: Problem, tolerance: float, cutoff: float) -> Energy:
    potential = ChebyshevTucker(tolerance, cutoff=cutoff)
    pairs = problem.pairs[cutoff]
    return lambda x, q: potential(x, q, problem.cell, problem.pbc, pairs=pairs).sum()


def theirs(problem: Problem, name: str, cutoff: float, smearing: float, options: dict) -> Energy:
    import torchpme

    calculator = getattr(torchpme, f"{name}Calculator")(
        torchpme.CoulombPotential(smearing=smearing),
        full_neighbor_list=False,
        **options,
    ).to(torch.float64)
    pairs = problem.pairs[cutoff]
    indices = torch.stack([pairs.first, pairs.second], 1)

    shifts = pairs.shifts.double()

    def energy(x: Tensor, q: Tensor) -> Tensor:
        steps = x[indices[:, 1]] - x[indices[:, 0]] + shifts @ problem.cell
        potentials = calculator(q[:, None], problem.cell, x, indices, steps.norm(dim=1))
        return COULOMB * (potentials * q[:, None]).sum()

    return energy


def tuned(problem: Problem, name: str, cutoff: float, accuracy: float) -> tuple[float, dict]:
    """What torch-pme's tuner chooses; for large systems it tunes on ten thousand charges."""
    import torchpme.tuning

    small = problem if problem.n <= 10000 else Problem(problem.system, 10000)
    pairs = small.pairs[cutoff]
    indices = torch.stack([pairs.first, pairs.second], 1)
    steps = small.x[pairs.second] - small.x[pairs.first] + pairs.shifts.double() @ small.cell
    scale = float(small.forces.square().mean().sqrt()) / COULOMB
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smearing, options, _ = getattr(torchpme.tuning, f"tune_{name.lower()}")(
            small.q[:, None],
            small.cell,
            small.x,
            cutoff,
            indices,
            steps.norm(dim=1),
            accuracy=accuracy * scale,
        )
    return smearing, options


def forces_of(energy: Energy, problem: Problem) -> Tensor:
    x = problem.x.clone().requires_grad_()
    return -torch.autograd.grad(energy(x, problem.q), x)[0]


def training_step(energy: Energy, problem: Problem) -> None:
    """The gradient of a loss of the forces with respect to the charges, as if a model made them."""
    x, q = problem.x.clone().requires_grad_(), problem.q.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x, q), x, create_graph=True)
    torch.autograd.grad((gradient + problem.forces).square().sum(), q)


def contestants(problem: Problem, peers: bool) -> dict[str, Energy]:
    out = {}
    for tolerance in (1e-3, 3e-4, 1e-4, 1e-5) if problem.n <= 10000 else (3e-4, 1e-4):
        for cutoff in problem.pairs:
            name = f"equiv {tolerance:g}, {cutoff:g} A"
            out[name] = ours(problem, tolerance, cutoff)
    if problem.system == "finite" and problem.n <= 3000:
        direct = DirectSum()
        out["equiv direct sum"] = lambda x, q: direct(x, q).sum()
    if not peers or problem.system == "finite":
        return out
    small = problem.n <= 1000
    known = stored()["tuning"]
    # What has been the slowest by far at one size is left out at the next.
    names = ("Ewald", "PME", "P3M") if small else ("PME", "P3M")
    for name in names if problem.n <= 10000 else ("P3M",):
        for cutoff in problem.pairs if problem.n <= 10000 else (6.0,):
            for accuracy in (1e-3, 1e-4, 2e-5) if small else (2e-4, 5e-5):
                if problem.n > 10000 and accuracy < 1e-4:
                    continue
                title = f"torch-pme {name} {accuracy:g}, {cutoff:g} A"
                key = f"{min(problem.n, 10000)} charges, {title}"
                if key not in known:
                    known[key] = tuned(problem, name, cutoff, accuracy)
                    print(f"  tuned {key}: {known[key]}", flush=True)
                    store([], {key: known[key]})
                smearing, options = known[key]
                out[title] = theirs(problem, name, cutoff, smearing, options)
                if problem.n > 10000:
                    # Its meshes are rounded up to powers of two; the next coarser one as well.
                    wide = {**options, "mesh_spacing": 1.2 * options["mesh_spacing"]}
                    out[title + ", wider mesh"] = theirs(problem, name, cutoff, smearing, wide)
    return out


def measure(problem: Problem, peers: bool, repeats: int) -> list[dict]:
    energies = contestants(problem, peers)
    errors = {name: problem.error(forces_of(e, problem)) for name, e in energies.items()}
    rows = []
    tasks = {EV: lambda e: forces_of(e, problem)}
    if problem.n <= 10000:
        tasks[STEP] = lambda e: training_step(e, problem)
    for task, run in tasks.items():
        # Training is compared where it is done: near the target.
        close = [n for n in energies if task == EV or 1e-5 < errors[n] < 4e-4]
        times: dict[str, list[float]] = {name: [] for name in close}
        for _ in range(repeats):
            for name in close:
                start = clock()
                run(energies[name])
                times[name].append(1e3 * (clock() - start))
        for name in close:
            ms = statistics.median(times[name])
            rows.append(
                {
                    "system": problem.system,
                    "n": problem.n,
                    "method": name,
                    "rel_force_error": errors[name],
                    "task": task,
                    "ms": ms,
                    "threads": torch.get_num_threads(),
                }
            )
            print(
                f"{problem.system:9s} {problem.n:8d}  {task:20s} {name:30s} "
                f"{errors[name]:9.1e} {ms:10.2f} ms",
                flush=True,
            )
    return rows


def time_at(rows: list[dict], error: float = TARGET) -> float | None:
    """Milliseconds of the fastest way to that error, along the front in a log-log plot."""
    points = sorted((row["rel_force_error"], row["ms"]) for row in rows)
    front = []
    for e, ms in points:  # from accurate to rough: keep what is faster than everything better
        if not front or ms < front[-1][1]:
            front.append((e, ms))
    better = [p for p in front if p[0] <= error]
    worse = [p for p in front if p[0] > error]
    if not better:
        return None
    if not worse:
        return better[-1][1]
    (e1, t1), (e2, t2) = better[-1], worse[0]
    share = math.log(error / e1) / math.log(e2 / e1)
    return math.exp(math.log(t1) + share * math.log(t2 / t1))


def ratios(rows: list[dict]) -> dict[str, float]:
    out: dict[str, float] = {}
    mine: dict[tuple, float] = {}
    keys = sorted({(r["system"], r["n"], r["task"], r["threads"]) for r in rows})
    for key in keys:
        chosen = [r for r in rows if (r["system"], r["n"], r["task"], r["threads"]) == key]
        ours_rows = [r for r in chosen if r["method"].startswith("equiv")]
        peer_rows = [r for r in chosen if r["method"].startswith("torch-pme")]
        system, n, task, threads = key
        title = f"{system}, {n} charges, {task}, {threads} thread" + "s" * (threads > 1)
        if (t := time_at(ours_rows)) is not None:
            mine[key] = t
            # A mesh is a power of two: a fifth more error is let pass rather than twice the mesh.
            if (peer := time_at(peer_rows, 1.2 * TARGET)) is not None:
                out[f"torch-pme / equiv: {title}"] = peer / t
    for (system, n, task, threads), t in mine.items():
        periodic = mine.get(("periodic", n, task, threads))
        if system == "finite" and periodic:
            out[f"finite / periodic: {n} charges, {task}"] = t / periodic
    for system in ("periodic", "finite"):
        sizes = sorted(k[1] for k in mine if k[0] == system and k[2] == EV and k[3] == 1)
        sizes = [n for n in sizes if 1000 <= n <= 100000]
        if len(sizes) > 1:
            times = [mine[(system, n, EV, 1)] for n in sizes]
            slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
            out[f"slope in N: {system}, {sizes[0]} to {sizes[-1]}"] = float(slope)
    return out


def million() -> list[dict]:
    """A million charges, with its own neighbour search, and the memory that it takes."""
    x, q, length = melt(10**6)
    cell = length * torch.eye(3, dtype=torch.float64)
    rows = []
    potential = ChebyshevTucker(3e-4, cutoff=5.0)
    for system in ("finite", "periodic"):
        pbc = torch.full((1, 3), system == "periodic")
        charges = PointCharges.checked(x, q, cell, pbc)
        start = clock()
        pairs = Pairs.search(charges, potential.cutoff)
        searched = clock()
        out = potential.sums(charges, pairs, strain=False)
        done = clock()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        some = torch.arange(0, 10**6, 5 * 10**4)
        if system == "finite":  # against the exact field of the others at a few charges
            d = x[some, None] - x
            r3 = d.square().sum(-1).pow(1.5)
            r3[r3 == 0] = math.inf
            exact = COULOMB * q[some, None] * (d * (q / r3)[..., None]).sum(1)
        else:  # against the same method with a smaller tolerance
            finer = ChebyshevTucker(1e-6, cutoff=5.0)
            exact = finer.sums(charges, pairs, strain=False).forces[some]
        error = float((out.forces[some] - exact).norm() / exact.norm())
        print(
            f"{system}: search {searched - start:.1f} s, potential {done - searched:.2f} s, "
            f"error {error:.1e}, peak memory {peak:.1f} GB",
            flush=True,
        )
        rows.append(
            {
                "system": system,
                "n": 10**6,
                "method": "equiv 0.0003, 5 A",
                "rel_force_error": error,
                "task": EV,
                "ms": 1e3 * (done - searched),
                "search_ms": 1e3 * (searched - start),
                "peak_memory_gb": peak,
                "threads": torch.get_num_threads(),
            }
        )
        del pairs, out
    return rows


def stored() -> dict:
    empty = {"rows": [], "tuning": {}}
    return {**empty, **json.loads(RESULTS.read_text())} if RESULTS.exists() else empty


def store(new: list[dict], tuning: dict | None = None) -> None:
    """Replaces earlier rows of the same system, size, task and number of threads."""
    keys = {(r["system"], r["n"], r["task"], r["threads"]) for r in new}
    old = stored()
    kept = [r for r in old["rows"] if (r["system"], r["n"], r["task"], r["threads"]) not in keys]
    rows = kept + new
    RESULTS.parent.mkdir(exist_ok=True)
    everything = {
        "rows": rows,
        "ratios": ratios(rows),
        "tuning": {**old["tuning"], **(tuning or {})},
    }
    RESULTS.write_text(json.dumps(everything, indent=1) + "\n")


def plot(rows: list[dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    one = [r for r in rows if r["threads"] == 1]
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    colors = {"equiv": "C0", "torch-pme P3M": "C1", "torch-pme PME": "C2", "torch-pme Ewald": "C3"}
    markers = {1000: "o", 10000: "s", 100000: "^"}
    for n, marker in markers.items():
        for side, color in colors.items():
            points = sorted(
                (r["rel_force_error"], r["ms"])
                for r in one
                if (r["system"], r["n"], r["task"]) == ("periodic", n, EV)
                and r["method"].startswith(side)
            )
            if points:
                left.loglog(*zip(*points, strict=True), marker, color=color, ms=5, alpha=0.8)
    for side, color in colors.items():
        left.plot([], [], "-", color=color, label=side)
    for n, marker in markers.items():
        left.plot([], [], marker, color="0.4", label=f"{n:,} charges")
    left.axvline(TARGET, color="0.7", lw=0.8, zorder=0)
    left.set(xlabel="relative force error", ylabel="energy + forces (ms, one core)")
    left.set_title("Periodic: accuracy against time")
    left.legend(fontsize=8)
    for system, side, style in (
        ("periodic", "equiv", "o-"),
        ("finite", "equiv", "s--"),
        ("periodic", "torch-pme", "^-"),
    ):
        points = []
        for n in sorted({r["n"] for r in one}):
            chosen = [
                r
                for r in one
                if (r["system"], r["n"], r["task"]) == (system, n, EV)
                and r["method"].startswith(side)
            ]
            if (t := time_at(chosen)) is not None:
                points.append((n, t))
        if points:
            name = f"{side}, {system}" + (" (fastest)" if side == "torch-pme" else "")
            right.loglog(*zip(*points, strict=True), style, label=name)
    right.set(xlabel="charges", ylabel="energy + forces (ms, one core)")
    right.set_title(f"At a relative force error of {TARGET:g}")
    right.legend(fontsize=8)
    fig.savefig(RESULTS.with_suffix(".png"), dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", choices=["periodic", "finite"], default="periodic")
    parser.add_argument("--n", type=int, nargs="*", default=[])
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for n in options.n:
        store(measure(Problem(options.system, n), not options.no_peers, options.repeats))
    if options.million:
        store(million())
    rows = stored()["rows"]
    for name, ratio in ratios(rows).items():
        print(f"{name:75s} {ratio:6.2f}")
    if options.plot:
        plot(rows)


if __name__ == "__main__":
    main()
