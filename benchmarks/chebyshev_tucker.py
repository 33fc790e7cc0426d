"""The experiments of the hybrid Chebyshev-Tucker format: errors and ranks against degree.

After Benner, Khoromskij, Khoromskaia, Sun (arXiv:2503.01696): smooth functions; the Newton kernel
as a sum of Gaussians, whole and its long-range part; the long-range potential of a cloud of charges
like a bio-molecule and of a lattice of dipoles. Then the same cloud with the range separation of
this package, whose Gaussians are as wide as the error permits. Charges are generated here; give a
structure file to add the potential of its atoms.

Prints tables and writes results/chebyshev_tucker.json and .png next to this file.

    OMP_NUM_THREADS=1 python benchmarks/chebyshev_tucker.py [STRUCTURE.xyz]
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from equiv.long_range.canonical import CanonicalTensor, canonical_potential
from equiv.long_range.chebyshev import (
    chebyshev_nodes,
    chebyshev_polynomials,
    coefficients_from_values,
)
from equiv.long_range.gaussian_sums import GaussianSum, inverse_power
from equiv.long_range.hybrid import UNIT_BOX, ChebyshevTuckerFunction
from equiv.long_range.range_separation import range_separation

Array = NDArray[np.float64]

FUNCTIONS = {
    "Runge, 1/(1 + 25 r^2)": lambda x, y, z: 1 / (1 + 25 * (x**2 + y**2 + z**2)),
    "Gaussian, exp(-16 r^2)": lambda x, y, z: np.exp(-16 * (x**2 + y**2 + z**2)),
    "wave, cos(12 (x + y + z))": lambda x, y, z: np.cos(12 * (x + y + z)),
    "shifted Slater, exp(-2 sqrt(r^2 + 0.05))": lambda x, y, z: np.exp(
        -2 * np.sqrt(x**2 + y**2 + z**2 + 0.05)
    ),
    "not separable, 1/(3.2 + x + y + z)": lambda x, y, z: 1 / (3.2 + x + y + z),
}
ELEMENT_CHARGES = {"O": -0.834, "H": 0.417}  # TIP3P


def centres(n: int) -> Array:
    return (2 * np.arange(n) + 1) / n - 1


def smooth_functions() -> list[dict]:
    rows = []
    points = np.random.default_rng(1).uniform(-1, 1, (2000, 3))
    for name, f in FUNCTIONS.items():
        exact = f(*points.T)
        for error in (1e-3, 1e-6, 1e-9):
            start = time.process_time()
            hybrid = ChebyshevTuckerFunction.from_function(f, error)
            rows.append(
                {
                    "function": name,
                    "asked": error,
                    "error": float(np.abs(hybrid(points) - exact).max() / np.abs(exact).max()),
                    "lengths": hybrid.lengths,
                    "ranks": hybrid.ranks,
                    "numbers": hybrid.storage,
                    "seconds": time.process_time() - start,
                }
            )
    return rows


def split_kernel(n: int) -> tuple[GaussianSum, GaussianSum]:
    """The Newton kernel on a grid of n^3 cells, and its long-range part.

    Long-range are the Gaussians that 129 coefficients resolve to 1e-7, as in the paper's tables.
    """
    kernel = inverse_power(1, 3e-5, 0.5 / n, math.sqrt(3))
    sharpest = 129 / (2 * math.sqrt(math.log(1e7)))
    return kernel, kernel.split(int((kernel.t <= sharpest).sum()))[0]


def newton_kernel() -> list[dict]:
    rows = []
    for n in (256, 512, 1024, 2048):
        kernel, long_part = split_kernel(n)
        x = centres(n)
        middle = x[n // 2 - 1 : n // 2]
        r = np.sqrt(x[:, None] ** 2 + x**2 + middle**2)
        for m in (33, 65, 129, 257, 513):
            row = {"n": n, "R": kernel.rank, "R_l": long_part.rank, "m": m}
            for name, part in (("whole", kernel), ("long", long_part)):
                tensor = canonical_potential(part, [x] * 3, [[0.0, 0.0, 0.0]], [1.0])
                hybrid = ChebyshevTuckerFunction.from_canonical_grid(tensor, [m] * 3, 1e-7)
                exact = part(r)
                slab = hybrid.on_grid(x, x, middle).full()[:, :, 0]
                row[name] = float(np.abs(slab - exact).max() / exact.max())
                row[f"{name}_rank"] = max(hybrid.ranks)
            rows.append(row)
    return rows


def degrees_of_gaussians(n: int = 8192) -> list[dict]:
    """Chebyshev coefficients that each Gaussian of the kernel needs for 1e-7."""
    kernel = split_kernel(n)[0]
    rows, m = [], 2049
    nodes = chebyshev_nodes(m)
    for t in kernel.t[kernel.t < 400]:
        c = np.abs(coefficients_from_values(np.exp(-((t * nodes) ** 2))))
        tails = np.cumsum(c[::-1])[::-1]
        rows.append({"t": float(t), "length": int((tails > 1e-7).sum())})
    return rows


def molecule(count: int, seed: int = 0) -> tuple[Array, Array]:
    """A self-avoiding chain in [-0.5, 0.5]^3 with partial charges that sum to zero."""
    random = np.random.default_rng(seed)
    step = 0.5 * count ** (-1 / 3)
    chain = [np.zeros(3)]
    while len(chain) < count:
        direction = random.standard_normal(3)
        new = chain[random.integers(max(0, len(chain) - 40), len(chain))]
        new = new + step * direction / np.linalg.norm(direction)
        if np.abs(new).max() < 0.5:
            near = np.linalg.norm(np.array(chain) - new, axis=1).min()
            if near > 0.8 * step:
                chain.append(new)
    charges = random.uniform(-1, 1, count)
    return np.array(chain), charges - charges.mean()


def middle_error(hybrid: ChebyshevTuckerFunction, tensor: CanonicalTensor, x: Array) -> dict:
    n = len(x)
    u, v, w = tensor.factors
    exact = (u * (tensor.weights * w[n // 2 - 1])) @ v.T
    slab = hybrid.on_grid(x, x, x[n // 2 - 1 : n // 2]).full()[:, :, 0]
    return {"error": float(np.abs(slab - exact).max()), "largest": float(np.abs(exact).max())}


def molecule_on_a_grid() -> list[dict]:
    rows, n = [], 256
    x, long_part = centres(n), split_kernel(n)[1]
    for count in (100, 200, 300, 400, 500, 600):
        positions, charges = molecule(count)
        tensor = canonical_potential(long_part, [x] * 3, positions, charges)
        for m in (33, 65, 97, 129) if count == 500 else (129,):
            for tolerance in (1e-3, 1e-5, 1e-7) if count == 500 else (1e-7,):
                for full in (
                    (False, True) if (count, m, tolerance) == (500, 129, 1e-7) else (False,)
                ):
                    start = time.process_time()
                    hybrid = ChebyshevTuckerFunction.from_canonical_grid(
                        tensor, [m] * 3, tolerance, full=full
                    )
                    seconds = time.process_time() - start
                    rows.append(
                        {
                            "charges": count,
                            "canonical_rank": tensor.rank,
                            "m": m,
                            "tolerance": tolerance,
                            "algorithm": 3 if full else 4,
                            "ranks": hybrid.ranks,
                            "rounded_ranks": hybrid.rounded(tolerance).ranks,
                            "seconds": seconds,
                            **middle_error(hybrid, tensor, x),
                        }
                    )
    return rows


def lattice() -> list[dict]:
    """24 x 24 x 4 dipoles: a lattice of positive and one of negative charges, assembled by axis."""
    n, counts, spacing = 960, (24, 24, 4), 1 / 12
    x, rows = centres(n), []
    for name, kernel in zip(("whole", "long"), split_kernel(n), strict=True):
        tensor = None
        for sign, offset in ((1.0, 0.0), (-1.0, 0.4)):
            factors = []
            for axis, count in enumerate(counts):
                sites = (np.arange(count) - (count - 1) / 2) * spacing
                sites = sites + (offset * spacing if axis == 2 else 0.0)
                gaps = x[:, None, None] - sites[None, :, None]
                factors.append(np.exp(-((gaps * kernel.t) ** 2)).sum(1))
            part = CanonicalTensor(sign * kernel.w, tuple(factors))
            tensor = part if tensor is None else tensor + part
        assert tensor is not None
        for m in (65, 129, 193, 257):
            hybrid = ChebyshevTuckerFunction.from_canonical_grid(tensor, [m] * 3, 1e-7)
            row = middle_error(hybrid, tensor, x)
            rows.append(
                {
                    "charges": 2 * math.prod(counts),
                    "part": name,
                    "canonical_rank": tensor.rank,
                    "m": m,
                    "ranks": hybrid.rounded(1e-7).ranks,
                    "relative_error": row["error"] / row["largest"],
                }
            )
    return rows


def separated_cloud(
    name: str, positions: Array, charges: Array, cutoffs: tuple[float, ...]
) -> list[dict]:
    """The potential mesh-free, with the range separation of the package; lengths in Angstrom."""
    rows = []
    low, high = positions.min(0) - 1, positions.max(0) + 1
    box = tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
    points = np.random.default_rng(3).uniform(low, high, (1000, 3))
    r = np.linalg.norm(points[:, None] - positions, axis=-1)
    for cutoff in cutoffs:
        for error in (1e-3, 1e-5, 1e-7):
            split = range_separation(cutoff, error, float(np.linalg.norm(high - low)))
            start = time.process_time()
            hybrid = ChebyshevTuckerFunction.from_charges(
                split.gaussians, positions, charges, error, box=box
            )
            seconds = time.process_time() - start
            exact = (1 / r) @ charges
            smooth = split.long_range(r) @ charges
            total = hybrid(points) + split.short_range(r) @ charges
            rows.append(
                {
                    "set": name,
                    "charges": len(charges),
                    "box": float((high - low).max()),
                    "cutoff": cutoff,
                    "asked": error,
                    "gaussians": len(split.t),
                    "lengths": hybrid.lengths,
                    "ranks": hybrid.ranks,
                    "error": float(np.abs(hybrid(points) - smooth).max() / np.abs(smooth).max()),
                    "coulomb_error": float(np.abs(total - exact).max() / np.abs(smooth).max()),
                    "seconds": seconds,
                }
            )
    return rows


def from_file(path: str) -> tuple[Array, Array]:
    import ase.io

    atoms = ase.io.read(path, index=0)
    charges = np.asarray(atoms.get_initial_charges())
    if not charges.any():
        charges = np.array([ELEMENT_CHARGES.get(s, 0.0) for s in atoms.get_chemical_symbols()])
    return np.asarray(atoms.get_positions()), charges


def show(title: str, rows: list[dict]) -> None:
    print(f"\n{title}")
    keys = list(rows[0])
    cells = [[_text(row[key]) for key in keys] for row in rows]
    widths = [max(len(key), *(len(line[i]) for line in cells)) for i, key in enumerate(keys)]
    for line in [keys, *cells]:
        print("  " + "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2g}" if abs(value) < 1e-2 else f"{value:.3g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(str, value)) + ")"
    return str(value)


def plot(results: dict[str, list[dict]], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    panel = panels[0, 0]
    points = np.random.default_rng(1).uniform(-1, 1, (300, 3))
    for name, f in FUNCTIONS.items():
        errors, lengths = [], (9, 17, 25, 33, 49, 65)
        for m in lengths:
            values = f(*np.meshgrid(*[chebyshev_nodes(m)] * 3, indexing="ij"))
            for axis in range(3):
                values = coefficients_from_values(values, axis)
            rows = [chebyshev_polynomials(points[:, a], m) for a in range(3)]
            sums = np.einsum("pa,pab->pb", rows[0], np.tensordot(rows[2], values, (1, 2)).mT)
            errors.append(np.abs((sums * rows[1]).sum(1) - f(*points.T)).max())
        panel.semilogy(lengths, errors, marker="o", markersize=3, label=name)
    panel.set(title="product interpolation", xlabel="coefficients per axis", ylabel="error")
    panel.set_ylim(1e-15, 100)
    panel.legend(fontsize=7)

    panel = panels[0, 1]
    for n, colour in zip((256, 512, 1024, 2048), ("C0", "C1", "C2", "C3"), strict=True):
        rows = [r for r in results["newton_kernel"] if r["n"] == n]
        m = [r["m"] for r in rows]
        panel.loglog(m, [r["whole"] for r in rows], "--", color=colour, marker="o")
        label = f"n = {n}, {rows[0]['R_l']} of {rows[0]['R']}"
        panel.loglog(m, [r["long"] for r in rows], "-", color=colour, marker="o", label=label)
    panel.set(title="1/r on grids: whole (dashed), long range", xlabel="coefficients per axis")
    panel.set_ylabel("relative error")
    panel.set_xticks([33, 65, 129, 257, 513], labels=["33", "65", "129", "257", "513"])
    panel.minorticks_off()
    panel.set_ylim(1e-13, 10)
    panel.legend(fontsize=8, title="grid, Gaussians kept", title_fontsize=8, loc="lower left")

    panel = panels[0, 2]
    rows = results["degrees_of_gaussians"]
    t = np.array([r["t"] for r in rows])
    panel.loglog(t, [r["length"] for r in rows], "o", markersize=4, label="measured")
    panel.loglog(t, 2 * t * math.sqrt(math.log(1e7)), "k-", lw=0.8, label=r"$2t\sqrt{\ln 10^7}$")
    panel.set(title="one Gaussian to 1e-7", xlabel="t", ylabel="coefficients")
    panel.legend(fontsize=8)

    panel = panels[1, 0]
    for tolerance in (1e-3, 1e-5, 1e-7):
        rows = [
            r
            for r in results["molecule_on_a_grid"]
            if r["charges"] == 500 and r["tolerance"] == tolerance and r["algorithm"] == 4
        ]
        label = f"tolerance {tolerance:.0e}"
        relative = [r["error"] / r["largest"] for r in rows]
        panel.semilogy([r["m"] for r in rows], relative, marker="o", label=label)
    panel.set(title="chain of 500 charges, long-range part", xlabel="coefficients per axis")
    panel.set_ylabel("relative error")
    panel.legend(fontsize=8)

    panel = panels[1, 1]
    for name in dict.fromkeys(r["set"] for r in results["range_separation"]):
        for error, style in ((1e-3, ":"), (1e-5, "--"), (1e-7, "-")):
            rows = [
                r for r in results["range_separation"] if r["set"] == name and r["asked"] == error
            ]
            colour = "C0" if name.startswith("chain") else "C1"
            x = [r["box"] / r["cutoff"] for r in rows]
            y = [max(r["ranks"]) for r in rows]
            panel.plot(x, y, style, marker="o", color=colour, label=f"{name[:12]}, {error:.0e}")
    panel.set(title="minimax separation, mesh-free", xlabel="box / cutoff", ylabel="Tucker rank")
    panel.set_ylim(0, 1.5 * panel.get_ylim()[1])
    panel.legend(fontsize=6, ncols=2, loc="upper left")

    panel = panels[1, 2]
    positions, charges = molecule(500)
    hybrid = ChebyshevTuckerFunction.from_charges(
        split_kernel(256)[1], positions, charges, 1e-4, box=UNIT_BOX
    )
    x = np.linspace(-1, 1, 200)
    image = hybrid.on_grid(x, x, [0.0]).full()[:, :, 0]
    bound = float(np.abs(image).max())
    panel.imshow(
        image.T, origin="lower", extent=(-1, 1, -1, 1), cmap="RdBu_r", vmin=-bound, vmax=bound
    )
    title = f"its potential at z = 0: {hybrid.storage} numbers\nranks {hybrid.ranks}"
    panel.set(title=title, xlabel="x", ylabel="y")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structure", nargs="?", help="adds the potential of these atoms")
    arguments = parser.parse_args()
    positions, charges = molecule(500)
    chain = 60 * positions  # Angstrom
    separated = separated_cloud("chain of 500", chain, charges, (6.0, 10.0, 15.0))
    if arguments.structure:
        name = Path(arguments.structure).stem
        separated += separated_cloud(name, *from_file(arguments.structure), (4.0, 6.0, 10.0))
    results = {
        "smooth_functions": smooth_functions(),
        "newton_kernel": newton_kernel(),
        "degrees_of_gaussians": degrees_of_gaussians(),
        "molecule_on_a_grid": molecule_on_a_grid(),
        "lattice": lattice(),
        "range_separation": separated,
    }
    for title, rows in results.items():
        show(title.replace("_", " "), rows)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    about = {
        "errors": "largest, relative where it says so",
        "seconds": "processor time, one thread",
        "processor": platform.processor() or platform.machine(),
    }
    text = json.dumps({"about": about, **results}, indent=1)
    (folder / "chebyshev_tucker.json").write_text(text + "\n")
    plot(results, folder / "chebyshev_tucker.png")


if __name__ == "__main__":
    main()
