"""The recipe of a regressor: any property of structures or atoms."""

# Sections are frozen, so a recipe may narrow the type of one (pyright cannot know).
# pyright: reportIncompatibleVariableOverride=false

from typing import ClassVar, Literal

from pydantic import Field

from equiv.train.recipe import (
    Count,
    FilesRecipe,
    Finite,
    LoopRecipe,
    ModelRecipe,
    Paths,
    Positive,
    Recipe,
)


class PropertyDataRecipe(FilesRecipe):
    """Which structures, and which of their properties."""

    train: Paths = Field(description="file, glob or list of files with the training structures")
    key: str = Field(
        min_length=1,
        description="name of the property in the files: in `info` (of a structure) or in `arrays` "
        "(of its atoms)",
    )
    unit: str = Field(default="", description="its unit, for tables and plots")


class RegressorRecipe(ModelRecipe):
    """The constructor call of `equiv.models.Regressor`; `auto` is measured on the training set."""

    name: Literal["regressor"] = Field(default="regressor", description="architecture")
    cutoff: Positive = Field(
        default=5.0, description="neighbours are seen up to this distance (Angstrom)"
    )
    kind: Literal["auto", "scalar", "vector", "tensor"] = Field(
        default="auto", description="what the property is; auto: by the shape of its values"
    )
    collect: Literal["auto", "sum", "mean", "atoms"] = Field(
        default="auto",
        description="sum or mean over atoms, or none; auto: sum for properties of structures",
    )
    block: Literal["bandlimited", "convnext"] = Field(
        default="bandlimited",
        description="layers: exact under all rotations, or as published with a smooth kernel",
    )
    grid: Literal[
        "octahedron", "icosahedron", "dodecahedron", "lebedev14", "lebedev26", "pentakis32"
    ] = Field(default="pentakis32", description="orientations")
    degree: Count = Field(
        default=3, description="highest degree of the kernel, and of band-limited features"
    )
    channels: Count = Field(default=32, description="feature channels per orientation")
    layers: Count = Field(default=2, description="message-passing layers")
    correlation: int = Field(
        default=3, ge=1, le=4, description="highest power of the features in a band-limited layer"
    )
    num_radial: Count = Field(default=8, description="number of radial functions")
    cutoff_power: int = Field(default=5, ge=2, description="power p of the polynomial cutoff")
    radial_hidden: list[Count] = Field(
        default=[64], description="hidden widths of the radial networks"
    )
    widening: Count = Field(
        default=4, description="hidden over plain channels of a `convnext` layer"
    )
    mean_neighbors: Literal["auto"] | Positive = Field(
        default="auto", description="normalisation of sums over neighbours"
    )
    scale: Literal["auto"] | Positive = Field(
        default="auto", description="unit of the network's output; auto: spread of the property"
    )
    offsets: Literal["auto"] | dict[str, Finite] = Field(
        default="auto", description="what an atom of each element contributes; auto: least squares"
    )

    def summary(self) -> str:
        """Kind, size, reach."""
        return (
            f"{self.kind} ({self.collect}), {self.layers} {self.block} layers of {self.channels} "
            f"channels on the {self.grid}, degree {self.degree}, cutoff {self.cutoff:g} A"
        )


class PropertyTrainRecipe(LoopRecipe):
    """Optimizer, schedule and stopping, with the loss of a property."""

    loss: Literal["mse", "huber"] = Field(
        default="mse", description="penalty of one component, in units of model.scale"
    )
    huber_delta: Positive = Field(
        default=0.1, description="errors above this are penalised linearly (units of model.scale)"
    )
    turn: bool = Field(default=True, description="turn the orientation grid at random every step")
    batch_size: Count = Field(default=16, description="most structures in a batch")
    learning_rate: Positive = Field(default=0.005, description="highest learning rate")


class PropertyRecipe(Recipe):
    """Train a regressor: a scalar, vector or tensor property of structures or atoms."""

    task: ClassVar[str] = "property"

    data: PropertyDataRecipe = Field(description="which structures and which property")
    model: RegressorRecipe = Field(default_factory=RegressorRecipe)
    train: PropertyTrainRecipe = Field(default_factory=PropertyTrainRecipe)
