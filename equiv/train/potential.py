"""The task of an interatomic potential: energies, forces and stresses of labelled structures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import ase
import ase.io
import numpy as np
from torch import Tensor, nn

from equiv.data import Frame
from equiv.models.abstract import AbstractModel
from equiv.models.compiled.worth import worthwhile
from equiv.models.equivariance_error import equivariance_error
from equiv.models.interface import Model, Prediction
from equiv.train.console import RunConsole
from equiv.train.errors import Metrics, Rows
from equiv.train.evaluation import Evaluation
from equiv.train.loss import EnergyForcesStressLoss, LossWeights
from equiv.train.metrics import QUANTITIES, PotentialComparison, batch_errors, evaluate
from equiv.train.prepare import Prepared, prepare
from equiv.train.quantity import Quantity
from equiv.train.recipe_potential import PotentialRecipe, TrainRecipe
from equiv.train.step import CompiledStep, EagerStep
from equiv.train.task import Split, Step, Task

LONG_TIME = 600.0  # seconds of training that repay a compilation
WORST = 20  # structures in worst.xyz
MOST_TURNED = 20  # structures to turn where models are not invariant by construction
UNDECAYED = ("embedding", "radial", "linear_up", "readout")


class PotentialTask(Task[PotentialRecipe]):
    """Learn energies, forces and stresses.

    Args:
        prepared: the data and the resolved recipe.
    """

    quantities = QUANTITIES
    noun = "potential"
    samples = "structures"
    usage = 'from equiv import EquivCalculator\natoms.calc = EquivCalculator("model.safetensors")'

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.recipe, self.device = prepared.recipe, prepared.device
        self.train, self.valid, self.tests = prepared.train, prepared.valid, list(prepared.tests)
        self.learned = prepared.learned
        learned, train = prepared.learned, prepared.recipe.train
        self.criterion = EnergyForcesStressLoss(
            train.loss,
            delta=train.huber_delta,
            energy=learned.energy is not None,
            forces=learned.forces is not None,
            stress=learned.stress is not None,
        )
        self.comparison = PotentialComparison()

    @classmethod
    def prepare(cls, recipe: PotentialRecipe, console: RunConsole) -> Self:
        """Read, check, split and measure the structures."""
        return cls(prepare(recipe, console))

    def build_model(self) -> AbstractModel:
        """The untrained potential."""
        return self.prepared.model()

    def size(self, sample: Any) -> int:
        """Edges of a graph."""
        return self.comparison.size(sample)

    def collate(self, samples: Sequence[Any]) -> Any:
        """Several graphs as one."""
        return self.comparison.collate(samples)

    def predict(self, model: Any, batch: Any) -> Prediction:
        """Energies, forces and stresses, as far as they are learned."""
        return model(batch, forces=self.criterion.forces, stress=self.criterion.stress)

    def loss(self, model: Any, batch: Any, progress: float) -> tuple[Tensor, Prediction]:
        """The weighted sum of the three terms."""
        weights = LossWeights.at(self.recipe.train, progress)
        return EagerStep(model, self.criterion).loss(batch, weights)

    def errors(self, prediction: Any, batch: Any) -> dict[str, Rows]:
        """All that was predicted, minus the reference."""
        return batch_errors(prediction, batch)

    def pairs(self, prediction: Any, batch: Any) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Reference and predicted values."""
        return self.comparison.pairs(prediction, batch)

    @property
    def shown(self) -> tuple[Quantity, ...]:
        """The quantities that are learned."""
        sizes = {"energy_per_atom": self.learned.energy}
        sizes |= {name: getattr(self.learned, name) for name in ("forces", "stress")}
        return tuple(q for q in self.quantities if sizes.get(q.name) is not None)

    def facts(self, model: AbstractModel) -> list[tuple[str, str]]:
        """Model and loss in a line each."""
        train, learned = self.recipe.train, self.learned
        terms = {
            "energy": (train.energy_weight, learned.energy),
            "forces": (train.forces_weight, learned.forces),
            "stress": (train.stress_weight, learned.stress),
        }
        listed = [f"{name} {weight:g}" for name, (weight, size) in terms.items() if size]
        if train.final_energy_weight is not None and learned.energy is not None:
            listed[0] += f" to {train.final_energy_weight:g}"
        kind = f"huber (delta {train.huber_delta:g})" if train.loss == "huber" else train.loss
        return [*super().facts(model), ("loss", f"{kind}, weights: {', '.join(listed)}")]

    def card(self) -> dict[str, Any]:
        """Labels and reference energies."""
        return {
            "data": {"labels": str(self.prepared.train.dataset.labels)},
            "reference_energies_from": self.prepared.reference.how,
        }

    def findings(self, model: Any) -> dict[str, Any]:
        """How well a potential that is not invariant by construction turns with structures."""
        if model.exact_rotations is None:
            return {}
        split = self.prepared.valid if len(self.prepared.valid.dataset) else self.prepared.train
        frames = [frame.atoms for frame in split.dataset[:MOST_TURNED]]
        return {"equivariance": equivariance_error(model, frames).to_dict()}

    def score(self, metrics: Metrics) -> float:
        """The mean of the relative errors."""
        return self.learned.score(metrics)

    def evaluate(
        self,
        model: AbstractModel,
        samples: Sequence[Any],
        *,
        groups: Sequence[str] | None = None,
        batch_edges: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Predict structures and compare, whatever labels they have."""
        assert isinstance(model, Model)
        options = {"groups": groups, "batch_edges": batch_edges, "progress": progress}
        return evaluate(model, samples, **options)

    def step(self, model: AbstractModel) -> Step:
        """The gradient of the loss, uncompiled."""
        assert isinstance(model, Model)
        return PotentialStep(EagerStep(model, self.criterion), self.recipe.train)

    @property
    def compiling(self) -> str:
        """What the recipe wants."""
        return self.recipe.train.compile

    def reason_not_to_compile(self, steps: float) -> str | None:
        """The run is short; a matter of recipe and data alone, equal in a resumed run."""
        train, graphs = self.recipe.train, self.train.samples
        if self.device.type != "cpu":
            return "on a GPU that is done on request only"
        if train.epochs == "auto":
            assert train.max_time is not None
            short = train.max_time < LONG_TIME
            return f"{train.max_time:g} s are too short to repay it" if short else None
        batches = steps / train.epochs
        atoms = sum(int(graph.num_nodes or 0) for graph in graphs) / batches
        if worthwhile(int(steps), atoms):
            return None
        return f"{int(steps)} steps of {atoms:.0f} atoms are too few to repay it"

    def compiled_step(
        self, model: AbstractModel, largest: Any, report: Callable[[str], None]
    ) -> "PotentialStep | None":
        """Steps, and validation if forces are learned, by compiled code."""
        assert isinstance(model, Model)
        graphs = self.train.samples
        small = sorted(range(len(graphs)), key=lambda i: (int(graphs[i].num_nodes or 0), i))[:2]
        check = self.collate([graphs[i] for i in small]).to(model.device)
        compiled = CompiledStep(EagerStep(model, self.criterion), check, report)
        if not compiled.possible:
            return None
        step = PotentialStep(compiled, self.recipe.train)
        step(largest, 0.0)
        if compiled.compiled_batches and self.learned.forces is not None:
            model.compile(report=report)
            evaluate(model, self.valid.samples[:2])  # now, and not within an epoch
        return step

    def compiled_graphs(self, step: Step) -> dict[str, int]:
        """How many graphs it took, and how many batches they served."""
        return step.compiled_graphs() if isinstance(step, PotentialStep) else {}

    def decays(self, name: str, value: nn.Parameter) -> bool:
        """Whether weight decay pulls on a parameter.

        It pulls on the matrices that mix channels and on the weights of the many-body products, as
        is customary for MACE; not on vectors and scalars, element embeddings, radial networks, the
        map before the convolution, and readouts (parameters whose name contains one of
        `UNDECAYED`).
        """
        return value.ndim >= 2 and not any(word in name for word in UNDECAYED)

    def log_values(self, progress: float) -> dict[str, float]:
        """The weight of the energy."""
        return {"energy_weight": LossWeights.at(self.recipe.train, progress).energy}

    def ranking(self) -> tuple[str, ...]:
        """Forces say most, and energies where there are none."""
        return ("forces", "energy_per_atom")

    def write_worst(self, folder: Path, split: Split, evaluation: Evaluation) -> None:
        """Write `worst.xyz`."""
        if worst := worst_frames(self.prepared.dataset(split.name), evaluation, self.ranking()):
            ase.io.write(folder / "worst.xyz", worst, format="extxyz")

    def write_guilty(self, folder: Path, indices: Sequence[int]) -> Path | None:
        """Write `nan_frames.xyz`."""
        path = folder / "nan_frames.xyz"
        frames = [labelled(self.prepared.train.dataset[i]) for i in indices]
        ase.io.write(path, frames, format="extxyz")
        return path


class PotentialStep:
    """The gradient of the loss, with the weights of its terms as the recipe wants them by then.

    Args:
        step: computes it for given weights.
        recipe: what the weights follow from.
    """

    def __init__(self, step: EagerStep | CompiledStep, recipe: TrainRecipe) -> None:
        self.step, self.recipe = step, recipe

    def __call__(self, batch: Any, progress: float) -> tuple[Tensor, Prediction]:
        """Loss and prediction; the gradient is left with the weights."""
        return self.step(batch, LossWeights.at(self.recipe, progress))

    def compiled_graphs(self) -> dict[str, int]:
        """How many graphs it took, and how many batches they served; empty if not compiled."""
        if not isinstance(self.step, CompiledStep):
            return {}
        programs = self.step.programs
        return {
            "graphs": programs.graphs,
            "built": programs.compiled,
            "loaded": programs.loaded,
            "batches": self.step.compiled_batches,
        }


def worst_frames(
    frames: Sequence[Frame], evaluation: Evaluation, ranking: Sequence[str]
) -> list[ase.Atoms]:
    """The structures of a set with the largest errors, worst first, the errors in `info`."""
    found = []
    missing = np.full(len(frames), np.nan)
    forces = evaluation.of_samples.get("forces", missing)
    energies = evaluation.of_samples.get("energy_per_atom", missing)
    for i in evaluation.worst(WORST, ranking):
        atoms = labelled(frames[i])
        atoms.info["force_rmse_eV_per_A"] = float(forces[i])
        atoms.info["energy_error_eV_per_atom"] = float(energies[i])
        atoms.info["from"] = frames[i].where
        found.append(atoms)
    return found


def labelled(frame: Frame) -> ase.Atoms:
    """A structure with its reference labels under keys that no reader overlooks or reinterprets."""
    atoms = frame.atoms.copy()
    atoms.info = {}
    if frame.energy is not None:
        atoms.info["REF_energy"] = float(frame.energy)
    if frame.forces is not None:
        atoms.arrays["REF_forces"] = np.array(frame.forces)
    if frame.stress is not None:
        atoms.info["REF_stress"] = np.array(frame.stress)
    return atoms
