"""Every tensor product of the package beside e3nn's, for degrees 1 to 8 and to 20.

    python benchmarks/tensor_products.py [--quick] [--part] [--degrees 1 2 3 ...] [--channels 8 64]
                                         [--settings MIMO SIMO SISO HIGH] [--high 10 12 ...]

One thread, float32, 1000 rows, all methods of a case in turns, medians of processor time, which
does not count what other programs take. Settings: ``MIMO``, all degrees up to L in both inputs and
the result; ``SIMO``, one degree L in both inputs and all natural degrees in the result; ``SISO``,
one degree everywhere. Passes: ``forward``; ``backward``, which is forward and the gradients of both
inputs and the weights; ``double``, a gradient, and the gradients of its square (what training on
forces does).

The peer of a row is ``e3nn.o3.TensorProduct`` in mode ``uuu`` with a weight for each path and
channel, in the faster of its two ready modes (plain or TorchScript). ``e3nn compiled`` is
``torch.compile`` of it. Ours works channels last (``forward_spherical``); ``gaunt_grid, flat`` is
the same from and to e3nn's layout. ``clebsch_gordan`` is e3nn's map. The Gaunt, matrix and vector
products have their own fixed path weights times weights for each degree and channel:
``ms_per_expressivity`` divides by the dimension of the bilinear maps that the weights reach.

``HIGH`` follows the grids to degree 20 and fits their slopes in ``log(L + 1)``. Writes
``results/tensor_products.json`` and ``results/tensor_products.png``. All cases take an hour; with
``--part`` the cases asked for replace those in the file, and the others stay.
"""

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import e3nn
import matplotlib
import numpy as np
import torch
from e3nn import o3

from equiv.so3 import Irreps
from equiv.tensor_products import tensor_product
from equiv.tensor_products.expressivity import expressivity

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
ROWS = 1000
SETTINGS = ("MIMO", "SIMO", "SISO")
PASSES = ("forward", "backward", "double")
METHODS = ("clebsch_gordan", "gaunt_grid", "gaunt_fourier", "matrix", "vector_signal")
E3NN_COMPILED_UP_TO = 2  # higher degrees take it minutes to compile
HIGH_DEGREES = (10, 12, 14, 16, 18, 20)
HIGH_METHODS = {
    "gaunt_grid, dense": dict(method="gaunt_grid", grid="product"),
    "gaunt_grid, separable": dict(method="gaunt_grid", grid="separable"),
    "gaunt_grid": dict(method="gaunt_grid"),
    "matrix": dict(method="matrix"),
}


def irreps(degrees: list[int], channels: int) -> Irreps:
    """Channels of natural parity: even degrees even, odd degrees odd."""
    return Irreps([(channels, (l, (-1) ** l)) for l in degrees])


def setting_irreps(setting: str, degree: int, channels: int) -> tuple[Irreps, Irreps, Irreps]:
    """Irreps of both inputs and the result."""
    if setting == "MIMO":
        every = irreps(list(range(degree + 1)), channels)
        return every, every, every
    one = irreps([degree], channels)
    # Natural parity allows even l1 + l2 + l3 only.
    out = list(range(0, 2 * degree + 1, 2)) if setting == "SIMO" else [degree + degree % 2]
    return one, one, irreps(out, channels)


def of_e3nn(in1: Irreps, in2: Irreps, out: Irreps, mode: str) -> o3.TensorProduct:
    paths = [
        (i, j, k, "uuu", True)
        for i, (_, a) in enumerate(in1)
        for j, (_, b) in enumerate(in2)
        for k, (_, c) in enumerate(out)
        if c in a * b
    ]
    before = e3nn.get_optimization_defaults()["jit_mode"]
    e3nn.set_optimization_defaults(jit_mode=mode)
    try:
        return o3.TensorProduct(in1, in2, out, paths)
    finally:
        e3nn.set_optimization_defaults(jit_mode=before)


Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def contenders(
    setting: str, degree: int, channels: int
) -> dict[str, tuple[Product, list[torch.Tensor], torch.nn.Module]]:
    """By name: what is called, its arguments, and the module behind it."""
    in1, in2, out = setting_irreps(setting, degree, channels)
    flat = [torch.randn(ROWS, irreps.dim) for irreps in (in1, in2)]
    result: dict[str, tuple[Product, list[torch.Tensor], torch.nn.Module]] = {}
    for name, mode in (("e3nn", "eager"), ("e3nn script", "script")):
        module = of_e3nn(in1, in2, out, mode)
        result[name] = (module, flat, module)
    if degree <= E3NN_COMPILED_UP_TO and setting == "MIMO":
        module = of_e3nn(in1, in2, out, "eager")
        result["e3nn compiled"] = (torch.compile(module), flat, module)
    for method in METHODS:
        options = {"mode": "uuu"} if method == "clebsch_gordan" else {}
        module = tensor_product(in1, in2, out, method=method, **options)
        if setting == "MIMO":
            arguments = [torch.randn(ROWS, (degree + 1) ** 2, channels) for _ in range(2)]
            result[method] = (module.forward_spherical, arguments, module)
            if method == "gaunt_grid":
                result["gaunt_grid, flat"] = (module, flat, module)
        else:
            result[method] = (module, flat, module)
    return result


def runner(
    product: Product, arguments: list[torch.Tensor], module: torch.nn.Module, kind: str
) -> Callable[[], None]:
    """One evaluation of a pass."""
    weights = [p for p in module.parameters() if p.requires_grad]
    x, y = (a.clone().requires_grad_(kind != "forward") for a in arguments)

    def forward() -> None:
        with torch.no_grad():
            product(x, y)

    def backward() -> None:
        torch.autograd.grad(product(x, y).square().sum(), [x, y, *weights])

    def double() -> None:
        (gradient,) = torch.autograd.grad(product(x, y).square().sum(), x, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), [x, y, *weights])

    return {"forward": forward, "backward": backward, "double": double}[kind]


def measure(runs: dict[str, Callable[[], None]], budget: float) -> dict[str, float]:
    """Median milliseconds of each run, taken in turns for about ``budget`` seconds in all."""
    repeats = {}
    for name in list(runs):
        try:
            runs[name]()
        except RuntimeError as error:
            if name != "e3nn compiled":
                raise
            print(f"  {name}: {str(error).splitlines()[0]}")
            del runs[name]
            continue
        start = time.process_time()
        runs[name]()
        repeats[name] = max(1, math.ceil(0.02 / (time.process_time() - start)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    started, rounds = time.process_time(), 0
    while rounds < 3 or (rounds < 25 and time.process_time() - started < budget):
        rounds += 1
        for name, run in runs.items():
            start = time.process_time()
            for _ in range(repeats[name]):
                run()
            times[name].append(1e3 * (time.process_time() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def compare(setting: str, degree: int, channels: int, kind: str, budget: float) -> list[dict]:
    """Rows of one case."""
    torch.manual_seed(0)
    parts = contenders(setting, degree, channels)
    if kind == "double":  # a compiled e3nn cannot be differentiated twice
        parts.pop("e3nn compiled", None)
    medians = measure({name: runner(*part, kind) for name, part in parts.items()}, budget)
    peer = min(medians["e3nn"], medians["e3nn script"])
    rows = []
    for name, ms in medians.items():
        method = name.partition(",")[0]
        row = {
            "method": name,
            "setting": setting,
            "L": degree,
            "channels": channels,
            "pass": kind,
            "ms": ms,
            "peer_ms": peer,
            "ratio": peer / ms,
            "us_per_row": 1e3 * ms / ROWS,
            "ms_per_output_irrep": ms / len(setting_irreps(setting, degree, channels)[2]),
        }
        if method in METHODS and setting == "MIMO":
            dimension = expressivity_of(method, degree)
            row["expressivity"] = dimension
            row["ms_per_expressivity"] = ms / (dimension * channels)
        rows.append(row)
    return rows


_EXPRESSIVITY: dict[tuple[str, int], int] = {}


def expressivity_of(method: str, degree: int) -> int:
    """Dimension of the maps of one channel that the weights reach."""
    if (method, degree) not in _EXPRESSIVITY:
        one = irreps(list(range(degree + 1)), 1)
        options = {"mode": "uuu"} if method == "clebsch_gordan" else {}
        _EXPRESSIVITY[method, degree] = expressivity(
            tensor_product(one, one, one, method=method, **options)
        )
    return _EXPRESSIVITY[method, degree]


def high_degree(degree: int, budget: float) -> list[dict]:
    """The products beyond e3nn's reach, 8 channels, forward."""
    every, runs = irreps(list(range(degree + 1)), 8), {}
    for name, options in HIGH_METHODS.items():
        module = tensor_product(every, every, every, **options)
        arguments = [torch.randn(ROWS, (degree + 1) ** 2, 8) for _ in range(2)]
        runs[name] = runner(module.forward_spherical, arguments, module, "forward")
    medians = measure(runs, budget)
    print(f"L={degree:2}  " + "  ".join(f"{name} {ms:.1f} ms" for name, ms in medians.items()))
    return [
        {"method": name, "setting": "MIMO", "L": degree, "channels": 8,
         "pass": "forward", "ms": ms, "peer_ms": None, "ratio": None}
        for name, ms in medians.items()
    ]  # fmt: skip


def slopes(rows: list[dict]) -> dict[str, float]:
    """Exponents of the time in L + 1, by least squares in the logarithms."""
    result = {}
    for name in HIGH_METHODS:
        points = [(r["L"] + 1, r["ms"]) for r in rows if r["method"] == name]
        if len(points) < 2:
            continue
        x, y = np.log(np.array(points, dtype=float)).T
        result[name] = float(np.polyfit(x, y, 1)[0])
    return result


def show(rows: list[dict]) -> None:
    first = rows[0]
    print(
        f"\n{first['setting']} L={first['L']} {first['channels']} channels, {first['pass']} "
        f"(e3nn {first['peer_ms']:.2f} ms)"
    )
    for row in rows:
        each = f"{row['ms_per_output_irrep']:9.3f} ms/irrep"
        if "ms_per_expressivity" in row:
            each += f"  {1e3 * row['ms_per_expressivity']:8.2f} us/unit of expressivity"
        print(f"  {row['method']:18}{row['ms']:10.3f} ms {row['ratio']:7.2f}x {each}", flush=True)


def plot(rows: list[dict], high: list[dict], exponents: dict[str, float], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    names = list(dict.fromkeys(r["method"] for r in rows))
    colors = dict(zip(names, plt.cm.tab10.colors, strict=False))
    for axis, kind in zip(axes, ("forward", "backward"), strict=False):
        for name in names:
            points = [
                (r["L"] + 1, r["ms"])
                for r in rows
                if (r["method"], r["setting"], r["channels"], r["pass"]) == (name, "MIMO", 8, kind)
            ]
            if points:
                axis.loglog(*zip(*points, strict=True), "o-", ms=3, color=colors[name], label=name)
        axis.set_title({"forward": "forward", "backward": "forward + backward"}[kind])
        axis.set_ylabel("ms, 1000 rows, 8 channels")
    for name, color in zip(HIGH_METHODS, ("#d95f02", "#1b9e77", "#7570b3", "0.5"), strict=True):
        points = [(r["L"] + 1, r["ms"]) for r in high if r["method"] == name]
        if points:
            axes[2].loglog(
                *zip(*points, strict=True), "o-", ms=3, color=color,
                label=f"{name}, slope {exponents[name]:.1f}",
            )  # fmt: skip
    axes[2].set_title("high degrees, forward")
    for axis in axes:
        axis.set_xlabel("L + 1")
        ticks = (2, 3, 4, 5, 6, 7, 8, 9) if axis is not axes[2] else (11, 13, 15, 17, 19, 21)
        axis.set_xticks(ticks, ticks)
        axis.minorticks_off()
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


Key = tuple[Any, ...]


def key_of(row: dict) -> Key:
    """What a row measures."""
    return tuple(row[name] for name in ("setting", "L", "channels", "pass", "method"))


def together(old: list[dict], new: list[dict]) -> list[dict]:
    """Old and new rows, new ones in place of old ones of the same case."""
    cases = {key_of(row)[:4] for row in new}
    rows = [row for row in old if key_of(row)[:4] not in cases] + new
    order = {name: n for n, name in enumerate((*SETTINGS, *PASSES))}
    return sorted(
        rows, key=lambda r: (order[r["setting"]], r["channels"], r["L"], order[r["pass"]])
    )


def store(path: Path, new: list[dict]) -> list[dict]:
    """Add rows to a file, and return all that are in it."""
    rows = together(json.loads(path.read_text())["rows"] if path.exists() else [], new)
    exponents = slopes([row for row in rows if row["peer_ms"] is None])
    path.write_text(json.dumps({"rows": rows, "slopes": exponents}, indent=1) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="degrees 1 to 3, 8 channels, MIMO")
    parser.add_argument("--part", action="store_true", help="keep the other rows of the results")
    parser.add_argument("--degrees", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--high", type=int, nargs="+", default=list(HIGH_DEGREES))
    parser.add_argument("--settings", nargs="+", default=[*SETTINGS, "HIGH"])
    parser.add_argument("--budget", type=float, default=1.5, help="seconds for each case")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    if arguments.quick:
        plan = [("MIMO", l, 8, kind) for l in (1, 2, 3) for kind in PASSES]
    else:
        plan = [
            (setting, degree, channels, kind)
            for setting in SETTINGS
            if setting in arguments.settings
            for channels in (arguments.channels if setting == "MIMO" else arguments.channels[:1])
            for degree in arguments.degrees
            for kind in PASSES
        ]
    name = "tensor_products_quick" if arguments.quick else "tensor_products"
    stored = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    if not arguments.part:
        stored.unlink(missing_ok=True)
    started = time.monotonic()
    for number, case in enumerate(plan):
        found = compare(*case, arguments.budget)
        show(found)
        store(stored, found)
        left = (time.monotonic() - started) / (number + 1) * (len(plan) - number - 1)
        print(f"  [{number + 1}/{len(plan)}, about {left / 60:.0f} min left]", flush=True)
    if "HIGH" in arguments.settings and not arguments.quick:
        for degree in arguments.high:
            store(stored, high_degree(degree, arguments.budget))
    rows = store(stored, [])
    high = [row for row in rows if row["peer_ms"] is None]
    exponents = slopes(high)
    for grid, exponent in exponents.items():
        print(f"{grid}: time grows as (L + 1)^{exponent:.2f} for L = 10..20")
    compared = [row for row in rows if row["peer_ms"] is not None]
    plot(compared, high, exponents, stored.with_suffix(".png"))


if __name__ == "__main__":
    main()
