r"""Choosing among methods that compute the same map, by a table or by timing them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from equiv.errors import EquivError
from equiv.tensor_products.protocol import TensorProduct


@dataclass(frozen=True)
class Candidate:
    """A method with its options.

    Attributes:
        method: as in ``tensor_product(method=...)``.
        options: further arguments of the method.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"{self.method}{options}"


SAME_MAP: dict[str, tuple[Candidate, ...]] = {
    "clebsch_gordan": (Candidate("clebsch_gordan"), Candidate("reference")),
    "gaunt": (
        Candidate("gaunt_grid"),
        *(
            Candidate("gaunt_grid", {"grid": grid})
            for grid in ("lebedev", "folded_lebedev", "product", "separable")
        ),
        Candidate("gaunt_fourier"),
    ),
    "matrix": (Candidate("matrix"),),
    "vector_signal": (Candidate("vector_signal"),),
}
"""Methods that compute the same map with the same weights; the first is the one to take unseen.

The first of each list is a choice for CPUs: ``clebsch_gordan`` needs a fraction of the operations
of the dense array of ``reference``, and ``gaunt_grid`` has a quarter of the points of
``gaunt_fourier`` and chooses among its grids by the measured table of
:func:`equiv.tensor_products.gaunt_grid.fastest_grid`. On another machine, ``autotune`` measures.
Maps are never exchanged for one another: that would be another model.
"""


def fastest(
    candidates: Sequence[Candidate],
    build: Callable[[Candidate], TensorProduct],
    *,
    rows: int,
    repeats: int = 5,
) -> tuple[Candidate, dict[str, float]]:
    """Time forward and backward passes of candidates on random rows, and name the fastest.

    All are built anew and measured in turn, round after round, so that a disturbance of the machine
    hits all of them; medians are compared. The random state is left as it was. Candidates that
    cannot be built for these irreps are passed over.

    Args:
        candidates: methods of one map.
        build: makes the product of a candidate, on the device and in the dtype that count.
        rows: number of rows of the real application.
        repeats: number of rounds.

    Returns:
        The fastest candidate, and the milliseconds of each.

    Raises:
        EquivError: none of them can be built.
    """
    if rows < 1:
        raise EquivError(f"autotune: expected a positive number of rows, got {rows}")
    products: list[tuple[Candidate, TensorProduct]] = []
    refusals = []
    with torch.random.fork_rng(devices=[]):
        for candidate in candidates:
            try:
                products.append((candidate, build(candidate)))
            except EquivError as error:
                refusals.append(f"{candidate}: {error}")
        if not products:
            raise EquivError("autotune: no candidate can be built; " + "; ".join(refusals))
        passes = [(str(candidate), _pass(product, rows)) for candidate, product in products]
        times: dict[str, list[float]] = {name: [] for name, _ in passes}
        for step in range(repeats + 1):
            for name, run in passes:
                start = time.perf_counter()
                run()
                if step:  # the first round warms up
                    times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: median(values) for name, values in times.items()}
    return min(products, key=lambda pair: medians[str(pair[0])])[0], medians


def _pass(product: TensorProduct, rows: int) -> Callable[[], None]:
    floats = (t for t in [*product.parameters(), *product.buffers()] if t.is_floating_point())
    like = next(floats, torch.zeros(()))
    x, y = (
        torch.randn(rows, irreps.dim, dtype=like.dtype, device=like.device, requires_grad=True)
        for irreps in (product.irreps_in1, product.irreps_in2)
    )
    weight = None
    if product.weight_numel and not product.internal_weights:
        weight = torch.randn(product.weight_numel, dtype=like.dtype, device=like.device)

    def run() -> None:
        z = product(x, y, weight)
        torch.autograd.grad(z.sum(), [x, y])
        if z.is_cuda:
            torch.cuda.synchronize(z.device)

    return run
