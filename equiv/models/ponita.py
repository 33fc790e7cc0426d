"""Ponita: message passing on positions and orientations (Bekkers et al. 2024)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import ase
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.choices import choose
from equiv.graph.layout import Layout
from equiv.models.arguments import checked_elements, require
from equiv.models.block_model import BlockModel
from equiv.models.equivariance_error import EquivarianceError, equivariance_error
from equiv.models.mace import MACE
from equiv.models.ponita_layer import POINTWISE, PRODUCTS
from equiv.models.ponita_networks import NETWORKS
from equiv.nn.radial import RADIAL_BASES
from equiv.nn.reference_energies import ReferenceEnergies
from equiv.nn.zbl import ZBL
from equiv.position_orientation.grids import ORIENTATION_GRIDS, SIZED, orientation_grid
from equiv.so3 import random_rotations

ORIENTATIONS = ("fixed", "random_per_step")

_require = partial(require, "Ponita")


class Ponita(BlockModel):
    r"""Weight-shared message passing on :math:`\mathbb{R}^3 \times S^2`.

    .. math::
        E = \sum_i \Big( E^0_{z_i} + s\, \mathcal{R}\Big( \sum_o w_o f_i(o) \Big) + b \Big), \qquad
        f_i(o) \leftarrow \sum_{j \to i} k(r_{ij}, o)\, f_j(o), \;\dots

    Features :math:`f_i(o)` are functions of an orientation :math:`o` at each atom. A convolution
    over positions with a kernel that knows the angle between neighbour and orientation, a
    convolution over orientations, and a map of the channels follow one another
    (:mod:`equiv.position_orientation`); the mean over orientations does not turn, and gives the
    energy. :math:`w` are the weights of the grid, :math:`E^0` reference energies, :math:`s` =
    ``scale`` and :math:`b` = ``shift`` in eV.

    With ``block="bandlimited"``, the default, features have a highest degree in the orientation and
    are multiplied rather than activated, so that the grid resolves everything: energies are
    invariant under *all* rotations and net torque vanishes, to rounding. With ``"convnext"``,
    layers are those of the paper with a smooth kernel, and only the rotations that permute the grid
    are exact. For these there are ``orientation``, ``average`` and :meth:`equivariance_error`.

    Translations, permutations and the inversion are exact in both; enantiomers have the same
    energy. (Bekkers, Vadgama, Hesselink, van der Linden, Romero 2024.)

    Args:
        elements: chemical symbols (or atomic numbers) of the elements.
        cutoff: Angstrom.
        block: ``"bandlimited"`` or ``"convnext"``.
        grid: name of the orientation grid
            (:func:`equiv.position_orientation.orientation_grid`), one with a fixed number of
            points.
        degree: highest degree of the kernel in the angle, and of band-limited features.
        channels: of the features.
        layers: number of them.
        correlation: highest power of the features that a band-limited layer takes.
        product: how a band-limited layer multiplies: ``"pointwise"`` on the grid; or one of the
            tensor products of the package by name, with weights of the element, applied to the
            functions' spherical-harmonic coefficients.
        widening: of the perceptron of a ``"convnext"`` layer.
        radial_basis: ``"bessel"`` or ``"chebyshev"``.
        num_radial: number of radial functions.
        cutoff_power: power of the polynomial cutoff.
        radial_hidden: hidden widths of the radial networks.
        readout_hidden: hidden width of the last readout of a band-limited network.
        orientation: ``"fixed"``, or ``"random_per_step"``: while training, the grid is turned after
            every step, by a rotation that depends on the number of the step alone.
        average: predictions are the mean over this many orientations of the grid, the first of
            which is the grid as it is. The error of rotations falls as the root of the number;
            cost is in proportion.
        mean_neighbors: mean number of neighbours in the training set; keeps messages of unit size.
        reference_energies: eV, by chemical symbol.
        scale: :math:`s`, eV; the root mean square of the training forces is customary.
        shift: :math:`b`, eV per atom.
        zbl: add the :class:`equiv.nn.ZBL` repulsion, so that atoms cannot collapse into each other.

    Raises:
        EquivError: an argument is out of range, an element has no reference energy, or the grid is
            too coarse for the degree.
    """

    name: ClassVar[str] = "ponita"

    def __init__(
        self,
        elements: Sequence[str | int],
        cutoff: float,
        *,
        block: str = "bandlimited",
        grid: str = "pentakis32",
        degree: int = 3,
        channels: int = 64,
        layers: int = 3,
        correlation: int = 3,
        product: str = POINTWISE,
        widening: int = 4,
        radial_basis: str = "bessel",
        num_radial: int = 8,
        cutoff_power: int = 5,
        radial_hidden: Sequence[int] = (64,),
        readout_hidden: int = 16,
        orientation: str = "fixed",
        average: int = 1,
        mean_neighbors: float,
        reference_energies: Mapping[str, float],
        scale: float = 1.0,
        shift: float = 0.0,
        zbl: bool = False,
    ) -> None:
        numbers, symbols = checked_elements("Ponita", elements, reference_energies)
        _require(cutoff > 0, "cutoff", "a positive radius in Angstrom", cutoff)
        _require(
            mean_neighbors > 0,
            "mean_neighbors",
            "a positive number, measured on the training set",
            mean_neighbors,
        )
        _require(degree >= 1, "degree", "at least 1", degree)
        _require(1 <= correlation <= 4, "correlation", "1, 2, 3 or 4", correlation)
        for key, value in {
            "channels": channels,
            "layers": layers,
            "widening": widening,
            "num_radial": num_radial,
            "average": average,
        }.items():
            _require(value >= 1, key, "at least 1", value)
        for key, names, value in (
            ("block", NETWORKS, block),
            ("product", PRODUCTS, product),
            ("radial_basis", RADIAL_BASES, radial_basis),
            ("orientation", ORIENTATIONS, orientation),
            ("grid", [g for g in ORIENTATION_GRIDS if g not in SIZED], grid),
        ):
            choose(dict.fromkeys(names), value, key)
        super().__init__(numbers, cutoff)
        self.recipe = {
            "elements": symbols,
            "cutoff": float(cutoff),
            "block": block,
            "grid": grid,
            "degree": degree,
            "channels": channels,
            "layers": layers,
            "correlation": correlation,
            "product": product,
            "widening": widening,
            "radial_basis": radial_basis,
            "num_radial": num_radial,
            "cutoff_power": cutoff_power,
            "radial_hidden": list(radial_hidden),
            "readout_hidden": readout_hidden,
            "orientation": orientation,
            "average": average,
            "mean_neighbors": float(mean_neighbors),
            "reference_energies": {s: float(reference_energies[s]) for s in symbols},
            "scale": float(scale),
            "shift": float(shift),
            "zbl": zbl,
        }
        self.scale, self.shift = float(scale), float(shift)
        self.orientation = orientation
        self.network = NETWORKS[block](
            len(numbers), self.cutoff, orientation_grid(grid), self.recipe
        )
        self.reference = ReferenceEnergies([reference_energies[s] for s in symbols])
        self.zbl = ZBL() if zbl else None
        self.register_buffer("atomic_numbers", torch.tensor(numbers), persistent=False)
        self.atomic_numbers: Tensor
        eye = torch.eye(3, dtype=torch.float64)
        self.register_buffer("turn", eye, persistent=False)  # of the grid, while training
        others = random_rotations(average - 1, generator=torch.Generator().manual_seed(0))
        self.register_buffer("turns", torch.cat([eye[None], others]), persistent=False)
        self.turn: Tensor
        self.turns: Tensor

    @classmethod
    def construction_size(cls, recipe: dict[str, Any]) -> int:
        """Constants of the grid, and coupling coefficients of the products of all layers."""
        defaults = {"degree": 3, "correlation": 3, "layers": 3, "average": 1, "product": POINTWISE}
        degree, correlation, layers, average, product = (
            recipe.get(key, value) for key, value in defaults.items()
        )
        _require(1 <= degree <= 12, "degree", "1 to 12", degree)
        _require(1 <= average <= 10_000, "average", "1 to 10000", average)
        size = 9 * average + layers * 32 * (degree + 1) ** 2
        if product == POINTWISE:
            return size
        return size + MACE.construction_size(
            {
                "edge_degree": degree,
                "hidden_degree": degree,
                "correlation": correlation,
                "layers": layers,
                "product": product,
            }
        )

    @property
    def exact_rotations(self) -> Float[Tensor, "rotations 3 3"] | None:
        """Rotations that leave energies as they are to rounding; ``None`` for all."""
        found = self.network.exact_rotations
        if found is not None and len(self.turns) > 1:  # the other orientations do not share them
            return self.turns[:1]
        return found

    def advance(self, step: int) -> None:
        """Turn the grid as the recipe says."""
        if self.orientation == "random_per_step":
            generator = torch.Generator().manual_seed(step)
            self.turn.copy_(random_rotations(generator=generator))

    def row_energies(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> Float[Tensor, " rows"]:
        """Energies of the rows' atoms in eV and float64, reference energies included."""
        return self.row_outputs(vectors, layout)[0]

    @property
    def invariant_channels(self) -> int:
        """Those of all layers, or of the last layer of a ``"convnext"`` network."""
        return self.network.invariant_channels

    def row_outputs(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows channels"]]:
        """Energies of the rows' atoms, and means over the orientations of their features."""
        turns = [self.turn] if self.training else list(self.turns.unbind())
        # To turn the grid is to turn everything else the other way.
        found = [self.network((vectors @ turn).to(self.dtype), layout) for turn in turns]
        raw = torch.stack([energies.double() for energies, _ in found]).mean(0)
        invariants = torch.stack([x for _, x in found]).mean(0) if len(found) > 1 else found[0][1]
        energies = self.reference(layout.species) + self.scale * raw + self.shift
        if self.zbl is not None:
            neighbors, numbers = layout.neighbors, self.atomic_numbers[layout.species]
            distances = torch.linalg.vector_norm(vectors.to(self.dtype), dim=-1)
            pairs = self.zbl.pairs(distances, numbers[neighbors.first], numbers[neighbors.second])
            energies = energies + 0.5 * neighbors.sum_pairs(pairs.double())
        return energies, invariants

    def equivariance_error(
        self, structures: ase.Atoms | Sequence[ase.Atoms], *, rotations: int = 8, seed: int = 0
    ) -> EquivarianceError:
        """How far predictions are from turning with the structures, in the units of the field.

        See :func:`equiv.models.equivariance_error.equivariance_error`, which takes any potential.
        """
        return equivariance_error(self, structures, rotations=rotations, seed=seed)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Rotations stay in float64, whatever the weights become."""
        exact = self.turn, self.turns
        super()._apply(fn, recurse)
        self.turn, self.turns = (x.to(self.turn.device) for x in exact)
        return self
