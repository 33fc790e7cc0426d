"""Which paths the products of one model have: all, those that gates keep, or a fixed choice."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.hamiltonian.coupling_paths import CouplingPath, PathProduct, balanced, coupling_paths
from equiv.hamiltonian.degrees import Degrees
from equiv.nn.path_gate import PathGate


class PathSparsity:
    """How the products of one model are thinned out, one after the other.

    Args:
        sparsity: the share of paths that is dropped; without, all are there.
        budget: ``"paths"`` or ``"flops"``.
        seed: of the random phase.
        selected: for a model that was exported, the paths that each product has; there are no gates
            then.
        first: number of the first of these products in the model.

    Attributes:
        gates: those that have been made.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        budget: str = "paths",
        seed: int = 0,
        selected: Sequence[Sequence[int]] | None = None,
        first: int = 0,
    ) -> None:
        self.sparsity, self.budget, self.seed, self.selected = sparsity, budget, seed, selected
        self.gates: list[PathGate] = []
        self.number = first

    def thinned(
        self, paths: tuple[CouplingPath, ...]
    ) -> tuple[tuple[CouplingPath, ...], PathGate | None]:
        """The paths of the next product, and its gate."""
        number, self.number = self.number, self.number + 1
        if self.selected is not None:
            mine = self.selected[number]
            if any(not 0 <= p < len(paths) for p in mine):
                raise EquivError(
                    f"selected: product {number} has paths 0 to {len(paths) - 1}, got {list(mine)}"
                )
            return tuple(paths[p] for p in mine), None
        if self.sparsity == 0:
            return paths, None
        gate = PathGate(paths, self.sparsity, budget=self.budget, seed=self.seed, layer=number)
        self.gates.append(gate)
        return paths, gate


class SelectedPaths(ExactConstants):
    """A product with its gate, or with all of its paths.

    Args:
        degrees: irreps of both factors.
        out: irreps of the product.
        parity: see :func:`equiv.hamiltonian.coupling_paths.coupling_paths`.
        sparsity: which paths there are, and whether there is a gate; by default all and none.
    """

    def __init__(
        self,
        degrees: Degrees,
        out: Degrees,
        *,
        parity: bool = True,
        sparsity: PathSparsity | None = None,
    ) -> None:
        super().__init__()
        paths = coupling_paths(degrees, degrees, out, parity=parity)
        paths, gate = (paths, None) if sparsity is None else sparsity.thinned(paths)
        self.product, self.gate = PathProduct(degrees, degrees, out, paths), gate
        self.everything = tuple(range(len(paths)))
        factors = torch.tensor(balanced(paths, self.everything), dtype=torch.float64)
        self.register_constant("factors", factors[:, None])
        self.factors: Tensor

    @property
    def selection(self) -> tuple[int, ...]:
        """The paths to compute."""
        return self.everything if self.gate is None else self.gate.selection

    @property
    def cheap(self) -> bool:
        """Whether the product had better be made again for the backward pass than kept."""
        return self.gate is not None and self.gate.cost_share() <= 0.5

    def coefficients(self) -> Float[Tensor, "selected 1"]:
        """Their factors."""
        return self.factors if self.gate is None else self.gate.coefficients().unsqueeze(-1)

    def folded(self) -> Float[Tensor, "selected 1"]:
        """By what the weights of the paths change if only the selected ones are there."""
        plain = balanced(self.product.paths, self.selection)
        return self.coefficients() / self.factors.new_tensor(plain)[:, None]
