"""What a training run is told: every key, its default, its unit and what it may be.

A recipe has four parts: `data` (which files), `model` (the constructor call of an architecture),
`train` (loss, optimizer, schedule, stopping) and `output` (the folder of the run). Here is what all
recipes share; what a kind of run adds is in its own file (:mod:`equiv.train.recipe_potential`, ...)
and :mod:`equiv.train.recipes` lists them. These files are the only home of the defaults; they
import neither torch nor ase, so that a recipe is checked in a fraction of a second.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

FileName = Annotated[str, Field(min_length=1)]
Paths = FileName | list[FileName]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

OWN_SETS = ("train", "valid")  # names of sets that a run makes itself

_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Seconds from `"90s"`, `"45m"`, `"1h30m"` or `"1:30:00"`; anything else is left unchanged."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+:[0-5]?\d(:[0-5]?\d)?", text):
        numbers = [int(part) for part in text.split(":")]
        hours, minutes, seconds = numbers if len(numbers) == 3 else (0, *numbers)
        return float(hours * 3600 + minutes * 60 + seconds)
    parts = re.findall(r"(\d+(?:\.\d*)?)(sec|min|s|m|h|d)", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return value


EXPECTS_TIME: dict[str, Any] = {"expects": "a time such as 90s, 45m or 1h30m"}
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0, allow_inf_nan=False, json_schema_extra=EXPECTS_TIME),
]
Pause = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, allow_inf_nan=False, json_schema_extra=EXPECTS_TIME),
]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, and no value is bent to fit."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FilesRecipe(Section):
    """Which files; `name@:500` and `name@500:600` are parts of a file."""

    train: Paths = Field(description="file, glob or list of files to train on")
    valid: Paths | None = Field(
        default=None, description="validation files; without them a part of `train` is held out"
    )
    valid_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share of `train` held out when `valid` is not given"
    )
    test: Paths | dict[str, Paths] | None = Field(
        default=None, description="files for the final error table, one set or several by name"
    )

    @field_validator("test")
    @classmethod
    def _names_are_free(cls, test: Any) -> Any:
        taken = [name for name in test if name in OWN_SETS] if isinstance(test, dict) else []
        if taken:
            raise ValueError(
                f"a test set may not be called {' or '.join(taken)}, as those of the run itself "
                "are; give it another name"
            )
        return test


class ModelRecipe(Section):
    """The constructor call of an architecture."""

    name: str = Field(description="architecture")

    def summary(self) -> str:
        """The choices that tell this model from others of its kind, in one line."""
        raise NotImplementedError


class LoopRecipe(Section):
    """Optimizer, schedule and stopping."""

    epochs: Literal["auto"] | Count = Field(
        default="auto",
        description="passes over the training set; auto: 20 000 steps, or what max_time allows",
    )
    max_time: Duration | None = Field(
        default=None, description="training stops after this time, resumed pieces added up"
    )
    patience: Count | None = Field(
        default=None, description="stop after this many epochs without a better validation error"
    )

    batch_size: Count = Field(default=8, description="most structures in a batch")
    batch_edges: Literal["auto"] | Count = Field(
        default="auto",
        description="most edges in a batch; auto: twice batch_size typical structures",
    )

    learning_rate: Positive = Field(default=0.01, description="highest learning rate")
    schedule: Literal["cosine", "exponential", "plateau", "constant"] = Field(
        default="cosine", description="how the learning rate falls"
    )
    final_learning_rate: Positive | None = Field(
        default=None,
        description="lowest learning rate; null: a hundredth of learning_rate",
    )
    warmup_steps: int = Field(default=100, ge=0, description="steps of linear warm-up")
    plateau_factor: float = Field(
        default=0.5, gt=0, lt=1, description="`plateau` multiplies the learning rate by this"
    )
    plateau_patience: Count = Field(
        default=10, description="after this many epochs without a better validation error"
    )
    weight_decay: NonNegative = Field(
        default=5e-7, description="decoupled weight decay of the mixing matrices"
    )
    amsgrad: bool = Field(default=True, description="use the AMSGrad variant of AdamW")
    clip_gradient: Positive | None = Field(default=10.0, description="largest gradient norm")
    ema_decay: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights; 0 turns it off",
    )

    seed: int = Field(
        default=1,
        ge=0,
        lt=2**32,
        description="seed of the weights, the split and the order of the batches",
    )
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="precision of the weights"
    )
    device: str = Field(default="auto", description="cpu, cuda, cuda:1 or auto")
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads; null leaves torch's choice"
    )
    deterministic: bool = Field(
        default=False, description="refuse operations that are not reproducible on a GPU"
    )
    checkpoint_interval: Pause = Field(
        default=300.0, description="time between checkpoints inside an epoch; 0: after every step"
    )

    @property
    def floor(self) -> float:
        """The lowest learning rate."""
        return (
            self.learning_rate / 100
            if self.final_learning_rate is None
            else self.final_learning_rate
        )

    @model_validator(mode="after")
    def _learning_rate_falls(self) -> "LoopRecipe":
        if self.schedule != "constant" and self.floor > self.learning_rate:
            raise ValueError(
                f"final_learning_rate ({self.floor:g}) must not exceed learning_rate "
                f"({self.learning_rate:g})"
            )
        return self


class Recipe(Section):
    """A whole training run.

    Build it with `load_recipe`, which explains what is wrong in plain words. A kind of run is a
    subclass that says which task it is (:mod:`equiv.train.tasks`) and narrows the sections.
    """

    task: ClassVar[str]

    data: FilesRecipe = Field(description="which files; the least it takes is data: FILE")
    model: ModelRecipe
    train: LoopRecipe
    output: str | None = Field(
        default=None, description="folder of the run; default: runs/<name of the recipe>"
    )
    card: dict[str, str] = Field(
        default_factory=dict,
        description="facts for the model card: level_of_theory, licence, citation, ...",
    )

    # Paths that the recipe spells relatively start here: the folder of the recipe file.
    _folder: Path = PrivateAttr(default_factory=Path)
    _stem: str = PrivateAttr(default="run")

    PATHS: ClassVar[tuple[str, ...]] = (
        "data.train",
        "data.valid",
        "data.test",
        "train.start_from",
        "output",
    )

    def path(self, text: str) -> Path:
        """A path of the recipe, seen from the working directory."""
        path = self._folder / Path(text).expanduser()
        short = Path(os.path.normpath(path))
        # A step up from a symbolic link leads elsewhere than its spelling suggests.
        return short if short.resolve() == path.resolve() else path

    @property
    def run_folder(self) -> Path:
        """Where the run keeps everything: `output`, or `runs/<name>` in the working directory."""
        return self.path(self.output) if self.output is not None else Path("runs") / self._stem

    def test_sets(self) -> dict[str, list[Path]]:
        """The test files by the name of their set."""
        test = self.data.test
        if test is None:
            return {}
        sets = test if isinstance(test, dict) else {"test": test}
        return {name: self.paths(files) for name, files in sets.items()}

    def paths(self, files: Paths | None) -> list[Path]:
        """File names as a list of paths."""
        if files is None:
            return []
        return [self.path(file) for file in ([files] if isinstance(files, str) else files)]

    def placed(self, folder: Path, stem: str) -> Self:
        """The same recipe with relative paths that start at `folder`, and a default name."""
        recipe = self.model_copy()
        recipe._folder, recipe._stem = Path(folder), stem
        return recipe

    def relocated(self, folder: Path) -> dict[str, Any]:
        """The recipe as a dictionary whose relative paths start at `folder`."""

        def move(value: Any) -> Any:
            if isinstance(value, str):
                return os.path.relpath(self.path(value), folder)
            if isinstance(value, list):
                return [move(item) for item in value]
            if isinstance(value, dict):
                return {key: move(item) for key, item in value.items()}
            return value

        content = self.to_dict()
        for key in ("train", "valid", "test"):
            content["data"][key] = move(content["data"][key])
        if "start_from" in content["train"]:
            content["train"]["start_from"] = move(content["train"]["start_from"])
        content["output"] = "."
        return content

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able dictionaries with every default filled in."""
        return self.model_dump(mode="json")
