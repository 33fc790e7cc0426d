"""SPHNet: what its gates save, beside the dense network and beside the official code.

    OMP_NUM_THREADS=1 python -m benchmarks.sphnet WATER.npz ETHANOL.npz
        [--official CHECKOUT] [--channels 128] [--repeats 5] [--train 60]
        [--only steps layer errors distance]

Steps: forward, loss, backward and AdamW on the same batch, one thread, interleaved, medians; of
ours dense and with a share k of paths and pairs dropped (gates fixed, as in 95 % of a training),
of the same network with the paper's SO(3) features and every pair (what QHNet computes, at equal
size), and of the authors' code if a checkout of github.com/microsoft/SPHNet is given. Layer: one
pair layer forward and backward. Memory: what a step keeps for its backward pass. Errors: every
variant trained on 500 water molecules for the same processor time, 100 test molecules. Writes
results/sphnet.json and results/sphnet.png.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.peers.worker import Peer
from equiv.hamiltonian import Batcher, HamiltonianSet, matrices_from_blocks, read_hamiltonians
from equiv.hamiltonian.gates import PairGate
from equiv.hamiltonian.metrics import orbital_errors
from equiv.models import SPHNet

RESULTS = Path(__file__).parent / "results"
OURS = {
    "dense": {"sparsity": 0.0},
    "k=0.3": {"sparsity": 0.3},
    "k=0.5": {"sparsity": 0.5},
    "k=0.7": {"sparsity": 0.7},
    "QHNet-style (dense, SO(3))": {"sparsity": 0.0, "parity": "so3"},
}
FIXED_FROM = 9  # optimizer steps
PAPER = {"vectorial_layers": 4, "pair_layers": 2, "num_radial": 16, "hidden": 64}


def build(data: HamiltonianSet, channels: int, changes: dict[str, Any], **more: Any) -> SPHNet:
    """A network for these molecules, its gates fixed."""
    torch.manual_seed(0)
    atoms = len(data.frames[0].numbers)
    shape = {**PAPER, "channels": channels, "mean_neighbors": float(atoms - 1), **changes, **more}
    return SPHNet(data.basis, **shape)


def warm(model: SPHNet, batch: Any) -> None:
    """Take the gates through their phases; thresholds of pairs settle, as in a long training."""
    gates = [gate for gate in model.gates if isinstance(gate, PairGate)]
    decays = [gate.decay for gate in gates]
    for gate in gates:
        gate.decay = 0.3
    for t in range(FIXED_FROM):
        with torch.no_grad():
            model.train().standardised(batch)
        model.advance(t + 1)
    for gate, decay in zip(gates, decays, strict=True):
        gate.decay = decay


class Step:
    """A training step of ours."""

    def __init__(self, model: SPHNet, batch: Any, learning_rate: float = 1e-3) -> None:
        self.model, self.optimizer = (
            model.train(),
            torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0),
        )
        self.batch = batch

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss(self.model, self.batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def memory(self) -> float:
        """Megabytes that the backward pass needs kept, beside the weights."""
        weights = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        seen: dict[int, int] = {}

        def keep(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss(self.model, self.batch).backward()
        return sum(seen.values()) / 2**20


def loss(model: SPHNet, batch: Any) -> Any:
    """Mean absolute errors at unit scale and in Eh."""
    scaled = model.standardised(batch) - model.standardisation.inverse(batch.target)
    scale = model.standardisation.scale
    parts = [(x.abs().sum(), (x * scale(key)).abs().sum(), x.numel()) for key, x in scaled.items()]
    unit, hartree, entries = (sum(column) for column in zip(*parts, strict=True))
    return (unit + 100 * hartree) / entries


def interleaved(steps: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of processor time of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            started = time.process_time()
            given = step()
            spent = 1e3 * (time.process_time() - started)
            if turn:  # the first one builds tables
                times[name].append(spent if given is None else given)
    return {name: statistics.median(values) for name, values in times.items()}


def steps(name: str, file: str, size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Training steps on one batch of one data set."""
    data = read_hamiltonians(file)
    batcher = Batcher(data.basis, "minao")
    samples = batcher.samples(data[:size])
    batch: Any = batcher.collate(samples)
    runs: dict[str, Callable[[], Any]] = {}
    mine: dict[str, Step] = {}
    for variant, changes in OURS.items():
        model = build(data, args.channels, changes, random_until=1, fixed_from=FIXED_FROM)
        model.standardisation.fit([batch.target])
        warm(model, batch)
        runs[variant] = mine[variant] = Step(model, batch)
    memory = {variant: step.memory() for variant, step in mine.items()}
    official: dict[str, Peer] = {}
    for variant in ("dense", "shipped", "fixed") if args.official else ():
        peer = Peer(sys.executable, Path(__file__).parent / "peers" / "sphnet_worker.py", 1)
        peer.ask("open", checkout=args.official, data=file, variant=variant, k=0.7, threads=1)
        official[f"official, {variant}"] = peer

    def asked(peer: Peer) -> Callable[[], float]:
        request = {"indices": list(range(size)), "repeats": 1}
        return lambda: peer.ask("step", **request)["ms"][0]

    runs |= {variant: asked(peer) for variant, peer in official.items()}
    times = interleaved(runs, args.repeats)
    base = times.get("official, fixed")
    rows = []
    for variant, value in times.items():
        k = OURS.get(variant, {}).get("sparsity", 0.0 if "dense" in variant else 0.7)
        rows.append(
            {
                "data": name,
                "batch": size,
                "model": variant if variant in official else f"equiv {variant}",
                "k": k,
                "step_ms": value,
                "ratio_to_official": None if base is None else base / value,
                "memory_mb": memory.get(variant),
                "speedup_over_dense": times["dense"] / value if variant in mine else None,
            }
        )
    return rows


def layer(file: str, size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The last pair layer, forward and backward."""
    data = read_hamiltonians(file)
    batcher = Batcher(data.basis, "minao")
    batch: Any = batcher.collate(batcher.samples(data[:size]))
    runs: dict[str, Callable[[], None]] = {}
    kept: dict[str, dict[str, float]] = {}
    variants = {**{k: v for k, v in OURS.items() if "parity" not in v}}
    variants["k=0.7, paths only"] = {"sparsity": 0.7, "pair_sparsity": 0.0}
    variants["k=0.7 of multiply-adds"] = {"sparsity": 0.7, "budget": "flops"}
    for name, changes in variants.items():
        model = build(data, args.channels, changes, random_until=1, fixed_from=FIXED_FROM)
        warm(model, batch)
        model.train()
        part: Any = model.pairs[-1]
        given: list[Any] = []
        hook = part.register_forward_pre_hook(lambda _, inputs, into=given: into.extend(inputs))
        model.standardised(batch)
        hook.remove()
        leaves: list[Any] = [
            z.detach().requires_grad_() if torch.is_tensor(z) else z for z in given
        ]
        f, x, every = leaves

        ones = torch.ones_like(f)

        def run(
            part: Any = part, f: Any = f, x: Any = x, every: Any = every, g: Any = ones
        ) -> None:
            part(f, x, every).backward(g)

        runs[name] = run
        share = {"paths": len(part.paths.selection) / len(part.paths.product.paths)}
        if part.pair_gate is not None:
            chosen = part.pair_gate(
                part.invariants(x, every.first, every.second), every.pair_batch, every.counts
            )
            share["pairs"] = len(chosen.rows) / len(every.first)
        if part.paths.gate is not None:
            share["multiply_adds"] = part.paths.gate.cost_share()
        kept[name] = share
    times = interleaved(runs, 3 * args.repeats)
    return [
        {
            "layer": name,
            "ms": value,
            "speedup_over_dense": times["dense"] / value,
            "kept": kept[name],
        }
        for name, value in times.items()
    ]


def errors(file: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Water, every variant trained for the same processor time."""
    data = read_hamiltonians(file)
    batcher = Batcher(data.basis, "minao")
    train = batcher.samples(data[:500])
    test = batcher.samples(data[600:700])
    rows = []
    for name, changes in OURS.items():
        small = {"vectorial_layers": 1, "decay": 1.0, "num_radial": 32}
        model = build(data, 16, {**changes, **small}, random_until=40, fixed_from=100)
        everything: Any = batcher.collate(train)
        model.standardisation.fit([everything.target])
        batches = torch.Generator().manual_seed(0)
        step, began, number = Step(model, None), time.process_time(), 0
        while (share := (time.process_time() - began) / args.train) < 1:
            chosen = torch.randperm(500, generator=batches)[:20].tolist()
            step.batch = batcher.collate([train[i] for i in chosen])
            for group in step.optimizer.param_groups:
                group["lr"] = 0.03 * (1 - share) * min(1.0, (number + 1) / 50)
            step()
            number += 1
            model.advance(number)
        found = evaluate(model.eval(), batcher, test)
        k = changes["sparsity"]
        rows.append({"model": f"equiv {name}", "k": k, "steps": number, **found})
        print(rows[-1], flush=True)
    return rows


def evaluate(model: SPHNet, batcher: Batcher, test: Any) -> dict[str, float]:
    """Errors of the matrix and of occupied orbital energies, uEh."""
    batch: Any = batcher.collate(test)
    with torch.no_grad():
        error = matrices_from_blocks(model(batch) - batch.target, batch.layout)
    reference = torch.stack([sample.frame.hamiltonian for sample in test])
    overlap = torch.stack([sample.frame.overlap for sample in test])
    difference = torch.stack(error)
    compared = orbital_errors(reference + difference, reference, overlap, test[0].occupied)
    return {
        "h_mae_uEh": 1e6 * float(difference.abs().mean()),
        "eps_mae_uEh": 1e6 * float(compared.occupied.abs().mean()),
    }


def kept_by_distance(file: str, channels: int) -> dict[str, list[float]]:
    """Share of the pairs that the gate of the last layer keeps, by distance."""
    data = read_hamiltonians(file)
    batcher = Batcher(data.basis, "minao")
    batch: Any = batcher.collate(batcher.samples(data[:20]))
    model = build(data, channels, {"sparsity": 0.7}, random_until=2, fixed_from=400)
    model.standardisation.fit([batch.target])
    gate = model.pairs[-1].pair_gate
    assert isinstance(gate, PairGate)
    gate.decay = 0.8  # so few steps: the threshold must keep up with the scores
    step = Step(model, batch, 3e-3)
    for t in range(60):
        step()
        model.advance(t + 1)
    found: list[Any] = []
    gate.register_forward_hook(lambda *call: found.append(call[-1]))
    with torch.no_grad():
        model.eval()(batch)
    i, j = batch.layout.first, batch.layout.second
    distances = (batch.positions[i] - batch.positions[j]).norm(dim=1)
    there = torch.zeros(len(i))
    there[found[-1].rows] = 1.0
    edges = torch.linspace(0.9, float(distances.max()) + 0.01, 9, dtype=torch.float64)
    bins = torch.bucketize(distances, edges) - 1
    centres = 0.5 * (edges[1:] + edges[:-1])
    shares = [float(there[bins == b].mean()) for b in range(8)]
    return {"distance_A": centres.tolist(), "kept": shares}


def plot(results: dict[str, Any], path: Path) -> None:
    """Steps, errors against sparsity, kept pairs against distance."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    rows = results.get("rows", [])
    sets = sorted({row["data"] for row in rows})
    names = list(dict.fromkeys(row["model"] for row in rows))
    for n, name in enumerate(sets):
        mine = {row["model"]: row["step_ms"] for row in rows if row["data"] == name}
        places = [i + 0.8 * (n / len(sets)) for i in range(len(names))]
        heights = [mine.get(model, 0.0) for model in names]
        axes[0].barh(places, heights, 0.36, label=name)
    axes[0].set_yticks([i + 0.2 for i in range(len(names))], names, fontsize=8)
    axes[0].set(xlabel="training step (ms)", title="one thread, the same batch")
    axes[0].invert_yaxis()
    axes[0].set_xscale("log")
    if sets:
        axes[0].legend(fontsize=8)
    trained = results.get("errors", [])
    axes[1].set_visible(bool(trained))
    gated = sorted((r["k"], r["h_mae_uEh"]) for r in trained if "QHNet" not in r["model"])
    if gated:
        axes[1].plot(*zip(*gated, strict=True), "o-", label="SPHNet")
        for row in trained:
            if "QHNet" in row["model"]:
                axes[1].plot(0, row["h_mae_uEh"], "s", label="QHNet-style, dense")
        axes[1].set(xlabel="sparsity k", ylabel="H MAE (µEh)", title="water, equal processor time")
        axes[1].set_ylim(0)
        axes[1].legend(fontsize=8)
    if "kept_by_distance" in results:
        shown = results["kept_by_distance"]
        axes[2].plot(shown["distance_A"], shown["kept"], "o-")
        axes[2].axhline(0.3, color="grey", lw=0.8, ls="--", label="1 - k")
        axes[2].set(xlabel="distance (Å)", ylabel="share of pairs kept", title="ethanol, k = 0.7")
        axes[2].set_ylim(0, 1)
        axes[2].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """One table."""
    if not rows:
        return
    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key)
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*cells)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("water")
    parser.add_argument("ethanol")
    parser.add_argument("--official", help="checkout of the authors' repository")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train", type=float, default=60.0, help="CPU seconds of each training")
    parser.add_argument("--only", choices=["steps", "layer", "errors", "distance"], nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "sphnet.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    wanted = args.only or ["steps", "layer", "errors", "distance"]
    if "layer" in wanted:
        results["pair_layer"] = layer(args.ethanol, 10, args)
        show("pair layer, forward and backward, 10 ethanol molecules", results["pair_layer"])
    if "steps" in wanted:
        results["rows"] = [
            *steps("water", args.water, 10, args),
            *steps("ethanol", args.ethanol, 10, args),
        ]
        show("training step", results["rows"])
    if "errors" in wanted:
        results["errors"] = errors(args.water, args)
    if "distance" in wanted:
        results["kept_by_distance"] = kept_by_distance(args.ethanol, 16)
    trained = {row["model"]: row for row in results.get("errors", [])}
    for row in results.get("rows", []):
        known = trained.get(row["model"], {}) if row["data"] == "water" else {}
        row |= {key: known.get(key) for key in ("h_mae_uEh", "eps_mae_uEh")}
        row.setdefault("scf_cycles_ratio", None)  # benchmarks/scf_starts.py
    show("errors", results.get("errors", []))
    path.write_text(json.dumps({"channels": args.channels, **results}, indent=1) + "\n")
    plot(results, RESULTS / "sphnet.png")


if __name__ == "__main__":
    main()
