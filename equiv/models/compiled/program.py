"""Graphs as machine code: building, loading, running."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiv.models.compiled.conditions import Condition
from equiv.models.compiled.trace import Graph, quiet
from equiv.native import find_compiler

CODE, FACTS = "program.so", "facts.json"

# No precompiled headers: building them takes longer than the one file that would use them. The
# calls between kernels are compiled without optimisation, which costs nothing that can be measured
# and halves the time of the C++ compiler.
SETTINGS: dict[str, Any] = {
    "aot_inductor.precompile_headers": False,
    "aot_inductor.compile_wrapper_opt_level": "O0",
}


def missing_compiler() -> str | None:
    """Why nothing can be compiled on this machine, or None."""
    if find_compiler() is not None:
        return None
    wanted = os.environ.get("CXX") or "g++ or clang++"
    return f"there is no C++ compiler ({wanted}) on this machine"


def build(graph: Graph, folder: Path) -> None:
    """Compile a graph for this processor and the present number of threads.

    Writes a shared library and a JSON file with the order of the outputs and the conditions on
    the sizes. Takes from ten seconds to minutes; torch's generators are left as they were.

    Args:
        graph: what to compile.
        folder: where the two files go; must exist.

    Raises:
        NotGeneral: the compiler had to fix a size.
    """
    import torch._inductor
    import torch.fx.experimental._config as module

    symbols: Any = module

    scratch = folder / "scratch"
    scratch.mkdir()
    options = {**SETTINGS, "aot_inductor.output_path": str(scratch / CODE)}
    if (compiler := find_compiler()) is not None:
        options["cpp.cxx"] = (None, compiler)
    # What the compiler may choose, it is to choose for all sizes and not for those of the example.
    general = symbols.patch(backed_size_oblivious=True)
    with quiet(), torch.random.fork_rng(devices=[]), _quicker_algebra(), general:
        path = torch._inductor.aot_compile(graph.module, graph.arguments, options=options)
    facts = {
        "outputs": list(graph.outputs),
        "conditions": [condition.to_dict() for condition in graph.conditions()],
    }
    shutil.move(str(path), folder / CODE)
    for operators in scratch.glob("*.json"):  # which operators of the package the code calls
        if not operators.stem.endswith("_metadata"):
            shutil.move(operators, (folder / CODE).with_suffix(".json"))
    shutil.rmtree(scratch)
    (folder / FACTS).write_text(json.dumps(facts))


class Program:
    """A compiled function of tensors.

    Args:
        folder: where :func:`build` has put it. Loading runs code from there.
        device: where the tensors are.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        facts = json.loads((folder / FACTS).read_text())
        self.outputs: list[str] = facts["outputs"]
        self.conditions = [Condition.from_dict(c) for c in facts["conditions"]]
        code: Any = getattr(torch._C, "_aoti")  # noqa: B009  (absent from its stubs)
        if device.type == "cpu":
            self._runner = code.AOTIModelContainerRunnerCpu(str(folder / CODE), 1)
        else:
            self._runner = code.AOTIModelContainerRunnerCuda(str(folder / CODE), 1, str(device))
        self._known: dict[tuple[int, ...], bool] = {}

    def accepts(self, sizes: tuple[int, ...]) -> bool:
        """Whether the program is right for inputs whose free sizes, in a row, are these."""
        if sizes not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[sizes] = all(condition.holds(sizes) for condition in self.conditions)
        return self._known[sizes]

    def __call__(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs by name; they carry no gradient."""
        return dict(zip(self.outputs, self._runner.run(list(tensors)), strict=True))


@contextlib.contextmanager
def _quicker_algebra() -> Iterator[None]:
    """Let the compiler expand polynomials in the sizes instead of seeking their shortest form.

    With symbols for all sizes, that search is half of the time of a compilation.
    """
    import sympy
    import torch._inductor.sizevars as module

    sizevars: Any = module

    class Algebra:
        def __getattr__(self, name: str) -> Any:
            return getattr(sympy, name)

        def simplify(self, expression: Any) -> Any:
            plain = (sympy.Add, sympy.Mul, sympy.Pow, sympy.Symbol, sympy.Number)
            if all(isinstance(part, plain) for part in sympy.preorder_traversal(expression)):
                return sympy.expand(expression)
            return sympy.simplify(expression)

    if getattr(sizevars, "sympy", None) is not sympy:  # another torch: slower, as right
        yield
        return
    sizevars.sympy = Algebra()
    try:
        yield
    finally:
        sizevars.sympy = sympy
