"""The recipe of a forecaster: where particles will be."""

# Sections are frozen, so a recipe may narrow the type of one (pyright cannot know).
# pyright: reportIncompatibleVariableOverride=false

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from equiv.train.recipe import (
    Count,
    FilesRecipe,
    LoopRecipe,
    ModelRecipe,
    Paths,
    Positive,
    Recipe,
)


class ForecastDataRecipe(FilesRecipe):
    """Which systems of particles; `name@:500` and `name@500:600` are parts of a file."""

    train: Paths = Field(
        description="archives (.npz) with positions, velocities, charges and targets; "
        "`equiv data make nbody` makes them"
    )


class ForecasterRecipe(ModelRecipe):
    """The constructor call of `equiv.models.Forecaster`."""

    name: Literal["forecaster"] = Field(default="forecaster", description="architecture")
    horizon: Positive = Field(
        default=1.0, description="time to forecast, in units of length over velocity"
    )
    grid: Literal[
        "octahedron", "icosahedron", "dodecahedron", "lebedev14", "lebedev26", "pentakis32"
    ] = Field(default="icosahedron", description="orientations")
    degree: Count = Field(default=3, description="highest degree of the kernel; odd")
    channels: Count = Field(default=32, description="feature channels per orientation")
    layers: Count = Field(default=1, description="blocks in each stage")
    stages: Count = Field(default=4, description="how often the particles move on the way")
    shared: bool = Field(default=False, description="one set of weights for all stages")
    num_radial: int = Field(default=12, ge=2, description="bumps of the logarithm of the distance")
    shortest: Positive = Field(default=0.05, description="distance at which the bumps begin")
    longest: Positive = Field(default=8.0, description="distance at which the bumps end")
    radial_hidden: list[Count] = Field(
        default=[64], description="hidden widths of the radial networks"
    )
    widening: Count = Field(default=4, description="hidden over plain channels of a block")
    layer_scale: Positive | None = Field(
        default=None, description="size of the residual branches at birth; null: 1, not learned"
    )
    mean_neighbors: Positive = Field(default=4.0, description="normalisation of sums")
    conserve_momentum: bool = Field(
        default=True, description="keep the motion of the centre of equal masses exactly"
    )
    average: Count = Field(
        default=1, description="orientations of the grid to average forecasts over, after training"
    )

    @field_validator("degree")
    @classmethod
    def _degree_is_odd(cls, degree: int) -> int:
        if degree % 2 == 0:
            raise ValueError(f"must be odd (1, 3, 5, ...), got {degree}")
        return degree

    def summary(self) -> str:
        """Size, stages, grid."""
        return (
            f"{self.stages} stages of {self.layers} layers of {self.channels} channels on the "
            f"{self.grid}, degree {self.degree}, horizon {self.horizon:g}"
        )


class ForecastTrainRecipe(LoopRecipe):
    """Optimizer, schedule and stopping, with the loss of a forecast."""

    loss: Literal["mse", "huber"] = Field(default="mse", description="penalty of one coordinate")
    huber_delta: Positive = Field(
        default=0.3, description="errors above this are penalised linearly"
    )
    turn: bool = Field(default=True, description="turn and reflect every training batch at random")
    batch_size: Count = Field(default=100, description="most systems in a batch")
    learning_rate: Positive = Field(default=0.005, description="highest learning rate")
    weight_decay: float = Field(
        default=1e-4, ge=0, allow_inf_nan=False, description="decoupled weight decay of matrices"
    )
    amsgrad: bool = Field(default=False, description="use the AMSGrad variant of AdamW")
    clip_gradient: Positive | None = Field(default=1.0, description="largest gradient norm")
    ema_decay: float = Field(
        default=0.995,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights; 0 turns it off",
    )


class ForecastRecipe(Recipe):
    """Train a forecaster of particles: where they will be after a given time."""

    task: ClassVar[str] = "forecast"

    data: ForecastDataRecipe = Field(description="which systems; at the least data: FILE")
    model: ForecasterRecipe = Field(default_factory=ForecasterRecipe)
    train: ForecastTrainRecipe = Field(default_factory=ForecastTrainRecipe)
