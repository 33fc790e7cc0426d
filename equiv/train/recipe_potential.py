"""The recipe of an interatomic potential: labels, architectures, and the loss."""

# Sections are frozen, so a recipe may narrow the type of one (pyright cannot know).
# pyright: reportIncompatibleVariableOverride=false

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from equiv.data.options import LabelChoice, UnitChoice
from equiv.train.recipe import (
    Count,
    FileName,
    FilesRecipe,
    Finite,
    LoopRecipe,
    ModelRecipe,
    NonNegative,
    Paths,
    Positive,
    Recipe,
    Section,
)
from equiv.train.recipe_gates import Budget, FixedFrom, GateSeed, RandomUntil


class DataRecipe(FilesRecipe):
    """Which structures and labels."""

    train: Paths = Field(description="file, glob or list of files with the training structures")
    labels: LabelChoice = Field(
        default_factory=LabelChoice, description="which energy, forces and stress to learn"
    )
    units: UnitChoice = Field(default_factory=UnitChoice, description="units of the files")
    reference_energies: Literal["auto", "isolated", "least_squares"] | dict[str, Finite] = Field(
        default="auto",
        description="energies of the free atoms (eV), for example {H: -13.6, O: -2041.8}",
    )
    group_key: str | None = Field(
        default=None,
        description="`info` key whose value names the group of a structure (default: config_type)",
    )


class LongRangeRecipe(Section):
    """The long-range term beside a short-range model, `equiv.models.LongRange`."""

    charges: Literal["learned", "equilibrated", "fixed"] = Field(
        default="learned", description="where the charges of the atoms come from"
    )
    fixed_charges: dict[str, Finite] | None = Field(
        default=None, description="charges (e) by element for `fixed`, for example {Na: 1, Cl: -1}"
    )
    short_range: bool = Field(
        default=False,
        description="add the Coulomb energy within the cutoff too, instead of leaving it to the "
        "short-range model",
    )
    dispersion: bool = Field(default=False, description="add a learned 1/r^6 attraction")
    tolerance: float = Field(
        default=1e-4, ge=1e-9, le=1e-2, description="relative error of the long-range forces"
    )


class PotentialModelRecipe(ModelRecipe):
    """What every potential is told; `auto` is measured on the training set."""

    cutoff: Positive = Field(
        default=5.0, description="neighbours are seen up to this distance (Angstrom)"
    )
    mean_neighbors: Literal["auto"] | Positive = Field(
        default="auto", description="normalisation of sums over neighbours"
    )
    scale: Literal["auto"] | Positive = Field(
        default="auto",
        description="unit of the predicted energies (eV); auto: rms force times 1 Angstrom",
    )
    shift: Literal["auto"] | Finite = Field(
        default="auto",
        description="energy added per atom (eV); auto: mean of E - sum of reference energies",
    )


class MACERecipe(PotentialModelRecipe):
    """The constructor call of `equiv.models.MACE`; `auto` is measured on the training set."""

    name: Literal["mace"] = Field(default="mace", description="architecture")
    channels: Count = Field(default=64, description="feature channels per degree")
    hidden_degree: int = Field(
        default=1, ge=0, le=4, description="largest degree l of the features passed between layers"
    )
    edge_degree: int = Field(
        default=3, ge=0, le=6, description="largest degree l of the spherical harmonics of an edge"
    )
    layers: int = Field(default=2, ge=1, le=8, description="message-passing layers")
    correlation: int = Field(
        default=3, ge=1, le=4, description="body order of the product basis minus one"
    )
    radial_basis: Literal["bessel", "chebyshev"] = Field(
        default="bessel", description="radial functions"
    )
    num_radial: Count = Field(default=8, description="number of radial functions")
    cutoff_power: int = Field(default=5, ge=2, description="power p of the polynomial cutoff")
    radial_hidden: list[Count] = Field(
        default=[64, 64, 64], description="hidden widths of the radial network"
    )
    readout_hidden: Count = Field(default=16, description="hidden width of the last readout")
    product: Literal[
        "clebsch_gordan", "so2", "gaunt_grid", "gaunt_fourier", "matrix", "vector_signal"
    ] = Field(
        default="clebsch_gordan",
        description="tensor product of the convolution and of the product basis",
    )
    zbl: bool = Field(default=False, description="add the ZBL repulsion at short range")
    sparsity: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the paths of each convolution that a gate drops; 0: none",
    )
    budget: Budget = "paths"
    random_until: RandomUntil = "auto"
    fixed_from: FixedFrom = "auto"
    gate_seed: GateSeed = 0
    long_range: LongRangeRecipe | None = Field(
        default=None, description="electrostatics (and dispersion) beyond the cutoff"
    )

    @model_validator(mode="after")
    def _gates_have_paths(self) -> "MACERecipe":
        if self.sparsity and self.product != "clebsch_gordan":
            raise ValueError(
                f"sparsity ({self.sparsity:g}) needs the paths of product: clebsch_gordan; "
                f"{self.product} has none to drop"
            )
        return self

    @model_validator(mode="after")
    def _features_come_from_edges(self) -> "MACERecipe":
        if self.hidden_degree > self.edge_degree:
            raise ValueError(
                f"hidden_degree ({self.hidden_degree}) must not exceed edge_degree "
                f"({self.edge_degree})"
            )
        return self

    def summary(self) -> str:
        """Size, degrees, order, reach."""
        sparse = f", k={self.sparsity:g}" if self.sparsity else ""
        return (
            f"{self.layers} layers of {self.channels} channels, l <= {self.hidden_degree} "
            f"(edges {self.edge_degree}), order {self.correlation}, cutoff {self.cutoff:g} A"
            f"{sparse}"
        )


class TrainRecipe(LoopRecipe):
    """Loss, optimizer, schedule and stopping."""

    start_from: FileName | None = Field(
        default=None,
        description="model file whose weights training starts from; what the recipe does not say "
        "of the model, and the reference energies, are taken from there",
    )
    loss: Literal["huber", "mse"] = Field(default="huber", description="penalty of one error")
    huber_delta: Positive = Field(
        default=0.01, description="errors above this are penalised linearly (eV/atom, eV/A, eV/A^3)"
    )
    energy_weight: NonNegative = Field(
        default=10.0, description="weight of the energy error per atom"
    )
    forces_weight: NonNegative = Field(
        default=100.0, description="weight of the force error per component"
    )
    stress_weight: NonNegative = Field(
        default=1000.0, description="weight of the stress error per component"
    )
    final_energy_weight: NonNegative | None = Field(
        default=1000.0,
        description="energy weight at the end, reached geometrically over the second half",
    )

    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="compile the training step; auto: if the run is long enough to repay it",
    )


class PotentialRecipe(Recipe):
    """Train an interatomic potential on energies, forces and stresses."""

    task: ClassVar[str] = "potential"

    data: DataRecipe = Field(description="which structures; the least it takes is data: FILE")
    model: PotentialModelRecipe
    train: TrainRecipe = Field(default_factory=TrainRecipe)


class MACERunRecipe(PotentialRecipe):
    """Train a MACE-like potential."""

    model: MACERecipe = Field(default_factory=MACERecipe)
