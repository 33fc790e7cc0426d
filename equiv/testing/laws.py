"""The laws that every interatomic potential obeys, each a function from a model to its errors."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ase
import numpy as np
import torch

from equiv.graph import collate
from equiv.models import MODELS
from equiv.so3 import random_rotations
from equiv.testing.gradients import STENCIL
from equiv.testing.subject import (
    Deviation,
    Observation,
    Subject,
    energies,
    graphs,
    observe,
    predict,
)


@dataclass(frozen=True)
class Law:
    """A statement about every potential, and how to measure a potential's distance from it.

    Attributes:
        statement: what must hold, in a sentence.
        check: errors in natural units, at least one.
        tolerance: largest error that rounding explains.
    """

    statement: str
    check: Callable[[Subject], list[Deviation]]
    tolerance: float


def _rotated(subject: Subject, *, reflect: bool) -> list[Deviation]:
    generator = torch.Generator().manual_seed(subject.seed)
    out = []
    for name, atoms in subject.structures.items():
        q = _drawn(subject.model.exact_rotations, reflect, generator)
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ q.T)
        turned.positions = atoms.positions @ q.T
        o = subject.observations[name]
        expected = replace(o, forces=o.forces @ q.T, virials=q @ o.virials @ q.T)
        out += subject.deviations(name, observe(subject.model, [turned])[0], expected)
    return out


def _drawn(exact: torch.Tensor | None, reflect: bool, generator: torch.Generator) -> np.ndarray:
    """A rotation, one of those that the model is sure of; with an inversion if wanted."""
    if exact is None:
        return random_rotations(generator=generator, improper=reflect).numpy()
    q = exact[int(torch.randint(len(exact), (1,), generator=generator))].cpu().numpy()
    return -q if reflect else q


def _rotation(subject: Subject) -> list[Deviation]:
    return _rotated(subject, reflect=False)


def _reflection(subject: Subject) -> list[Deviation]:
    return _rotated(subject, reflect=True)


def _translation(subject: Subject) -> list[Deviation]:
    out = []
    for name, atoms in subject.structures.items():
        moved = atoms.copy()
        moved.positions += subject.generator.uniform(-5, 5, 3)
        # Whole lattice vectors, different for every atom, along the periodic directions.
        jumps = subject.generator.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
        moved.positions += jumps @ atoms.cell.array
        out += subject.deviations(
            name, observe(subject.model, [moved])[0], subject.observations[name]
        )
    return out


def _permutation(subject: Subject) -> list[Deviation]:
    out = []
    for name, atoms in subject.structures.items():
        order = subject.generator.permutation(len(atoms))
        o = subject.observations[name]
        expected = replace(o, energies=o.energies[order], forces=o.forces[order])
        out += subject.deviations(name, observe(subject.model, [atoms[order]])[0], expected)
    return out


def _batch_equals_singles(subject: Subject) -> list[Deviation]:
    together = observe(subject.model, list(subject.structures.values()))
    out = []
    for (name, single), batched in zip(subject.observations.items(), together, strict=True):
        out += subject.deviations(name, batched, single)
    return out


def _energies_add_up(subject: Subject) -> list[Deviation]:
    return [
        Deviation(f"energy of '{name}'", abs(o.energies.sum() - o.energy) / subject.energy_scale)
        for name, o in subject.observations.items()
    ]


def _slope(
    subject: Subject, name: str, deform: Callable[[ase.Atoms, float], ase.Atoms], step: float
) -> float:
    """Derivative of the energy along a family of structures, by central differences."""
    atoms = subject.structures[name]
    family = [deform(atoms, k * step) for k in STENCIL]
    # Per atom and relative to the start, so that large reference energies cancel before they round.
    changes = energies(subject.model, family) - subject.observations[name].energies
    return float(np.dot(list(STENCIL.values()), changes.sum(1))) / step


def _forces(subject: Subject) -> list[Deviation]:
    out = []
    for name, atoms in subject.structures.items():
        if not len(atoms):
            continue
        for direction in range(3):
            v = np.random.default_rng([subject.seed, direction]).standard_normal((len(atoms), 3))
            v /= np.linalg.norm(v)

            def displaced(atoms: ase.Atoms, t: float, v: np.ndarray = v) -> ase.Atoms:
                moved = atoms.copy()
                moved.positions += t * v
                return moved

            expected = -_slope(subject, name, displaced, step=1e-3)
            came = float((subject.observations[name].forces * v).sum())
            out.append(Deviation(f"forces of '{name}'", abs(came - expected) / subject.force_scale))
    return out


def _stress(subject: Subject) -> list[Deviation]:
    out = []
    for name, atoms in subject.structures.items():
        if not len(atoms):
            continue
        for direction in range(3):
            strain = np.random.default_rng([subject.seed, direction]).standard_normal((3, 3))
            strain = strain + strain.T
            strain /= np.linalg.norm(strain)

            def strained(atoms: ase.Atoms, t: float, strain: np.ndarray = strain) -> ase.Atoms:
                deformed = atoms.copy()
                deformed.set_cell(atoms.cell.array @ (np.eye(3) + t * strain), scale_atoms=False)
                deformed.positions = atoms.positions @ (np.eye(3) + t * strain)
                return deformed

            expected = -_slope(subject, name, strained, step=2e-4)
            came = float((subject.observations[name].virials * strain).sum())
            out.append(
                Deviation(f"virials of '{name}'", abs(came - expected) / subject.energy_scale)
            )
        if atoms.cell.rank == 3:
            volume = abs(np.linalg.det(atoms.cell.array))
            stress = predict(subject.model, [atoms]).stress
            if stress is None:
                raise AssertionError(
                    f"{type(subject.model).__name__} was asked for stress and gave none"
                )
            difference = stress[0].numpy() * volume + subject.observations[name].virials
            out.append(
                Deviation(
                    f"stress of '{name}'", float(np.abs(difference).max()) / subject.energy_scale
                )
            )
    return out


def _training_gradients(subject: Subject) -> list[Deviation]:
    model = copy.deepcopy(subject.model).train()
    names = [name for name, atoms in subject.structures.items() if len(atoms)]
    batch = collate(graphs(model, [subject.structures[name] for name in names]))
    generator = torch.Generator().manual_seed(subject.seed)
    weights = torch.randn(batch.positions.shape, dtype=torch.float64, generator=generator)

    def loss() -> torch.Tensor:
        prediction = model(batch, forces=True, stress=True)
        return (
            (prediction.forces * weights).sum()
            + 0.3 * prediction.virials.sum()
            + prediction.energies.sum()
        )

    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return [Deviation("no trainable weights", 0.0)]
    value = loss()
    if not value.requires_grad:
        return [Deviation("the training loss does not depend on the weights", float("inf"))]
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    directions = [
        torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in parameters
    ]
    products = [(g * v).sum().item() for g, v in zip(gradients, directions, strict=True)]
    start, step, slope = [p.detach().clone() for p in parameters], 1e-4, 0.0
    for k, c in STENCIL.items():
        with torch.no_grad():
            for p, p0, v in zip(parameters, start, directions, strict=True):
                p.copy_(p0 + k * step * v)
        slope += c * loss().item() / step
    scale = max(sum(abs(x) for x in products), 1e-300)
    return [Deviation("weights, along a random direction", abs(sum(products) - slope) / scale)]


def _smoothness(subject: Subject) -> list[Deviation]:
    r"""A third atom leaves the neighbourhood of a bonded pair.

    The jump over ``[-d, d]`` around the cutoff falls in proportion to ``d`` if there is no
    discontinuity. Ten times the proportional value are allowed.
    """
    model, elements = subject.model, subject.model.elements
    direction = np.array([0.6, 0.64, 0.48])

    def trimer(distance: float) -> ase.Atoms:
        positions = np.array([[0, 0, 0], [-1.1, -0.2, 0.1], distance * direction])
        return ase.Atoms(numbers=[elements[0], elements[-1], elements[0]], positions=positions)

    def jumps(width: float) -> tuple[float, float]:
        inside, outside = observe(
            model, [trimer(model.cutoff - width), trimer(model.cutoff + width)]
        )
        return (
            float(np.abs(inside.energies - outside.energies).max()),
            float(np.abs(inside.forces - outside.forces).max()),
        )

    wide, narrow = 1e-3, 1e-6
    (energy_wide, force_wide), (energy, force) = jumps(wide), jumps(narrow)
    return [
        Deviation(
            "energy of an atom that crosses the cutoff (jump)",
            max(0.0, energy - 10 * narrow / wide * energy_wide) / subject.energy_scale,
        ),
        Deviation(
            "forces on an atom that crosses the cutoff (jump)",
            max(0.0, force - 10 * narrow / wide * force_wide) / subject.force_scale,
        ),
    ]


def _precision(subject: Subject) -> list[Deviation]:
    single = copy.deepcopy(subject.model).to(torch.float32)
    out = []
    for name, atoms in subject.structures.items():
        out += subject.deviations(name, observe(single, [atoms])[0], subject.observations[name])
    return out


def _save_and_load(subject: Subject) -> list[Deviation]:
    model = subject.model
    if MODELS.get(type(model).name) is type(model):
        from equiv.models.file import load_potential

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            model.save(path)
            restored = load_potential(path)
    else:  # not ours to store, but its recipe and its weights must be all there is to it
        restored = type(model)(**model.recipe).to(torch.float64)
        restored.load_state_dict(model.state_dict())
        restored.eval()
    out = []
    for name, atoms in subject.structures.items():
        out += subject.deviations(name, observe(restored, [atoms])[0], subject.observations[name])
    return out


def _extensivity(subject: Subject) -> list[Deviation]:
    model, out = subject.model, []
    for name, atoms in subject.structures.items():
        if not len(atoms):
            continue
        o = subject.observations[name]
        if atoms.pbc.any():
            repeats = tuple(int(r) for r in np.where(atoms.pbc, (2, 1, 2), 1))
            n, large = int(np.prod(repeats)), atoms.repeat(repeats)
        elif model.long_ranged:  # copies see each other however far apart
            continue
        else:  # two copies that do not see each other
            far = atoms.copy()
            far.positions += 4 * model.cutoff + 4 * np.ptp(atoms.positions)
            n, large = 2, atoms + far
        expected = Observation(
            n * o.energy, np.tile(o.energies, n), np.tile(o.forces, (n, 1)), n * o.virials
        )
        out += [
            Deviation(f"{d.what} repeated {n} times", d.error / n)
            for d in subject.deviations(name, observe(model, [large])[0], expected)
        ]
    return out


def _repeatability(subject: Subject) -> list[Deviation]:
    """Nothing in the inputs, the weights or a hidden state changes by evaluating."""
    model, atoms = subject.model, list(subject.structures.values())
    batch = collate(graphs(model, atoms))
    before = {
        key: value.clone()
        for key, value in batch.to_dict().items()
        if isinstance(value, torch.Tensor)
    }
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (model(batch, forces=True, stress=True) for _ in range(2))
    out = [
        Deviation(
            "energies, evaluated twice", float(not torch.equal(first.energies, second.energies))
        )
    ]
    for key, value in before.items():
        after = batch[key]
        same = torch.equal(torch.nan_to_num(after.double()), torch.nan_to_num(value.double()))
        out.append(
            Deviation(f"batch.{key} after evaluation", float(not same or after.requires_grad))
        )
    for key, value in model.state_dict().items():
        out.append(
            Deviation(f"weight {key} after evaluation", float(not torch.equal(value, weights[key])))
        )
    return out


LAWS: dict[str, Law] = {
    "rotation": Law(
        "energies are unchanged and forces and virials turn when everything turns (models that are "
        "invariant under some rotations only are turned by those)",
        _rotation,
        1e-9,
    ),
    "reflection": Law(
        "energies are unchanged and forces and virials follow when everything is mirrored",
        _reflection,
        1e-9,
    ),
    "translation": Law(
        "nothing changes when everything moves, or when atoms move by whole lattice vectors",
        _translation,
        1e-9,
    ),
    "permutation": Law(
        "energies and forces follow their atoms into another order", _permutation, 1e-9
    ),
    "batch_equals_singles": Law(
        "a structure gets the same answer alone and in a batch", _batch_equals_singles, 1e-9
    ),
    "energies_add_up": Law(
        "the energies of the atoms sum to the energy of the structure", _energies_add_up, 1e-9
    ),
    "forces": Law(
        "forces are minus the gradient of the energy, by finite differences", _forces, 1e-6
    ),
    "stress": Law(
        "virials are minus the strain derivative of the energy, stress is minus virials by volume",
        _stress,
        1e-6,
    ),
    "training_gradients": Law(
        "weight gradients of a loss on energy, forces and virials agree with finite differences",
        _training_gradients,
        1e-6,
    ),
    "smoothness_at_cutoff": Law(
        "energy and forces do not jump when an atom crosses the cutoff", _smoothness, 1e-9
    ),
    "float32_against_float64": Law(
        "single precision gives the same answer to its accuracy", _precision, 3e-4
    ),
    "save_and_load": Law("a stored and reloaded model gives the same answer", _save_and_load, 0.0),
    "extensivity": Law(
        "supercells, and copies that do not see each other, have the energy of their parts",
        _extensivity,
        1e-9,
    ),
    "repeatability": Law(
        "evaluating changes neither the batch nor the model, nor the next answer",
        _repeatability,
        0.0,
    ),
}
"""Every law by name, in the order of checking."""
