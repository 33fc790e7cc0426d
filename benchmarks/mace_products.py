"""MACE with each of its tensor products: error after a short training, and time per step.

Parts can be run one by one and are put together in one file of results:

- ``contraction``: the Clebsch-Gordan many-body product, which multiplies no zeros, against the same
  polynomials evaluated with dense couplings by Horner's rule;
- ``powers``: the many-body product on one grid against the same product as a chain of pairwise
  products on their own minimal grids, both by kernels, for three and four factors;
- ``steps``: the time of a training step (energy, forces, gradients of all weights, Adam) of MACE
  with each product; the products take turns, medians are kept;
- ``plot``: the tables and the picture alone, from the results that are there;
- ``train:PRODUCT``: a small MACE trained on 300 K structures of acetylacetone and tested on others,
  the same number of steps for every product.

    OMP_NUM_THREADS=1 python benchmarks/mace_products.py [--data FOLDER] [PART ...]

Prints tables and writes results/mace_products.json and .png next to this file. The data are the
BOTNet data set of acetylacetone (``acac``), which ``FOLDER`` contains.
"""

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from equiv.graph import AtomGraph, collate
from equiv.models import build_model
from equiv.so3 import symmetric_couplings
from equiv.so3.grids import lebedev_grid
from equiv.tensor_products import (
    MANY_BODY_PRODUCTS,
    GauntManyBodyProduct,
    ManyBodyProduct,
    SymmetricPolynomial,
)
from equiv.tensor_products.gaunt_grid import GridProduct
from equiv.tensor_products.many_body_grid import power_scales, signal_scales
from equiv.tensor_products.powers import degree_scales

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PRODUCTS = tuple(MANY_BODY_PRODUCTS)
SMALL = {"channels": 16, "hidden_degree": 1, "edge_degree": 3, "correlation": 3}
SETTINGS = {
    "16 channels, 5 molecules": (SMALL, 5),
    "64 channels, 5 molecules": (SMALL | {"channels": 64}, 5),
    "64 channels, 16 molecules": (SMALL | {"channels": 64}, 16),
}
EPOCHS = 24


BATCHES = {  # atoms of each element
    "192 atoms, 2 elements": [64, 128],
    "32 molecules": [256, 160, 64],
    "1000 atoms, 1 element": [1000],
    "1 molecule": [8, 5, 2],
}


class DenseHorner:
    """Polynomials of order three with every coupling, zero or not, one factor after the other."""

    def __init__(self, product: ManyBodyProduct) -> None:
        self.polynomials = [p for p in product.polynomials if isinstance(p, SymmetricPolynomial)]
        degree = self.polynomials[0].degree_in
        self.dim = (degree + 1) ** 2
        self.left, self.right = torch.triu_indices(self.dim, self.dim)
        twice = torch.where(self.left == self.right, 1.0, 2.0)
        self.couplings = []
        for p in self.polynomials:
            u1, u2, u3 = (symmetric_couplings(degree, nu, p.degree_out) for nu in (1, 2, 3))
            u3 = u3[:, :, self.left, self.right] * twice[:, None]
            orders = (u1, u2.transpose(1, 2), u3.transpose(1, 2))
            self.couplings.append([u.float().flatten(1) for u in orders])

    def __call__(self, x: Tensor, counts: list[int]) -> Tensor:
        x = x.permute(2, 0, 1).contiguous()
        blocks = []
        for z, atoms in enumerate(x.split(counts, dim=1)):
            pairs = atoms[..., self.left] * atoms[..., self.right]
            out = []
            for p, couplings in zip(self.polynomials, self.couplings, strict=True):
                c1, c2, c3 = (w[z].T @ u for w, u in zip(p.weights, couplings, strict=True))
                t = torch.baddbmm(c1.unsqueeze(1), atoms, c2.unflatten(1, (self.dim, -1)))
                t = torch.baddbmm(t, pairs, c3.unflatten(1, (pairs.shape[2], -1)))
                t = t.unflatten(2, (-1, self.dim))
                out.append((t @ atoms.unsqueeze(3)).squeeze(3))
            blocks.append(torch.cat(out, dim=2))
        return torch.cat(blocks, dim=1).permute(1, 2, 0)


def contraction() -> list[dict]:
    rows = []
    print(f"{'atoms':22} {'pass':18} {'dense':>8} {'sparse':>8} {'ratio':>6}   (ms)")
    for setting, counts in BATCHES.items():
        product = ManyBodyProduct(3, 1, 64, correlation=3, num_elements=len(counts))
        dense, weights = DenseHorner(product), list(product.parameters())
        x = torch.randn(sum(counts), 16, 64)
        torch.testing.assert_close(product(x, counts), dense(x, counts), atol=1e-4, rtol=1e-4)

        def forward(f: Callable, x: Tensor = x, counts: list[int] = counts) -> None:
            with torch.no_grad():
                f(x, counts)

        def forces(f: Callable, x: Tensor = x, counts: list[int] = counts) -> None:
            y = x.clone().requires_grad_()
            torch.autograd.grad(f(y, counts).square().sum(), y)

        def training(
            f: Callable, x: Tensor = x, counts: list[int] = counts, w: list = weights
        ) -> None:
            y = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(f(y, counts).square().sum(), y, create_graph=True)
            torch.autograd.grad(g.square().sum(), w)

        tasks = {"forward": forward, "+ gradient": forces, "+ its gradient": training}
        for name, task in tasks.items():
            ms = median(
                {"dense": lambda t=task, f=dense: t(f), "sparse": lambda t=task, f=product: t(f)},
                12,
            )
            ratio = ms["dense"] / ms["sparse"]
            rows.append({"atoms": setting, "pass": name, **ms, "ratio": ratio})
            print(f"{setting:22} {name:18} {ms['dense']:8.2f} {ms['sparse']:8.2f} {ratio:6.1f}")
    return rows


class ChainedPowers:
    """Pairwise Gaunt products by the package's kernel, each on its smallest exact grid."""

    def __init__(self, degree: int, degree_out: int, correlation: int) -> None:
        self.components = (degree_out + 1) ** 2
        scales = degree_scales(signal_scales(degree), degree)
        self.scales = scales.float()[:, None]
        self.steps = []
        for power in range(2, correlation + 1):
            degrees = [(power - 1) * degree, degree, power * degree]
            if power == correlation:
                degrees[2] = degree_out
            ones = [torch.ones((l + 1) ** 2, dtype=torch.float64) for l in degrees]
            product = GridProduct(lebedev_grid(sum(degrees)), ones)
            gamma = degree_scales(power_scales(degree, degree_out, power), degree_out)
            self.steps.append((product, gamma.float()[:, None]))

    def __call__(self, x: Tensor) -> list[Tensor]:
        x = self.scales * x
        z, out = x, []
        for product, gamma in self.steps:
            z = product(z, x)
            out.append(gamma * z[:, : self.components])
        return out


def median(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of processor time, which other programs do not lengthen; in turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 2):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: 1e3 * statistics.median(t[2:]) for name, t in times.items()}


def powers() -> list[dict]:
    rows, atoms = [], 400
    print(
        f"{'L':>2} {'channels':>8} {'factors':>7} {'pass':18} {'chained':>8} {'one grid':>8} "
        f"{'ratio':>6}   (ms)"
    )
    for degree, channels in itertools.product((1, 2, 3), (16, 64)):
        for correlation in (3, 4):
            degree_out = 1
            one = GauntManyBodyProduct(
                degree, degree_out, channels, correlation=correlation, num_elements=1
            )
            chain = ChainedPowers(degree, degree_out, correlation)
            x = torch.randn(atoms, (degree + 1) ** 2, channels)
            for a, b in zip(one.powers(x), chain(x), strict=True):
                torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)

            def forward(f: Callable, x: Tensor = x) -> None:
                with torch.no_grad():
                    f(x)

            def both(f: Callable, x: Tensor = x) -> None:
                y = x.clone().requires_grad_()
                torch.autograd.grad(sum(z.square().sum() for z in f(y)), y)

            for name, task in {"forward": forward, "forward + backward": both}.items():
                ms = median(
                    {
                        "chained": lambda t=task, f=chain: t(f),
                        "one_grid": lambda t=task, f=one.powers: t(f),
                    },
                    15,
                )
                ratio = ms["chained"] / ms["one_grid"]
                case = {"L": degree, "channels": channels, "factors": correlation, "pass": name}
                rows.append(case | ms | {"ratio": ratio})
                print(
                    f"{degree:2} {channels:8} {correlation:7} {name:18} {ms['chained']:8.2f} "
                    f"{ms['one_grid']:8.2f} {ratio:6.1f}"
                )
    return rows


def steps(data: Path) -> list[dict]:
    import ase.io

    structures = ase.io.read(data / "acac" / "train_300K.xyz", ":16")
    rows = []
    for setting, (choice, molecules) in SETTINGS.items():
        functions = {}
        for product in PRODUCTS:
            model = build_model(
                "mace",
                seed=0,
                dtype=torch.float32,
                elements=["H", "C", "O"],
                cutoff=5.0,
                mean_neighbors=12.0,
                reference_energies={"H": 0.0, "C": 0.0, "O": 0.0},
                product=product,
                **choice,
            ).train()
            graphs = [AtomGraph.from_atoms(a, model.cutoff) for a in structures[:molecules]]
            batch = collate(graphs)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

            def step(model=model, batch=batch, optimizer=optimizer) -> None:
                optimizer.zero_grad()
                prediction = model(batch, forces=True)
                loss = prediction.energy.square().mean() + prediction.forces.square().mean()
                loss.backward()
                optimizer.step()

            functions[product] = step
        ms = median(functions, 12)
        for product in PRODUCTS:
            rows.append(
                {
                    "setting": setting,
                    "product": product,
                    "ms": ms[product],
                    "per_gaunt_grid": ms[product] / ms["gaunt_grid"],
                }
            )
        print(f"{setting}: " + ", ".join(f"{p} {t:.1f} ms" for p, t in ms.items()))
        print(f"    gaunt_fourier / gaunt_grid = {ms['gaunt_fourier'] / ms['gaunt_grid']:.2f}")
    return rows


def train(product: str, data: Path) -> dict:
    from equiv.train import run

    folder = data / "acac"
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        result = run(
            {
                "data": {
                    "train": [str(folder / "train_300K.xyz"), str(folder / "isolated_atoms.xyz")],
                    "test": {
                        "300 K": str(folder / "test_MD_300K.xyz"),
                        "600 K": str(folder / "train_600K.xyz"),
                    },
                    "valid_fraction": 0.05,
                    "reference_energies": "isolated",
                },
                "model": {"name": "mace", "cutoff": 5.0, "product": product, **SMALL},
                "train": {
                    "epochs": EPOCHS,
                    "batch_size": 5,
                    "loss": "mse",
                    "energy_weight": 10.0,
                    "final_energy_weight": 100.0,
                    "forces_weight": 100.0,
                    "learning_rate": 0.01,
                    "final_learning_rate": 1e-4,
                    "ema_decay": 0.99,
                    "threads": 1,
                    "seed": 1,
                },
                "output": output,
            },
            report=False,
        )
        seconds = time.perf_counter() - start
        row: dict = {"product": product, "epochs": EPOCHS, "seconds": seconds}
        for split in ("300 K", "600 K"):
            metrics = result.metrics[split]
            row[f"{split} forces, meV/A"] = 1e3 * metrics["forces"]["rmse"]
            row[f"{split} energy, meV/atom"] = 1e3 * metrics["energy_per_atom"]["rmse"]
    print(", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{v}" for k, v in row.items()))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    every = [
        "plot",
        "contraction",
        "powers",
        "steps",
        *(f"train:{product}" for product in PRODUCTS),
    ]
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(every))
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(every)
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)}; there are {', '.join(every)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "mace_products.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for part in arguments.parts or every[1:]:
        if part == "plot":
            continue
        if part == "contraction":
            results["contraction"] = contraction()
        elif part == "powers":
            results["powers"] = powers()
        elif part == "steps":
            results["steps"] = steps(arguments.data)
        else:
            trained = results.setdefault("trained", {})
            product = part.removeprefix("train:")
            trained[product] = train(product, arguments.data)
        results["about"] = {
            "setting": f"acac, {SMALL}, {EPOCHS} epochs",
            "unit": "ms, median",
            "threads": torch.get_num_threads(),
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        }
        path.write_text(json.dumps(results, indent=1) + "\n")
    if {"contraction", "powers", "steps", "trained"} <= set(results):
        table(results)
        plot(results, path.with_suffix(".png"))


def table(results: dict) -> None:
    print(
        f"\n{'product':15} {'step, ms':>9} {'300 K meV/A':>12} {'600 K meV/A':>12} "
        f"{'600 K meV/atom':>15}   (16 channels, {EPOCHS} epochs)"
    )
    first = next(iter(SETTINGS))
    for product, row in results["trained"].items():
        (ms,) = (
            r["ms"] for r in results["steps"] if r["product"] == product and r["setting"] == first
        )
        print(
            f"{product:15} {ms:9.1f} {row['300 K forces, meV/A']:12.1f} "
            f"{row['600 K forces, meV/A']:12.1f} {row['600 K energy, meV/atom']:15.2f}"
        )


def plot(results: dict, path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((left, middle), (low, right)) = plt.subplots(
        2, 2, figsize=(11, 7.6), layout="constrained"
    )
    colours = dict(zip(PRODUCTS, plt.get_cmap("tab10").colors, strict=False))
    width = 0.8 / len(PRODUCTS)
    for k, product in enumerate(PRODUCTS):
        heights = [r["ms"] for r in results["steps"] if r["product"] == product]
        left.bar(
            [i + (k - (len(PRODUCTS) - 1) / 2) * width for i in range(len(heights))],
            heights,
            width,
            label=product,
            color=colours[product],
        )
    left.set(ylabel="ms per training step", yscale="log", title="time")
    left.set_xticks(range(len(SETTINGS)), [s.replace(", ", "\n") for s in SETTINGS])
    left.legend(fontsize="x-small")

    first = next(iter(SETTINGS))
    times = {r["product"]: r["ms"] for r in results["steps"] if r["setting"] == first}
    for product, row in results["trained"].items():
        middle.plot(
            times[product], row["600 K forces, meV/A"], "o", ms=8, color=colours[product],
            label=product,
        )  # fmt: skip
        middle.annotate(
            product, (times[product], row["600 K forces, meV/A"]), fontsize="small",
            xytext=(6, 4), textcoords="offset points",
        )  # fmt: skip
    middle.set(
        xlabel="ms per training step",
        ylabel="force error at 600 K, meV/Å (RMSE)",
        title=f"trained at 300 K, {EPOCHS} epochs, 16 channels",
    )
    middle.margins(0.25)

    for passed, marker in (("forward", "o"), ("forward + backward", "s")):
        for factors, style in ((3, "-"), (4, "--")):
            rows = [
                r
                for r in results["powers"]
                if (r["pass"], r["factors"], r["channels"]) == (passed, factors, 64)
            ]
            right.plot(
                [r["L"] for r in rows], [r["ratio"] for r in rows], style, marker=marker,
                label=f"{factors} factors, {passed}",
            )  # fmt: skip
    passes = list(dict.fromkeys(r["pass"] for r in results["contraction"]))
    for k, name in enumerate(passes):
        ratios = [r["ratio"] for r in results["contraction"] if r["pass"] == name]
        low.bar([i + (k - 1) * 0.27 for i in range(len(ratios))], ratios, 0.27, label=name)
    low.set_xticks(range(len(BATCHES)), [s.replace(", ", "\n") for s in BATCHES])
    low.axhline(1, color="0.6", lw=0.8)
    low.set(ylabel="dense couplings / sparse", title="Clebsch-Gordan product, l ≤ 3, three factors")
    low.legend(fontsize="x-small")

    right.axhline(1, color="0.6", lw=0.8)
    right.set(
        xlabel="degree L",
        ylabel="chained / one grid",
        title="powers on one grid, 64 channels",
        ylim=(0, None),
    )
    right.set_xticks([1, 2, 3])
    right.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
