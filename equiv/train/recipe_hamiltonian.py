"""The recipe of a Hamiltonian model: data, and loss."""
# pyright: reportIncompatibleVariableOverride=false

from typing import ClassVar

from pydantic import Field, model_validator

from equiv.train.recipe import FileName, FilesRecipe, LoopRecipe, NonNegative, Paths, Recipe
from equiv.train.recipe_sphnet import SPHNetRecipe


class HamiltonianDataRecipe(FilesRecipe):
    """Which Hamiltonians."""

    train: Paths = Field(
        description="archive (.npz) with molecules and Fock matrices, glob or list"
    )
    basis: str | None = Field(
        default=None, description="name of the basis set in PySCF, for archives that do not tell"
    )
    xc: str | None = Field(
        default=None, description="functional in PySCF's spelling, for archives that do not tell"
    )
    grid_level: int | None = Field(
        default=None, ge=0, le=9, description="grid of PySCF, for archives that do not tell"
    )


class HamiltonianTrainRecipe(LoopRecipe):
    """Loss, optimizer, schedule and stopping."""

    standardised_weight: NonNegative = Field(
        default=1.0,
        description="weight of the mean absolute error of the irreps in units of their spread",
    )
    hartree_weight: NonNegative = Field(
        default=100.0,
        description="weight of mean absolute plus mean square error of the matrix (Eh)",
    )
    orbital_weight: NonNegative = Field(
        default=0.0,
        description="weight of the errors of orbital energies (Eh) to first order, for fine-tuning",
    )
    start_from: FileName | None = Field(
        default=None,
        description="model file whose weights training starts from; what the recipe does not say "
        "of the model is taken from there",
    )

    @model_validator(mode="after")
    def _something_is_learned(self) -> "HamiltonianTrainRecipe":
        if not self.standardised_weight + self.hartree_weight + self.orbital_weight:
            raise ValueError(
                "standardised_weight, hartree_weight and orbital_weight cannot all be 0"
            )
        return self


class SPHNetRunRecipe(Recipe):
    """Train an SPHNet on Fock matrices."""

    task: ClassVar[str] = "hamiltonian"

    data: HamiltonianDataRecipe = Field(description="which Hamiltonians; data: FILE is enough")
    model: SPHNetRecipe = Field(default_factory=SPHNetRecipe)
    train: HamiltonianTrainRecipe = Field(default_factory=HamiltonianTrainRecipe)
