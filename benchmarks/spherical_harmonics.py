"""Spherical harmonics to degree 3 against e3nn's, as training calls them.

Prints a table and writes results/spherical_harmonics.json and .png next to this file. Both sides
take turns within one loop, so that a busy machine slows both; the median of each is kept.

    OMP_NUM_THREADS=1 python benchmarks/spherical_harmonics.py
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import e3nn
import matplotlib
import torch
from e3nn import o3
from torch import Tensor

from equiv.so3 import spherical_harmonics

L_MAX = 3
EDGES = (1000, 3000, 10000)
REPEATS = 60
DEGREES = list(range(L_MAX + 1))
SIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "e3nn": lambda v: o3.spherical_harmonics(DEGREES, v, True, "component"),
    "equiv": lambda v: spherical_harmonics(L_MAX, v),
}


def forward(function: Callable[[Tensor], Tensor], vectors: Tensor) -> None:
    with torch.no_grad():
        function(vectors)


def forces(function: Callable[[Tensor], Tensor], vectors: Tensor) -> None:
    vectors = vectors.clone().requires_grad_()
    torch.autograd.grad(function(vectors).square().sum(), vectors)


def force_loss(function: Callable[[Tensor], Tensor], vectors: Tensor) -> None:
    vectors = vectors.clone().requires_grad_()
    energy = function(vectors).pow(3).sum()
    (gradient,) = torch.autograd.grad(energy, vectors, create_graph=True)
    torch.autograd.grad(gradient.square().sum(), vectors)


TASKS = {"forward": forward, "+ gradient": forces, "+ its gradient": force_loss}


def measure(task: Callable, vectors: Tensor) -> dict[str, float]:
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(REPEATS):
        for side, function in SIDES.items():
            start = time.perf_counter()
            task(function, vectors)
            times[side].append(time.perf_counter() - start)
    return {side: 1e3 * statistics.median(t[REPEATS // 10 :]) for side, t in times.items()}


def main() -> None:
    rows = []
    print(f"{'dtype':8} {'edges':>6} {'task':15} {'e3nn':>8} {'equiv':>8} {'ratio':>6}   (ms)")
    for dtype in (torch.float32, torch.float64):
        for edges in EDGES:
            generator = torch.Generator().manual_seed(0)
            vectors = torch.randn(edges, 3, dtype=dtype, generator=generator)
            for name, task in TASKS.items():
                ms = measure(task, vectors)
                row = {"dtype": str(dtype)[6:], "edges": edges, "task": name, **ms}
                rows.append(row)
                print(
                    f"{row['dtype']:8} {edges:6} {name:15} {ms['e3nn']:8.3f} {ms['equiv']:8.3f} "
                    f"{ms['e3nn'] / ms['equiv']:6.2f}"
                )
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    about = {
        "l_max": L_MAX,
        "unit": "ms, median",
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "e3nn": e3nn.__version__,
    }
    text = json.dumps({"about": about, "rows": rows}, indent=1)
    (results / "spherical_harmonics.json").write_text(text + "\n")
    plot(rows, results / "spherical_harmonics.png")


def plot(rows: list[dict], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(TASKS), figsize=(10, 3.2), layout="constrained")
    for panel, task in zip(panels, TASKS, strict=True):
        for dtype, style in (("float32", "--"), ("float64", "-")):
            chosen = [r for r in rows if r["task"] == task and r["dtype"] == dtype]
            for side, colour in (("e3nn", "tab:gray"), ("equiv", "tab:blue")):
                panel.loglog(
                    [r["edges"] for r in chosen],
                    [r[side] for r in chosen],
                    style,
                    marker="o",
                    color=colour,
                    label=f"{side}, {dtype}",
                )
        panel.set(title=task, xlabel="edges", ylabel="ms")
    panels[0].legend(fontsize="small")
    figure.suptitle(f"spherical harmonics to degree {L_MAX}, {torch.get_num_threads()} thread(s)")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
