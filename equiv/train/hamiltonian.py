"""The task of a Hamiltonian model: Fock matrices of molecules, from their geometries."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import ase
import ase.io
import numpy as np
import torch
from torch import Tensor

from equiv.data.slices import sliced
from equiv.errors import DataError
from equiv.hamiltonian import (
    Batcher,
    Blocks,
    HamiltonianBatch,
    HamiltonianFrame,
    HamiltonianSample,
    HamiltonianSet,
    OrbitalBasis,
    Theory,
    matrices_from_blocks,
    read_hamiltonians,
)
from equiv.hamiltonian.eigen import orbitals
from equiv.hamiltonian.metrics import errors_by_kind, lower_blocks, orbital_errors
from equiv.models import AbstractModel, build_model
from equiv.train.automatic import automatic_epochs
from equiv.train.console import RunConsole
from equiv.train.device import choose_device
from equiv.train.errors import Rows
from equiv.train.evaluation import Evaluation
from equiv.train.phases import settled_phases
from equiv.train.quantity import Quantity
from equiv.train.recipe_hamiltonian import SPHNetRunRecipe
from equiv.train.sampler import automatic_edge_budget
from equiv.train.start import load_weights
from equiv.train.task import Split, Task
from equiv.units import HARTREE

WORST = 20  # molecules in worst.xyz
_MICRO = {"unit": "Eh", "shown_unit": "uEh", "factor": 1e6}

HAMILTONIAN = Quantity(
    "hamiltonian", "H", "Hamiltonian", **_MICRO, headline="mae", title="Hamiltonian"
)
"""All entries of the matrix."""
LOWER = Quantity(
    "hamiltonian_lower",
    "L",
    "Hamiltonian, each pair of atoms once",
    **_MICRO,
    statistics=("mae",),
    headline="mae",
    logged=False,
)
"""The same as the papers of SPHNet count it."""
OCCUPIED = Quantity(
    "occupied",
    "e",
    "occupied orbital energy",
    **_MICRO,
    headline="mae",
    epochs=("valid",),
    title="occupied orbital energies",
    axis_unit="eV",
    axis_factor=HARTREE,
)
GAP = Quantity(
    "gap",
    "g",
    "gap",
    **_MICRO,
    headline="mae",
    epochs=("valid",),
    title="gap",
    axis_unit="eV",
    axis_factor=HARTREE,
)
SIMILARITY = Quantity(
    "similarity",
    "c",
    "similarity of occupied orbitals",
    shown_unit="%",
    factor=100.0,
    statistics=("mean",),
    headline="mean",
    logged=False,
)
"""Mean cosine of coefficients."""
SPACE = Quantity(
    "occupied_space",
    "P",
    "overlap of occupied spaces",
    shown_unit="%",
    factor=100.0,
    statistics=("mean",),
    headline="mean",
    logged=False,
)


class HamiltonianTask(Task[SPHNetRunRecipe]):
    r"""Learn Fock matrices as corrections to a baseline.

    The loss of a batch, over all independent entries of all blocks (those of pairs of atoms twice,
    as they are there twice in the matrix), is

    .. math::
        w_s\, \langle |\Delta y| \rangle + w_h\, \langle |\Delta h| + \Delta h^2 \rangle
        + w_o\, \langle |c_n^\mathsf{T}\, \Delta H\, c_n| \rangle

    with :math:`y` the irreps in units of their spread, :math:`h` the same in Eh, and, for
    fine-tuning, :math:`c_n` the reference's occupied orbitals and the lowest unoccupied one: the
    error of their energies to first order (Li et al. 2025), without differentiating an eigenvalue
    problem.

    Args:
        recipe: with every choice made.
        device: where training runs.
        sets: training set, validation set, test sets by name.
        batcher: makes the samples.
    """

    noun = "Hamiltonian model"
    samples = "molecules"
    usage = (
        "import equiv\n"
        "from equiv.integrations.pyscf import HamiltonianCalculator\n"
        'calculator = HamiltonianCalculator(equiv.load_model("model.safetensors"))\n'
        "calculator.properties(mole)   # a pyscf.gto.Mole: orbitals, gap, dipole, charges, energy"
    )
    scored = ("hamiltonian",)

    def __init__(
        self,
        recipe: SPHNetRunRecipe,
        device: torch.device,
        sets: Mapping[str, HamiltonianSet],
        batcher: Batcher,
    ) -> None:
        self.recipe, self.device, self.batcher = recipe, device, batcher
        self.sets = dict(sets)
        splits = [self._split(name, data) for name, data in self.sets.items()]
        self.train, self.valid, self.tests = splits[0], splits[1], splits[2:]
        basis = batcher.basis
        kinds = [kind.name for kind in (*basis.diagonal_kinds, *basis.pair_kinds)]
        by_kind = [
            Quantity(
                f"hamiltonian {name}",
                f"H({name})",
                f"Hamiltonian, blocks {name}",
                **_MICRO,
                statistics=("mae",),
                headline="mae",
                logged=False,
            )
            for name in kinds
        ]
        self.quantities = (HAMILTONIAN, OCCUPIED, GAP, LOWER, SIMILARITY, SPACE, *by_kind)
        self._orbitals: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def prepare(cls, recipe: SPHNetRunRecipe, console: RunConsole) -> Self:
        """Read the sets, split, complete the baseline, settle what is `auto`."""
        device = choose_device(recipe.train.device)
        train = _read(recipe.paths(recipe.data.train), recipe)
        console.fact("data", train.describe())
        valid = _read(recipe.paths(recipe.data.valid), recipe) if recipe.data.valid else None
        how = ""
        if valid is None:
            train, valid = hold_out(train, recipe.data.valid_fraction, recipe.train.seed)
            fraction, seed = recipe.data.valid_fraction, recipe.train.seed
            how = f" ({fraction:.0%} held out by content hash, seed {seed})"
        tests = {name: _read(files, recipe) for name, files in recipe.test_sets().items()}
        for name, data in {"valid": valid, **tests}.items():
            _require_same(train, data, name)
            _warn_of_leakage(train, data, name, console)
        others = "".join(f" / {len(data)} {name}" for name, data in tests.items())
        console.fact("split", f"{len(train)} train / {len(valid)} valid{how}{others}")
        sets = {
            name: _with_baseline(data, recipe.model.baseline)
            for name, data in {"train": train, "valid": valid, **tests}.items()
        }
        task = cls(recipe, device, sets, Batcher(train.basis, recipe.model.baseline))
        task.recipe = task._settled(console)
        return task

    def _settled(self, console: RunConsole) -> SPHNetRunRecipe:
        train = self.recipe.train
        changes: dict[str, Any] = automatic_epochs(train, len(self.train.samples), console)
        if train.batch_edges == "auto":
            sizes = list(map(self.size, self.train.samples))
            changes["batch_edges"] = automatic_edge_budget(sizes, train.batch_size)
        train = train.model_copy(update=changes)
        settled: dict[str, Any] = {}
        section = self.recipe.model
        if section.mean_neighbors == "auto":
            settled["mean_neighbors"] = mean_neighbors(self.sets["train"], section.cutoff)
        settled |= settled_phases(section, train, len(self.train.samples))
        for name, value in settled.items():
            console.fact("auto", f"model.{name} = {value:g}")
        changed = {"train": train, "model": section.model_copy(update=settled)}
        recipe = self.recipe.model_copy(update=changed)
        return recipe.placed(self.recipe._folder, self.recipe._stem)

    def build_model(self) -> AbstractModel:
        """The untrained model, with scales of the training set; or the one to start from."""
        train, data = self.recipe.train, self.sets["train"]
        arguments = {
            **self.recipe.model.model_dump(exclude={"name"}),
            "basis": data.basis.to_dict(),
            "theory": data.theory.to_dict(),
        }
        model: Any = build_model(
            self.recipe.model.name,
            seed=train.seed,
            dtype=getattr(torch, train.dtype),
            **arguments,
        )
        model.standardisation.fit(sample.target for sample in self.train.samples)
        if train.start_from is not None:
            load_weights(model, self.recipe.path(train.start_from))
        return model.to(self.device)

    def size(self, sample: HamiltonianSample) -> int:
        """Pairs of atoms."""
        atoms = len(sample.frame.numbers)
        return max(1, atoms * (atoms - 1) // 2)

    def collate(self, samples: Sequence[HamiltonianSample]) -> HamiltonianBatch:
        """Molecules side by side."""
        return self.batcher.collate(samples)

    def predict(self, model: Any, batch: HamiltonianBatch) -> Blocks:
        """Corrections to the baseline, Eh."""
        with torch.no_grad():
            return model(batch)

    def loss(self, model: Any, batch: HamiltonianBatch, progress: float) -> tuple[Tensor, Blocks]:
        """The sum of the three terms."""
        assert batch.target is not None
        train = self.recipe.train
        scaled = model.standardised(batch) - model.standardisation.inverse(batch.target)
        error = scaled.map(torch.mul, _scales(model, scaled))
        loss = train.standardised_weight * _mean(scaled, torch.abs)
        loss = loss + train.hartree_weight * _mean(error, lambda x: x.abs() + x.square())
        if train.orbital_weight:
            loss = loss + train.orbital_weight * self._first_order(error, batch)
        return loss, (error + batch.target).detach()

    def _first_order(self, error: Blocks, batch: HamiltonianBatch) -> Tensor:
        """Errors of the energies of occupied orbitals and the lowest unoccupied one, Eh."""
        total = []
        for matrix, sample in zip(
            matrices_from_blocks(error, batch.layout), batch.samples, strict=True
        ):
            _, coefficients = self._reference_orbitals(sample)
            mine = coefficients[:, : sample.occupied + 1].to(matrix)
            total.append(torch.einsum("un,uv,vn->n", mine, matrix, mine).abs())
        return torch.cat(total).mean()

    def _reference_orbitals(self, sample: HamiltonianSample) -> tuple[Tensor, Tensor]:
        key = id(sample)
        if key not in self._orbitals:
            if sample.frame.overlap is None:
                raise DataError(
                    f"{sample.frame.where}: has no overlap matrix, which train.orbital_weight needs"
                )
            self._orbitals[key] = orbitals(sample.frame.hamiltonian, sample.frame.overlap)
        return self._orbitals[key]

    def errors(self, prediction: Blocks, batch: HamiltonianBatch) -> dict[str, Rows]:
        """Entries of the matrix."""
        assert batch.target is not None
        difference = matrices_from_blocks(prediction - batch.target, batch.layout)
        return {HAMILTONIAN.name: _rows([error.flatten() for error in difference])}

    def evaluation_errors(self, prediction: Blocks, batch: HamiltonianBatch) -> dict[str, Rows]:
        """Matrix and orbitals."""
        assert batch.target is not None
        basis = self.batcher.basis
        matrices = matrices_from_blocks(
            (prediction - batch.target).to("cpu"), batch.layout.to("cpu")
        )
        found: dict[str, list[tuple[int, Tensor]]] = {}

        def note(name: str, index: int, values: Tensor) -> None:
            found.setdefault(name, []).append((index, values.flatten()))

        for index, (error, sample) in enumerate(zip(matrices, batch.samples, strict=True)):
            frame = sample.frame
            note(HAMILTONIAN.name, index, error)
            note(LOWER.name, index, error[lower_blocks(basis, frame.numbers)])
            for kind, values in errors_by_kind(error, basis, frame.numbers).items():
                note(f"hamiltonian {kind}", index, values)
        for members in _alike(batch.samples):
            reference = torch.stack([batch.samples[i].frame.hamiltonian for i in members])
            overlap = torch.stack([_overlap(batch.samples[i]) for i in members])
            predicted = reference + torch.stack([matrices[i] for i in members])
            occupied = batch.samples[members[0]].occupied
            if not 0 < occupied < reference.shape[-1]:
                continue
            compared = orbital_errors(predicted, reference, overlap, occupied)
            for row, index in enumerate(members):
                note(OCCUPIED.name, index, compared.occupied[row])
                note(GAP.name, index, compared.gap[row])
                note(SIMILARITY.name, index, compared.similarity[row])
                note(SPACE.name, index, compared.overlap[row])
        return {
            name: _rows([values for _, values in rows], [index for index, _ in rows])
            for name, rows in found.items()
        }

    def pairs(
        self, prediction: Blocks, batch: HamiltonianBatch
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Orbital energies and gaps."""
        assert batch.target is not None
        matrices = matrices_from_blocks(
            (prediction - batch.target).to("cpu"), batch.layout.to("cpu")
        )
        found: dict[str, list[Tensor]] = {}
        for members in _alike(batch.samples):
            occupied = batch.samples[members[0]].occupied
            for index in members:
                sample = batch.samples[index]
                reference, _ = self._reference_orbitals(sample)
                predicted, _ = orbitals(
                    sample.frame.hamiltonian + matrices[index], _overlap(sample)
                )
                both = torch.stack((reference, predicted))
                found.setdefault(OCCUPIED.name, []).append(both[:, :occupied])
                if 0 < occupied < both.shape[1]:
                    gap = both[:, occupied] - both[:, occupied - 1]
                    found.setdefault(GAP.name, []).append(gap[:, None])
        joined = {name: torch.cat(values, 1) for name, values in found.items()}
        return {name: (values[0], values[1]) for name, values in joined.items()}

    @classmethod
    def for_model(
        cls, model: AbstractModel, files: Sequence[str], recipe: Mapping[str, Any]
    ) -> Self:
        """Compare with the matrices in some files."""
        trained: Any = model
        data = _joined([_read_one(Path(file), trained.basis, None) for file in files])
        data = _with_baseline(data, trained.baseline)
        empty = data[:0]
        settings = SPHNetRunRecipe.model_validate({"data": {"train": [str(f) for f in files]}})
        sets = {"train": data, "valid": empty}
        return cls(settings, trained.device, sets, Batcher(trained.basis, trained.baseline))

    def facts(self, model: AbstractModel) -> list[tuple[str, str]]:
        """Model, baseline and loss."""
        train, fitted = self.recipe.train, self.train.samples[:200]
        size = _mean_size([sample.frame for sample in fitted], self.batcher.baseline)
        terms = {
            "standardised": train.standardised_weight,
            "Eh": train.hartree_weight,
            "orbitals": train.orbital_weight,
        }
        listed = ", ".join(f"{name} {weight:g}" for name, weight in terms.items() if weight)
        baseline = f"{self.batcher.baseline}, {1e6 * size:,.0f} uEh (mean absolute) to be learned"
        return [
            *super().facts(model),
            ("baseline", baseline),
            ("loss", f"mean absolute and square errors of blocks, weights: {listed}"),
        ]

    def card(self) -> dict[str, Any]:
        """Orbitals, theory, baseline."""
        data = self.sets["train"]
        return {
            "data": {"labels": f"Fock matrices (Eh), {data.theory}"},
            "orbital_basis": data.basis.describe(),
            "baseline": self.batcher.baseline,
        }

    def ranking(self) -> tuple[str, ...]:
        """The whole matrix."""
        return (HAMILTONIAN.name,)

    def write_worst(self, folder: Path, split: Split, evaluation: Evaluation) -> None:
        """Write `worst.xyz`: the molecules with the largest errors, worst first."""
        found = []
        for index in evaluation.worst(WORST, self.ranking()):
            sample: HamiltonianSample = split.samples[index]
            atoms = ase.Atoms(sample.frame.numbers.numpy(), sample.frame.positions.numpy())
            error = 1e6 * float(evaluation.of_samples[HAMILTONIAN.name][index])
            atoms.info = {"hamiltonian_rmse_uEh": error, "from": sample.frame.where}
            found.append(atoms)
        if found:
            ase.io.write(folder / "worst.xyz", found, format="extxyz")

    def write_guilty(self, folder: Path, indices: Sequence[int]) -> Path | None:
        """Write `nan_frames.xyz`."""
        frames = [self.train.samples[i].frame for i in indices]
        path = folder / "nan_frames.xyz"
        found = [ase.Atoms(frame.numbers.numpy(), frame.positions.numpy()) for frame in frames]
        ase.io.write(path, found, format="extxyz")
        return path

    def _split(self, name: str, data: HamiltonianSet) -> Split:
        return Split(
            name=name,
            samples=self.batcher.samples(data),
            names=[frame.where for frame in data],
            groups=[frame.formula for frame in data],
            fingerprint=data.fingerprint,
        )


def hold_out(
    data: HamiltonianSet, fraction: float, seed: int
) -> tuple[HamiltonianSet, HamiltonianSet]:
    """Split off a share for validation, by a hash of each geometry.

    Raises:
        DataError: there are fewer than two molecules.
    """
    if len(data) < 2:
        raise DataError("cannot hold molecules out of one; give validation files")
    places = []
    for frame in data:
        content = frame.numbers.numpy().tobytes() + frame.positions.numpy().tobytes()
        digest = sha256(str(seed).encode() + content).digest()
        places.append(int.from_bytes(digest[:8], "big") / 2**64)
    held = {i for i, place in enumerate(places) if place < fraction}
    held = held or {int(np.argmin(places))}
    if len(held) == len(data):
        held.remove(int(np.argmax(places)))
    parts = ([f for i, f in enumerate(data) if (i in held) == side] for side in (False, True))
    train, valid = (HamiltonianSet(data.basis, data.theory, tuple(frames)) for frames in parts)
    return train, valid


def mean_neighbors(data: HamiltonianSet, cutoff: float) -> float:
    """Atoms within the cutoff (Angstrom) of an atom, on average over the set; at least 1."""
    near = atoms = 0
    for frame in data:
        distances = torch.cdist(frame.positions, frame.positions)
        near += int((distances < cutoff).sum()) - len(distances)
        atoms += len(distances)
    return max(1.0, round(near / atoms, 3))


def _read(paths: Sequence[Path], recipe: SPHNetRunRecipe) -> HamiltonianSet:
    given = recipe.data
    theory = None
    if given.xc is not None or given.grid_level is not None:
        level = Theory.grid_level if given.grid_level is None else given.grid_level
        theory = Theory(given.xc or Theory.xc, level)
    return _joined([_read_one(path, given.basis, theory) for path in paths])


def _read_one(
    path: Path, basis: OrbitalBasis | str | None, theory: Theory | None
) -> HamiltonianSet:
    file, part = sliced(path)
    return read_hamiltonians(file, basis=basis, theory=theory)[part]


def _joined(sets: Sequence[HamiltonianSet]) -> HamiltonianSet:
    out = sets[0]
    for other in sets[1:]:
        out = out + other
    return out


def _with_baseline(data: HamiltonianSet, name: str) -> HamiltonianSet:
    if name == "none" or all(name in frame.baselines for frame in data):
        return data
    from equiv.integrations.pyscf_labels import add_baseline

    return add_baseline(data, name)


def _require_same(train: HamiltonianSet, data: HamiltonianSet, name: str) -> None:
    if data.theory != train.theory:
        raise DataError(f"{name} data are of {data.theory}, training data of {train.theory}")
    for z in data.basis.elements:
        if any(z in frame.numbers for frame in data):
            train.basis.orbitals(z)  # says which element is not known
            if train.basis.shells[z] != data.basis.shells[z]:
                raise DataError(
                    f"{name} data have the basis {data.basis.describe()}, training data "
                    f"{train.basis.describe()}"
                )


def _warn_of_leakage(
    train: HamiltonianSet, data: HamiltonianSet, name: str, console: RunConsole
) -> None:
    known = {frame.positions.numpy().tobytes() for frame in train}
    both = sum(frame.positions.numpy().tobytes() in known for frame in data)
    if both:
        console.warn(f"{both} of {len(data)} molecules of {name} are in the training set too")


def _scales(model: Any, blocks: Blocks) -> Blocks:
    scale = model.standardisation.scale
    return Blocks({z: scale(z) for z in blocks.diagonal}, {key: scale(key) for key in blocks.pairs})


def _mean(blocks: Blocks, function: Any) -> Tensor:
    """Mean over the entries of the matrix: blocks of pairs are there twice."""
    sums, count = [], 0
    for rows in blocks.diagonal.values():
        sums.append(function(rows).sum())
        count += rows.numel()
    for rows in blocks.pairs.values():
        sums.append(2 * function(rows).sum())
        count += 2 * rows.numel()
    return torch.stack(sums).sum() / count


def _mean_size(frames: Sequence[HamiltonianFrame], baseline: str) -> float:
    differences = [frame.difference(baseline).abs() for frame in frames]
    return sum(float(x.sum()) for x in differences) / sum(x.numel() for x in differences)


def _alike(samples: Sequence[HamiltonianSample]) -> list[list[int]]:
    """Samples whose orbitals can be found together: as many orbitals, as many occupied."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, sample in enumerate(samples):
        if sample.frame.overlap is not None:
            key = (len(sample.frame.hamiltonian), sample.occupied)
            groups.setdefault(key, []).append(index)
    return list(groups.values())


def _overlap(sample: HamiltonianSample) -> Tensor:
    assert sample.frame.overlap is not None
    return sample.frame.overlap


def _rows(errors: Sequence[Tensor], indices: Sequence[int] | None = None) -> Rows:
    places = torch.arange(len(errors)) if indices is None else torch.tensor(list(indices))
    sizes = torch.tensor([len(error) for error in errors])
    error = torch.cat(list(errors))
    return Rows(error, torch.repeat_interleave(places, sizes).to(error.device))
