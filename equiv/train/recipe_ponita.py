"""The recipe of a Ponita."""

# Sections are frozen, so a recipe may narrow the type of one (pyright cannot know).
# pyright: reportIncompatibleVariableOverride=false

from typing import Literal

from pydantic import Field, model_validator

from equiv.train.recipe import Count
from equiv.train.recipe_potential import LongRangeRecipe, PotentialModelRecipe, PotentialRecipe


class PonitaRecipe(PotentialModelRecipe):
    """The constructor call of `equiv.models.Ponita`; `auto` is measured on the training set."""

    name: Literal["ponita"] = Field(default="ponita", description="architecture")
    block: Literal["bandlimited", "convnext"] = Field(
        default="bandlimited",
        description="layers: exact under all rotations, or as published with a smooth kernel",
    )
    grid: Literal[
        "octahedron", "icosahedron", "dodecahedron", "lebedev14", "lebedev26", "pentakis32"
    ] = Field(default="pentakis32", description="orientations at every atom")
    degree: int = Field(
        default=3,
        ge=1,
        le=6,
        description="highest degree of the kernel in the angle (and of band-limited features)",
    )
    channels: Count = Field(default=64, description="feature channels")
    layers: int = Field(default=3, ge=1, le=12, description="message-passing layers")
    correlation: int = Field(
        default=3, ge=1, le=4, description="highest power of the features in a band-limited layer"
    )
    product: Literal[
        "pointwise",
        "clebsch_gordan",
        "so2",
        "gaunt_grid",
        "gaunt_fourier",
        "matrix",
        "vector_signal",
    ] = Field(
        default="pointwise",
        description="how a band-limited layer multiplies: on the grid, or by a tensor product",
    )
    widening: Count = Field(
        default=4, description="hidden over feature channels of a `convnext` layer"
    )
    radial_basis: Literal["bessel", "chebyshev"] = Field(
        default="bessel", description="radial functions"
    )
    num_radial: Count = Field(default=8, description="number of radial functions")
    cutoff_power: int = Field(default=5, ge=2, description="power p of the polynomial cutoff")
    radial_hidden: list[Count] = Field(
        default=[64], description="hidden widths of the radial network"
    )
    readout_hidden: Count = Field(
        default=16, description="hidden width of the last readout (`bandlimited`)"
    )
    orientation: Literal["fixed", "random_per_step"] = Field(
        default="fixed",
        description="whether the grid is turned after every training step; matters for `convnext`",
    )
    average: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="predictions are the mean over so many orientations of the grid",
    )
    zbl: bool = Field(default=False, description="add the ZBL repulsion at short range")
    long_range: LongRangeRecipe | None = Field(
        default=None, description="electrostatics (and dispersion) beyond the cutoff"
    )

    @model_validator(mode="after")
    def _keys_belong_to_the_block(self) -> "PonitaRecipe":
        """What one kind of layer does not know must not look as if it did something."""
        foreign = {"bandlimited": ("widening",), "convnext": ("correlation", "product")}
        given = [key for key in foreign[self.block] if key in self.model_fields_set]
        defaults = {key: type(self).model_fields[key].default for key in given}
        changed = [key for key, default in defaults.items() if getattr(self, key) != default]
        if changed:
            raise ValueError(f"{' and '.join(changed)} cannot be set for block: {self.block}")
        return self

    def summary(self) -> str:
        """Size, grid, degree, reach."""
        order = f", order {self.correlation}" if self.block == "bandlimited" else ""
        return (
            f"{self.layers} {self.block} layers of {self.channels} channels on {self.grid}, "
            f"l <= {self.degree}{order}, cutoff {self.cutoff:g} A"
        )


class PonitaRunRecipe(PotentialRecipe):
    """Train a Ponita as an interatomic potential."""

    model: PonitaRecipe = Field(default_factory=PonitaRecipe)
