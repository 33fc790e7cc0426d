"""Networks on positions and orientations beside the published PONITA.

    python benchmarks/ponita.py --official CHECKOUT [--cases forward ...] [--n 16 20] [--threads 1]
    python benchmarks/ponita.py --equivariance
    python benchmarks/ponita.py --plot

``CHECKOUT`` is a clone of github.com/ebekkers/ponita. Workload: 32 molecules of 21 atoms, fully
connected, hidden 128, basis 256, 5 layers, float32, on the same grid for all sides: 16 orientations
that repel each other in antipodal pairs, or the 20 of the dodecahedron. ``polynomial`` is our layer
with the weights of the published network beside it, after checking that the energies are the same;
``legendre`` is the smooth kernel (degree 4) at equal widths.

Every side lives in a process of its own, one per case, and imports what it needs and nothing else,
so that peaks of memory are its own: of the whole process (``peak_gb``), of which ``start_gb`` were
there after the imports, before there was a network. The sides take turns, and medians are stored.
With one thread the time is that of the processor (user and system), which other programs on the
machine disturb least; with two it is that of the clock.

The second part measures what a rotation of the structures changes in energies, forces and the net
torque of freshly made networks, for every grid and kernel. Rows are merged into
``results/ponita.json``; the plots are ``results/ponita.png`` and ``ponita_equivariance.png``.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.peers.ponita_worker import GRID
from benchmarks.peers.worker import Peer
from equiv.graph.blocks import neighbor_blocks
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.radial import BesselBasis
from equiv.position_orientation import (
    Channels,
    LegendreKernel,
    OrientationGrid,
    OrientationNetwork,
    PolynomialKernel,
    orientation_grid,
)
from equiv.position_orientation.samples import Kernel
from equiv.so3.rotations import random_rotations

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CASES = ("forward", "energy_step", "forces", "force_step")
KERNELS = ("polynomial", "legendre")
REPEATS = {"forward": 5, "energy_step": 3, "forces": 3, "force_step": 2}
GRIDS = {16: ("repulsion", 16), 20: ("dodecahedron", None)}
TITLES = {
    "forward": "energies",
    "energy_step": "training step\non energies",
    "forces": "energies\nand forces",
    "force_step": "training step\non forces",
}
COLORS = {"polynomial": "#31688e", "legendre": "#35b779", "official": "#999999"}

EQUIVARIANCE_GRIDS: list[tuple[str, int | None]] = [
    ("octahedron", None),
    ("icosahedron", None),
    ("lebedev14", None),
    ("dodecahedron", None),
    ("lebedev26", None),
    ("pentakis32", None),
    ("repulsion", 12),
    ("repulsion", 16),
    ("repulsion", 20),
    ("repulsion", 32),
    ("repulsion", 64),
    ("fibonacci", 12),
    ("fibonacci", 20),
    ("fibonacci", 32),
    ("fibonacci", 64),
]


def measure(case: str, n: int, threads: int, checkout: str) -> list[dict[str, Any]]:
    """Time the three sides in turns; returns one row for each kernel of ours."""
    script = HERE / "peers" / "ponita_worker.py"
    sides = {kind: Peer(sys.executable, script, threads) for kind in ("official", *KERNELS)}
    folder = tempfile.TemporaryDirectory()
    save_file({"points": orientation_grid(*GRIDS[n]).points}, Path(folder.name) / GRID)
    given = dict(folder=folder.name, checkout=checkout, threads=threads)
    try:
        starts = {k: side.ask("open", kind=k, **given)["start_gb"] for k, side in sides.items()}
        samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in sides}
        peaks = {}
        for turn in range(1 + REPEATS[case]):
            for kind, side in sides.items():
                answer = side.ask("run", case=case)
                peaks[kind] = answer["peak_gb"]
                if turn:  # the first is to warm up
                    samples[kind].append(answer)
        if case == "forward":  # last, or its peak of memory would be that of forces
            check_equality(sides)
    finally:
        folder.cleanup()
        for side in sides.values():
            side.close()
    clock = "cpu_ms" if threads == 1 else "wall_ms"
    times = {k: statistics.median(s[clock] for s in found) for k, found in samples.items()}
    above = {k: peaks[k] - starts[k] for k in sides}
    return [
        dict(
            case=case,
            n=n,
            threads=threads,
            kernel=kernel,
            ours_ms=round(times[kernel], 1),
            official_ms=round(times["official"], 1),
            ratio=round(times["official"] / times[kernel], 2),
            peak_gb=round(peaks[kernel], 3),
            official_peak_gb=round(peaks["official"], 3),
            peak_ratio=round(peaks["official"] / peaks[kernel], 2),
            start_gb=round(starts[kernel], 3),
            official_start_gb=round(starts["official"], 3),
            above_start_ratio=round(above["official"] / above[kernel], 2),
        )
        for kernel in KERNELS
    ]


def check_equality(sides: dict[str, Peer]) -> None:
    """The published network and ours with its weights say the same."""
    for quantity in ("energies", "forces"):
        ours, theirs = (
            torch.tensor(sides[kind].ask(quantity)[quantity]) for kind in ("polynomial", "official")
        )
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        print(f"{quantity}: largest relative difference {error:.1e}", flush=True)
        if error > 1e-4:
            raise SystemExit(f"{quantity} differ by {error:.1e}: not the same network")


# Equivariance.


def kernels() -> dict[str, Kernel]:
    radial = BesselBasis(8, 8.0, PolynomialCutoff(6))
    return {
        "polynomial": PolynomialKernel(64, 64),
        "polynomial, smooth": PolynomialKernel(64, 64, attributes="smooth"),
        **{f"legendre {l}": LegendreKernel(l, radial) for l in (2, 3, 4)},
    }


def equivariance_errors(
    grid: OrientationGrid, kernel: Kernel, *, molecules: int = 3, atoms: int = 9, turns: int = 3
) -> dict[str, float]:
    """What rotations change in the energies, forces and torques of a fresh network."""
    generator = torch.Generator().manual_seed(1)
    rows = molecules * atoms
    positions = 1.6 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    kinds = torch.randint(5, (rows,), generator=generator)
    scalars = torch.nn.functional.one_hot(kinds, 5).double()
    a, b = torch.triu_indices(atoms, atoms, 1)
    pairs = torch.cat([torch.stack([a, b]) + k * atoms for k in range(molecules)], 1)
    edges = torch.cat([pairs, pairs.flip(0)], 1)
    neighbors, _ = neighbor_blocks(*edges, torch.zeros(edges.shape[1], 3), rows)
    torch.manual_seed(0)
    net = OrientationNetwork(
        grid=grid,
        kernel=kernel,
        inputs=Channels(scalars=5),
        outputs=Channels(scalars=1),
        channels=64,
        layers=5,
        mean_neighbors=float(atoms - 1),
    ).double()
    net.calibrate(neighbors.differences(positions), neighbors, scalars=scalars)

    def energies_and_forces(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.clone().requires_grad_()
        out = net(neighbors.differences(x), neighbors, scalars=scalars).scalars
        energies = out.view(molecules, atoms).sum(1)
        (gradient,) = torch.autograd.grad(energies.sum(), x)
        return energies.detach(), -gradient

    energies, forces = energies_and_forces(positions)
    found = []
    for turn in random_rotations(turns, generator=generator):
        e, f = energies_and_forces(positions @ turn.T)
        found.append(
            (
                float((e - energies).abs().mean() / energies.std()),
                float((f - forces @ turn.T).norm() / forces.norm()),
            )
        )
    x, f = (t.view(molecules, atoms, 3) for t in (positions, forces))
    torque = torch.linalg.cross(x - x.mean(1, keepdim=True), f)
    return dict(
        energy=statistics.fmean(e for e, _ in found),
        force=statistics.fmean(e for _, e in found),
        torque=float((torque.sum(1).norm(dim=-1) / torque.norm(dim=-1).sum(1)).mean()),
    )


def equivariance(names: list[tuple[str, int | None]]) -> list[dict[str, Any]]:
    rows = []
    for name, num in names:
        grid = orientation_grid(name, num)
        for kernel, made in kernels().items():
            errors = equivariance_errors(grid, made)
            row: dict[str, Any] = dict(grid=name, n=grid.num, strength=grid.strength, kernel=kernel)
            rows.append(row | {k: float(f"{v:.2e}") for k, v in errors.items()})
            print(
                f"{name:13}{grid.num:4}{grid.strength:4}  {kernel:20}"
                + "".join(f"{k} {v:.1e}  " for k, v in errors.items()),
                flush=True,
            )
    return rows


# Results.


def merge(key: str, rows: list[dict[str, Any]], by: tuple[str, ...]) -> dict[str, Any]:
    """Put rows in the place of the older ones that they repeat."""
    path = RESULTS / "ponita.json"
    stored = json.loads(path.read_text()) if path.exists() else {"rows": [], "equivariance": []}

    def identity(row: dict[str, Any]) -> tuple:
        return tuple(row[k] for k in by)

    fresh = {identity(row) for row in rows}
    kept = [row for row in stored[key] if identity(row) not in fresh]
    stored[key] = sorted(kept + rows, key=lambda row: tuple(map(str, identity(row))))
    path.write_text(json.dumps(stored, indent=1) + "\n")
    return stored


def plot(stored: dict[str, Any]) -> None:
    if stored["rows"]:
        plot_times(stored["rows"])
    if stored["equivariance"]:
        plot_equivariance(stored["equivariance"])


def plot_times(rows: list[dict[str, Any]]) -> None:
    settings = sorted({(row["threads"], row["n"]) for row in rows})
    figure, axes = plt.subplots(
        2, len(settings), figsize=(3.4 * len(settings) + 0.8, 6.4), squeeze=False
    )
    for column, (threads, n) in enumerate(settings):
        here = [row for row in rows if (row["threads"], row["n"]) == (threads, n)]
        for axis, ours, theirs, label in (
            (axes[0][column], "ours_ms", "official_ms", "seconds"),
            (axes[1][column], "peak_gb", "official_peak_gb", "peak of memory (GB)"),
        ):
            scale = 1e-3 if label == "seconds" else 1.0
            for place, case in enumerate(CASES):
                found = {row["kernel"]: row for row in here if row["case"] == case}
                if not found:
                    continue
                values = {"official": next(iter(found.values()))[theirs] * scale}
                values |= {k: found[k][ours] * scale for k in KERNELS if k in found}
                for k, (kind, value) in enumerate(values.items()):
                    axis.bar(place + 0.27 * (k - 1), value, 0.25, color=COLORS[kind])
                    text = "" if kind == "official" else f"{values['official'] / value:.1f}x"
                    axis.annotate(
                        text,
                        (place + 0.27 * (k - 1), value),
                        ha="center",
                        va="bottom",
                        fontsize=6.5,
                        xytext=(0, 1),
                        textcoords="offset points",
                    )
            axis.set_xticks(range(len(CASES)), [TITLES[case] for case in CASES], fontsize=7)
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.margins(y=0.12)
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axis.set_ylabel(label)
        words = "one thread" if threads == 1 else f"{threads} threads"
        axes[0][column].set_title(f"{n} orientations, {words}", fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLORS[k]) for k in ("official", *KERNELS)]
    labels = ["published code", "ours, published kernel", "ours, smooth kernel"]
    figure.legend(handles, labels, loc="upper center", ncol=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(RESULTS / "ponita.png", dpi=130)
    plt.close(figure)


def plot_equivariance(rows: list[dict[str, Any]]) -> None:
    shown = ("polynomial", "polynomial, smooth", "legendre 2", "legendre 4")
    figure, axes = plt.subplots(1, len(shown), figsize=(13, 3.9), sharey=True)
    families = {"repulsion": "o-", "fibonacci": "s-"}
    for axis, kernel in zip(axes, shown, strict=True):
        here = [row for row in rows if row["kernel"] == kernel]
        for family, style in families.items():
            line = sorted((r["n"], r["force"]) for r in here if r["grid"] == family)
            if not line:
                continue
            axis.plot(*zip(*line, strict=True), style, ms=4, lw=1, color="#999999", label=family)
            if family == "fibonacci":
                axis.lines[-1].set_markerfacecolor("white")
        exact = sorted((r["n"], r["force"], r["grid"]) for r in here if r["grid"] not in families)
        axis.plot(
            [n for n, *_ in exact],
            [e for _, e, _ in exact],
            "D",
            ms=5,
            color="#31688e",
            label="quadratures",
        )
        for n, error, name in exact:
            axis.annotate(
                name,
                (n, error),
                fontsize=6.5,
                xytext=(2, 4),
                textcoords="offset points",
                rotation=40,
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks([6, 12, 20, 32, 64], ["6", "12", "20", "32", "64"])
        axis.set_xlabel("orientations")
        axis.set_title(kernel, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(top=8.0)  # room for the names
    axes[0].set_ylabel("error of forces under rotation,\nfresh weights")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(RESULTS / "ponita_equivariance.png", dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--official", help="clone of github.com/ebekkers/ponita")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--n", nargs="+", type=int, default=[16, 20], choices=list(GRIDS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--equivariance", action="store_true")
    parser.add_argument("--grids", nargs="+", help="of the equivariance, by name")
    parser.add_argument("--plot", action="store_true", help="draw what is stored, measure nothing")
    given = parser.parse_args()
    if given.official:
        for threads in given.threads:
            for n in given.n:
                for case in given.cases:
                    rows = measure(case, n, threads, given.official)
                    for row in rows:
                        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
                    merge("rows", rows, ("threads", "n", "case", "kernel"))
    if given.equivariance:
        names = [g for g in EQUIVARIANCE_GRIDS if not given.grids or g[0] in given.grids]
        merge("equivariance", equivariance(names), ("grid", "n", "kernel"))
    plot(merge("rows", [], ()))


if __name__ == "__main__":
    main()
