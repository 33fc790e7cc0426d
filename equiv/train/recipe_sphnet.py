"""The model section of an SPHNet run: the constructor call of `equiv.models.SPHNet`."""
# pyright: reportIncompatibleVariableOverride=false

from typing import Literal

from pydantic import Field, model_validator

from equiv.train.recipe import Count, ModelRecipe, Positive
from equiv.train.recipe_gates import Budget, FixedFrom, GateSeed, RandomUntil


class SPHNetRecipe(ModelRecipe):
    """The constructor call of `equiv.models.SPHNet`; `auto` is measured on the training set."""

    name: Literal["sphnet"] = Field(default="sphnet", description="architecture")
    baseline: Literal["minao", "sap", "none"] = Field(
        default="minao", description="what the model corrects"
    )
    channels: int = Field(
        default=64, ge=4, multiple_of=4, description="feature channels per irrep, a multiple of 4"
    )
    degree: int | None = Field(
        default=None,
        ge=0,
        le=12,
        description="largest degree l of the features of atoms; null: that of the blocks",
    )
    vectorial_layers: int = Field(
        default=2, ge=0, le=8, description="cheap interactions of scalars and vectors"
    )
    pair_layers: int = Field(default=2, ge=1, le=4, description="pair construction layers")
    num_radial: int = Field(default=16, ge=2, description="number of radial functions")
    hidden: Count = Field(default=64, description="width of the networks of weights and gates")
    cutoff: Positive = Field(
        default=15.0, description="atoms see each other up to this distance (Angstrom)"
    )
    pair_cutoff: Positive = Field(
        default=30.0, description="features of pairs vanish at this distance (Angstrom)"
    )
    decay: Positive = Field(default=0.5, description="decay of the radial functions (1/Angstrom)")
    parity: Literal["o3", "so3"] = Field(
        default="o3",
        description="o3: exact under reflections; so3: the paper's relabelling, which is not",
    )
    sparsity: float = Field(
        default=0.7, ge=0, lt=1, description="share k of the coupling paths that is dropped"
    )
    pair_sparsity: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of the pairs of atoms that pair layers but the last drop; null: as "
        "`sparsity`",
    )
    message_sparsity: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of the paths of messages that is dropped; null: as `sparsity`",
    )
    budget: Budget = "paths"
    random_until: RandomUntil = "auto"
    fixed_from: FixedFrom = "auto"
    gate_seed: GateSeed = 0
    mean_neighbors: Literal["auto"] | Positive = Field(
        default="auto", description="normalisation of sums over neighbours"
    )

    @model_validator(mode="after")
    def _pairs_reach_farther(self) -> "SPHNetRecipe":
        if self.pair_cutoff < self.cutoff:
            raise ValueError(
                f"pair_cutoff ({self.pair_cutoff:g}) must not be below cutoff ({self.cutoff:g})"
            )
        return self

    def summary(self) -> str:
        """Width, degree, gates."""
        sparse = f"k={self.sparsity:g}" if self.sparsity else "dense"
        return f"SPHNet, {self.channels} channels, {self.pair_layers} pair layers, {sparse}"
