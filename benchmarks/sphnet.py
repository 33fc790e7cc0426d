"""SPHNet: what its gates save, beside the dense network and beside the official code.

    OMP_NUM_THREADS=1 python -m benchmarks.sphnet WATER.npz ETHANOL.npz
        [--official CHECKOUT] [--qhnet CHECKOUT] [--channels 128] [--repeats 5]
        [--train 60] [--sets water ethanol] [--variants dense k=0.7 ...]
        [--runs ethanol=FOLDER ...] [--minutes 28] [--only steps layer errors distance qhnet]

Steps: forward, loss, backward and AdamW on the same batch (10 molecules and 32, the paper's for
MD17 and for QH9), one thread, interleaved, medians; of ours dense and with a share k of paths and
of pairs dropped (gates fixed, as in 95 % of a training; "products only": every pair, and all that
atoms tell each other, is there), of the same network with the paper's SO(3) features and every pair
(what QHNet computes, at equal size), and with 10 of the authors' codes if checkouts are given: of
github.com/microsoft/SPHNet, and of github.com/divelab/AIRS for QHNet.
Layer: one pair layer forward and backward. Memory: what a step keeps for its backward pass. Errors:
every variant trained on 500 molecules of water and on 240 of ethanol for the same processor time;
each training is stored when it is done, so they can be made one at a time (--sets, --variants).
Runs: errors of finished runs of `equiv train`, whose folders are given; `--only qhnet` trains the
authors' QHNet, as wide as ours, on one core for as many minutes. SCF: what results/scf_starts.json
says of the trained models in models/. Writes results/sphnet.json and results/sphnet.png.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import yaml
from matplotlib.ticker import NullFormatter, ScalarFormatter
from rich.console import Console
from rich.table import Table

from benchmarks.peers.worker import Peer
from equiv.hamiltonian import Batcher, HamiltonianSet, matrices_from_blocks, read_hamiltonians
from equiv.hamiltonian.gates import PairGate
from equiv.hamiltonian.metrics import orbital_errors
from equiv.models import SPHNet

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OURS = {
    "dense": {"sparsity": 0.0},
    "k=0.3": {"sparsity": 0.3},
    "k=0.5": {"sparsity": 0.5},
    "k=0.7": {"sparsity": 0.7},
    "k=0.7 of multiply-adds": {"sparsity": 0.7, "budget": "flops"},
    "k=0.7 of multiply-adds, products only": {
        "sparsity": 0.7,
        "budget": "flops",
        "pair_sparsity": 0.0,
        "message_sparsity": 0.0,
    },
    "QHNet-style (dense, SO(3))": {"sparsity": 0.0, "parity": "so3"},
}
FIXED_FROM = 9  # optimizer steps
BATCHES = (("water", 10), ("ethanol", 10), ("ethanol", 32))
PEERS_BATCH = 10  # with more, the authors' codes need more than 20 GB
PARTS = ("steps", "layer", "errors", "distance")
ASKED = (*PARTS, "qhnet")  # half an hour: only if asked for
SCF = ("scf_cycles_ratio", "scf_wall_ratio", "scf_seconds_saved")
SHIPPED = {name: f"models/{name}_hamiltonian (k=0.7)" for name in ("water", "ethanol")}
PAPER = {"vectorial_layers": 4, "pair_layers": 2, "num_radial": 16, "hidden": 64}


def build(data: HamiltonianSet, channels: int, changes: dict[str, Any], **more: Any) -> SPHNet:
    """A network for these molecules, its gates fixed."""
    torch.manual_seed(0)
    atoms = len(data.frames[0].numbers)
    shape = {**PAPER, "channels": channels, "mean_neighbors": float(atoms - 1), **changes, **more}
    return SPHNet(data.basis, **shape)


def warm(model: SPHNet) -> None:
    """Take the gates through their phases."""
    for t in range(FIXED_FROM):
        model.advance(t + 1)


class Step:
    """A training step of ours."""

    def __init__(self, model: SPHNet, batch: Any, learning_rate: float = 1e-3) -> None:
        self.model, self.optimizer = (
            model.train(),
            torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True),
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
        kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no address occurs twice

        def keep(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            total = loss(self.model, self.batch)
        megabytes = sum(storage.nbytes() for storage in kept.values()) / 2**20
        kept.clear()
        total.backward()
        return megabytes


def loss(model: SPHNet, batch: Any) -> Any:
    """Mean absolute errors at unit scale and in Eh."""
    scaled = model.standardised(batch) - model.standardisation.inverse(batch.target)
    scale = model.standardisation.scale
    parts = [(x.abs().sum(), (x * scale(key)).abs().sum(), x.numel()) for key, x in scaled.items()]
    unit, hartree, entries = (sum(column) for column in zip(*parts, strict=True))
    return (unit + 100 * hartree) / entries


def interleaved(steps: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of processor time of each, taken in turns.

    Every turn takes two steps and counts the second: whoever comes behind a slow peer would pay for
    caches and pages gone cold, which no training does.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            step()
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
        warm(model)
        runs[variant] = mine[variant] = Step(model, batch)
    memory = {variant: step.memory() for variant, step in mine.items()}
    official: dict[str, Peer] = {}
    peers = size == PEERS_BATCH
    for variant in ("dense", "shipped", "fixed") if args.official and peers else ():
        peer = Peer(sys.executable, Path(__file__).parent / "peers" / "sphnet_worker.py", 1)
        peer.ask("open", checkout=args.official, data=file, variant=variant, k=0.7, threads=1)
        official[f"official, {variant}"] = peer
    if args.qhnet and peers:
        official["QHNet, official"] = qhnet(args.qhnet, file, args.channels)

    def asked(peer: Peer) -> Callable[[], float]:
        request = {"indices": list(range(size)), "repeats": 1}
        return lambda: peer.ask("step", **request)["ms"][0]

    runs |= {variant: asked(peer) for variant, peer in official.items()}
    times = interleaved(runs, args.repeats)
    base = times.get("official, fixed")
    rows = []
    for variant, value in times.items():
        thinned = "dense" not in variant and "QHNet" not in variant
        k = OURS.get(variant, {}).get("sparsity", 0.7 if thinned else 0.0)
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


def qhnet(checkout: str, file: str, width: int) -> Peer:
    """The authors' QHNet."""
    peer = Peer(sys.executable, Path(__file__).parent / "peers" / "qhnet_worker.py", 1)
    peer.ask("open", checkout=checkout, data=file, width=width, threads=1)
    return peer


def trained_qhnet(name: str, file: str, width: int, args: argparse.Namespace) -> dict[str, Any]:
    """Errors of the authors' QHNet after so many minutes on one core."""
    course, peer = COURSES[name], qhnet(args.qhnet, file, width)
    places = range(len(read_hamiltonians(file)))
    batch = {"indices": list(places[course.train]), "batch_size": course.batch}
    found = peer.ask("train", seconds=60 * args.minutes, **batch)
    error = peer.ask("error", indices=list(places[course.test]))
    return {
        "data": name,
        "model": "QHNet, official",
        "k": 0.0,
        "channels": width,
        "minutes": round(found["seconds"] / 60, 1),
        "steps": found["steps"],
        **error,
    }


def layer(file: str, size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The first pair layer, forward and backward; of two it is the one with a gate of pairs."""
    data = read_hamiltonians(file)
    batcher = Batcher(data.basis, "minao")
    batch: Any = batcher.collate(batcher.samples(data[:size]))
    runs: dict[str, Callable[[], None]] = {}
    kept: dict[str, dict[str, float]] = {}
    variants = {k: v for k, v in OURS.items() if "parity" not in v}
    for name, changes in variants.items():
        model = build(data, args.channels, changes, random_until=1, fixed_from=FIXED_FROM)
        warm(model)
        model.train()
        part: Any = model.pairs[0]
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
            for leaf in (x, *part.parameters()):
                leaf.grad = None  # as in training: nothing is added up
            # The layer adds to f in place, and gives the gradient back as it is.
            part(f.detach(), x, every).backward(g)

        runs[name] = run
        share = {"paths": len(part.paths.selection) / len(part.paths.product.paths)}
        if part.pair_gate is not None:
            invariants = part.invariants(x, every.first, every.second)
            chosen = part.pair_gate(invariants, every.distances, every.pair_batch, every.counts)
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


@dataclass(frozen=True)
class Course:
    """How the networks of one data set are trained, all alike."""

    train: slice
    test: slice
    batch: int
    learning_rate: float
    shape: dict[str, Any]


COURSES = {
    "water": Course(
        slice(0, 500),
        slice(600, 1000),
        20,
        0.03,
        {"vectorial_layers": 1, "decay": 1.0, "num_radial": 32},
    ),
    "ethanol": Course(
        slice(0, 240),
        slice(270, 300),
        4,
        0.02,
        {"vectorial_layers": 1, "decay": 0.8, "num_radial": 32},
    ),
}
CHANNELS = 16  # of the trained networks
PHASES = {"random_until": 100, "fixed_from": 300}


def trained(name: str, file: str, variant: str, seconds: float) -> dict[str, Any]:
    """One network after so many seconds of processor time; the learning rate falls with them."""
    course, changes = COURSES[name], OURS[variant]
    data = read_hamiltonians(file)
    batcher = Batcher(data.basis, "minao")
    train = batcher.samples(data[course.train])
    model = build(data, CHANNELS, {**changes, **course.shape}, **PHASES)
    everything: Any = batcher.collate(train)
    model.standardisation.fit([everything.target])
    batches = torch.Generator().manual_seed(0)
    step, began, number = Step(model, None), time.process_time(), 0
    while (share := (time.process_time() - began) / seconds) < 1:
        chosen = torch.randperm(len(train), generator=batches)[: course.batch].tolist()
        step.batch = batcher.collate([train[i] for i in chosen])
        for group in step.optimizer.param_groups:
            group["lr"] = course.learning_rate * (1 - share) * min(1.0, (number + 1) / 50)
        step()
        number += 1
        model.advance(number)
    found = evaluate(model.eval(), batcher, batcher.samples(data[course.test]))
    return {
        "data": name,
        "model": f"equiv {variant}",
        "k": changes["sparsity"],
        "channels": CHANNELS,
        "cpu_seconds": seconds,
        "steps": number,
        **found,
    }


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
    """Share of the pairs that the gate of a pair layer keeps, by distance."""
    data = read_hamiltonians(file)
    batcher = Batcher(data.basis, "minao")
    batch: Any = batcher.collate(batcher.samples(data[:20]))
    model = build(data, channels, {"sparsity": 0.7}, random_until=2, fixed_from=400)
    model.standardisation.fit([batch.target])
    gate = model.pairs[0].pair_gate
    assert isinstance(gate, PairGate)
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


KINDS = {
    "paths": "o",
    "multiply-adds": "^",
    "products only": "v",
    "QHNet-style": "s",
    "QHNet, official": "*",
}


def kind_of(model: str) -> str:
    """What is dropped in a network, or whose it is."""
    paths, work, products, style, official = KINDS
    if "QHNet" in model:
        return official if "official" in model else style
    if "products only" in model:
        return products
    return work if "multiply-adds" in model else paths


def errors_by_sparsity(axes: Any, results: dict[str, Any]) -> bool:
    """Errors of networks that were trained for the same time; whether there are any."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in (*results.get("errors", []), *results.get("runs", [])):
        minutes = row["minutes"] if "minutes" in row else row["cpu_seconds"] / 60
        title = f"{row['data']}, {row['channels']} channels, {minutes:.2g} min"
        groups.setdefault(title, []).append(row)
    shown, usual = set(), next(iter(KINDS))
    for n, (title, rows) in enumerate(groups.items()):
        axes.plot([], [], "-", color=f"C{n}", label=title)
        line = sorted((r["k"], r["h_mae_uEh"]) for r in rows if kind_of(r["model"]) == usual)
        if line:
            axes.plot(*zip(*line, strict=True), "-", lw=1, color=f"C{n}")
        for row in rows:
            kind = kind_of(row["model"])
            shown.add(kind)
            style = {"marker": KINDS[kind], "color": f"C{n}", "mfc": "none", "ms": 7}
            axes.plot(row["k"], row["h_mae_uEh"], ls="", **style)
    for kind, marker in KINDS.items():
        if kind in shown:
            axes.plot([], [], marker, color="black", mfc="none", label=kind)
    axes.set(
        xlabel="sparsity k: what is dropped", ylabel="H MAE (µEh)", title="equal time of one core"
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000])
    values = [row["h_mae_uEh"] for rows in groups.values() for row in rows]
    if values:
        axes.set_ylim(0.7 * min(values), 60 * max(values))  # the legend lies above the points
    axes.legend(fontsize=6.5, ncols=2, columnspacing=1.0, handlelength=1.2, loc="upper center")
    return bool(values)


def plot(results: dict[str, Any], path: Path) -> None:
    """Steps, errors against sparsity, kept pairs against distance."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    rows = results.get("rows", [])
    timed = [row for row in rows if "step_ms" in row]
    sets = list(dict.fromkeys((row["data"], row["batch"]) for row in timed))
    names = list(dict.fromkeys(row["model"] for row in timed))
    for n, (data, size) in enumerate(sets):
        mine = {
            row["model"]: row["step_ms"]
            for row in timed
            if (row["data"], row["batch"]) == (data, size)
        }
        places = [i + 0.8 * (n + 0.5) / len(sets) for i in range(len(names))]
        heights = [mine.get(model, 0.0) for model in names]
        axes[0].barh(places, heights, 0.75 / len(sets), label=f"{data}, {size} molecules")
    axes[0].set_yticks([i + 0.4 for i in range(len(names))], names, fontsize=8)
    axes[0].set(xlabel="training step (ms)", title="one thread, the same batch")
    axes[0].invert_yaxis()
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_formatter(ScalarFormatter())
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_xticks([30, 100, 300, 1000, 3000])
    if sets:
        axes[0].legend(fontsize=6.5, loc="center right", bbox_to_anchor=(1.0, 0.57))
    axes[1].set_visible(errors_by_sparsity(axes[1], results))
    if "kept_by_distance" in results:
        shown = results["kept_by_distance"]
        axes[2].plot(shown["distance_A"], shown["kept"], "o-")
        axes[2].axhline(0.3, color="grey", lw=0.8, ls="--", label="1 - k")
        axes[2].set(xlabel="distance (Å)", ylabel="share of pairs kept", title="ethanol, k = 0.7")
        axes[2].set_ylim(0, 1)
        axes[2].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def finished_run(name: str, folder: Path) -> dict[str, Any]:
    """Test errors of a run of ``equiv train``, from what it left in its folder."""
    found = json.loads((folder / "metrics.json").read_text())
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    section, test = recipe["model"], found["splits"]["test"]
    k = section["sparsity"]
    variant = f"k={k:g}" + " of multiply-adds" * (section["budget"] == "flops") if k else "dense"
    variant += ", products only" * (k > 0 and section["pair_sparsity"] == 0)
    if section["parity"] == "so3":
        variant = "QHNet-style (dense, SO(3))"
    last = (folder / "log.csv").read_text().splitlines()
    step, seconds = (last[0].split(",").index(column) for column in ("step", "time_s"))
    cells = last[-1].split(",")
    return {
        "data": name,
        "model": f"equiv {variant}",
        "k": k,
        "channels": section["channels"],
        "minutes": round(float(cells[seconds]) / 60, 1),
        "steps": int(cells[step]),
        "h_mae_uEh": 1e6 * test["hamiltonian"]["mae"],
        "eps_mae_uEh": 1e6 * test["occupied"]["mae"],
        "gap_mae_uEh": 1e6 * test["gap"]["mae"],
    }


def scf_columns(results: dict[str, Any]) -> None:
    """Put errors and what SCFs save beside the times."""
    found = {(row["data"], row["model"]): row for row in results.get("errors", [])}
    starts = json.loads((RESULTS / "scf_starts.json").read_text())["rows"]
    shipped = {row["model"]: row for row in starts if row["set"] == "test"}
    rows = [row for row in results.get("rows", []) if row["model"] not in SHIPPED.values()]
    for row in rows:
        known = found.get((row["data"], row["model"]), {})
        row |= {key: known.get(key) for key in ("h_mae_uEh", "eps_mae_uEh")}
        row |= dict.fromkeys(SCF)
    for name, label in SHIPPED.items():
        folder = ROOT / "models" / f"{name}_hamiltonian"
        test = json.loads((folder / "metrics.json").read_text())["splits"]["test"]
        errors = {
            "h_mae_uEh": 1e6 * test["hamiltonian"]["mae"],
            "eps_mae_uEh": 1e6 * test["occupied"]["mae"],
        }
        saved = {key: shipped.get(name, {}).get(key) for key in SCF}
        rows.append({"data": name, "model": label, "k": 0.7, **errors, **saved})
    results["rows"] = rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """One table."""
    if not rows:
        return
    table = Table(title=title)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for key in columns:
        table.add_column(key)
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in map(row.get, columns))
        table.add_row(*cells)
    Console(width=200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("water")
    parser.add_argument("ethanol")
    parser.add_argument("--official", help="checkout of the authors' repository")
    parser.add_argument("--qhnet", help="checkout of QHNet's authors' repository")
    parser.add_argument("--width", type=int, default=64, help="channels of QHNet in training")
    parser.add_argument("--minutes", type=float, default=28.0, help="of its training")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train", type=float, default=60.0, help="CPU seconds of each training")
    parser.add_argument("--sets", nargs="+", choices=list(COURSES), default=list(COURSES))
    parser.add_argument("--variants", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--runs", nargs="*", default=[], metavar="SET=FOLDER")
    parser.add_argument("--only", choices=ASKED, nargs="*", default=PARTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "sphnet.json"
    files = {"water": args.water, "ethanol": args.ethanol}

    def store(**parts: Any) -> dict[str, Any]:
        """Read again before writing: another part may have been stored meanwhile."""
        results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        results |= parts
        scf_columns(results)
        path.write_text(json.dumps(results, indent=1) + "\n")
        return results

    if "layer" in args.only:
        store(channels=args.channels, pair_layer=layer(args.ethanol, 10, args))
    if "steps" in args.only:
        rows = [row for name, size in BATCHES for row in steps(name, files[name], size, args)]
        store(channels=args.channels, rows=rows)
    if "errors" in args.only:
        for name in args.sets:
            for variant in args.variants:
                row = trained(name, files[name], variant, args.train)
                print(row, flush=True)
                others = [r for r in store().get("errors", []) if not same(r, row)]
                store(errors=[*others, row])
    if "qhnet" in args.only:
        row = trained_qhnet("ethanol", args.ethanol, args.width, args)
        store(runs=[*(r for r in store().get("runs", []) if not same(r, row)), row])
    for text in args.runs:
        name, _, folder = text.partition("=")
        row = finished_run(name, Path(folder))
        others = [r for r in store().get("runs", []) if not same(r, row)]
        store(runs=[*others, row])
    if "distance" in args.only:
        store(kept_by_distance=kept_by_distance(args.ethanol, 16))
    results = store()
    titles = {
        "pair_layer": "pair layer, forward and backward, 10 ethanol molecules",
        "rows": "training step",
        "errors": "errors after equal processor time",
        "runs": "errors of finished runs",
    }
    for key, title in titles.items():
        show(title, results.get(key, []))
    plot(results, RESULTS / "sphnet.png")


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether both rows are of the same network and data."""
    return (one["data"], one["model"]) == (two["data"], two["model"])


if __name__ == "__main__":
    main()
