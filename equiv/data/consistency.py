"""Do energies, forces and stresses belong together? Between similar structures each follows."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from equiv import units
from equiv.data.dataset import Dataset, Frame
from equiv.data.report import Finding, find

MAX_STRUCTURES = 1000  # of one molecule, to look for similar ones among
MAX_PAIRS = 100
FEWEST = 12
TRUSTED = 0.8  # correlation above which a slope means something
TOLERATED = (0.56, 1.78)
LIKELY = 1.4  # a mistake is named if the slope is that close to what it would give

# Mistakes, and the factor by which each makes the work too large compared with the energy.
_MISTAKES = (
    ("the forces have the wrong sign (they are gradients of the energy)", -1.0),
    ("energies are in Ha and forces in eV/Ang", units.HARTREE),
    ("energies are in eV and forces in Ha/Bohr", units.BOHR / units.HARTREE),
    ("energies are in Ha and forces in Ha/Bohr while positions are in Ang", units.BOHR),
    ("energies are in Ry and forces in eV/Ang", units.HARTREE / 2),
    ("energies are in eV and forces in Ry/Bohr", 2 * units.BOHR / units.HARTREE),
    ("energies are in kcal/mol and forces in eV/Ang", units.KCAL_PER_MOL),
    ("energies are in eV and forces in kcal/mol/Ang", 1 / units.KCAL_PER_MOL),
    ("energies are in kJ/mol and forces in eV/Ang", units.KJ_PER_MOL),
    ("energies are in eV and forces in kJ/mol/Ang", 1 / units.KJ_PER_MOL),
    ("energies are in eV and forces in meV/Ang", 1e3),
    ("energies are in meV and forces in eV/Ang", 1e-3),
)
_STRESS_MISTAKES = (
    ("the stress has the opposite sign: units.stress_sign: compression_positive", -1.0),
    ("the stress is in GPa: units.stress: GPa", 1 / units.GPA),
    (
        "the stress is in GPa with compression positive: units.stress, units.stress_sign",
        -1 / units.GPA,
    ),
    ("the stress is in kbar: units.stress: kbar", 10 / units.GPA),
    (
        "the stress is in kbar with compression positive: units.stress, units.stress_sign",
        -10 / units.GPA,
    ),
)


@dataclass
class Work:
    r"""What energy, forces and stress say about the way from one structure to another.

    Attributes:
        energy: :math:`E_2 - E_1`.
        forces: :math:`-\tfrac12 (F_1 + F_2) \cdot \Delta r` at constant strain.
        stress: :math:`\tfrac12 (V_1\sigma_1 + V_2\sigma_2) : \varepsilon`, zero without strain.
        strained: whether the cells differ.
    """

    energy: float
    forces: float
    stress: float
    strained: bool


def find_contradictions(dataset: Dataset) -> list[Finding]:
    r"""Compare energy differences with the work of forces and stress between structures alike.

    .. math::
        E_2 - E_1 = -\tfrac12 (F_1 + F_2) \cdot \Delta r
        + \tfrac12 (V_1 \sigma_1 + V_2 \sigma_2) : \varepsilon + O(\Delta^3)

    This trapezoidal rule is exact for harmonic motion, so snapshots at room temperature will do.
    Where both sides correlate, their ratio shows units and signs that do not fit together; where
    they do not, nothing is said.
    """
    pairs = list(_pairs(dataset))
    still = [pair for pair in pairs if not pair.strained]
    findings = []
    slope = _slope([p.forces for p in still], [p.energy for p in still])
    if slope is not None and not TOLERATED[0] < slope < TOLERATED[1]:
        findings.append(_finding("forces", slope, _MISTAKES, len(still)))
        return findings
    strained = [pair for pair in pairs if pair.strained and pair.stress]
    slope = _slope([p.stress for p in strained], [p.energy - p.forces for p in strained])
    if slope is not None and not TOLERATED[0] < slope < TOLERATED[1]:
        findings.append(_finding("stress", slope, _STRESS_MISTAKES, len(strained)))
    return findings


def _finding(name: str, slope: float, mistakes: Iterable[tuple[str, float]], count: int) -> Finding:
    # A mistake that makes the work m times too large makes the slope 1/m.
    off = {text: abs(np.log(slope * factor)) for text, factor in mistakes if slope * factor > 0}
    guess = min(off, key=lambda text: off[text], default="")
    likely = bool(guess) and off[guess] < np.log(LIKELY)
    hint = f"it looks as if {guess}" if likely else "check their units and signs"
    return find(
        "warning",
        f"contradicting {name}",
        f"{name} and energies do not belong together: between {count} pairs of similar structures "
        f"the energy changes {slope:.3g} times as much as the {name} say; {hint}",
    )


def _slope(work: list[float], energy: list[float]) -> float | None:
    """Energy over work by least squares, or None if they do not correlate enough to tell."""
    x, y = np.array(work), np.array(energy)
    if len(x) < FEWEST or not (x @ x > 0 and y @ y > 0):
        return None
    # The middle nine tenths: one bond that broke must not decide.
    size = (x / np.sqrt(x @ x)) ** 2 + (y / np.sqrt(y @ y)) ** 2
    keep = size <= np.quantile(size, 0.9)
    x, y = x[keep], y[keep]
    if not (x @ x > 0 and y @ y > 0):
        return None
    correlation = float((x @ y) / np.sqrt((x @ x) * (y @ y)))
    return float((x @ y) / (x @ x)) if abs(correlation) >= TRUSTED else None


def _pairs(dataset: Dataset) -> Iterator[Work]:
    """Work between structures of the same atoms in slightly different places."""
    usable = [
        frame
        for frame in dataset
        if frame.energy is not None and frame.forces is not None and len(frame.atoms) > 1
    ]
    for first, second in itertools.chain(_similar_molecules(usable), _neighbours(usable)):
        work = _work(first, second)
        if work is not None:
            yield work


def _neighbours(frames: list[Frame]) -> Iterator[tuple[Frame, Frame]]:
    """Periodic structures that follow one another in a file."""
    found = [
        (a, b)
        for a, b in itertools.pairwise(frames)
        if a.source == b.source
        and a.atoms.pbc.all()
        and b.atoms.pbc.all()
        and np.array_equal(a.atoms.numbers, b.atoms.numbers)
    ]
    yield from found[:: max(1, len(found) // MAX_PAIRS)]


def _similar_molecules(frames: list[Frame]) -> Iterator[tuple[Frame, Frame]]:
    """The most similar pairs among structures of the commonest molecule, by inverse distances."""
    molecules: dict[bytes, list[Frame]] = {}
    for frame in frames:
        if not frame.atoms.pbc.any() and len(frame.atoms) <= 100:
            molecules.setdefault(frame.atoms.numbers.tobytes(), []).append(frame)
    same = max(molecules.values(), key=len, default=[])
    same = same[:: max(1, len(same) // MAX_STRUCTURES)]
    if len(same) < FEWEST:
        return
    inverse = np.array([1 / pdist(frame.atoms.positions) for frame in same])
    distances, partners = KDTree(inverse).query(inverse, k=2)
    distance, partner = np.asarray(distances)[:, 1], np.asarray(partners)[:, 1]
    order = [k for k in np.argsort(distance).tolist() if distance[k] > 0]
    for k in order[:MAX_PAIRS]:
        yield same[k], same[int(partner[k])]


def _work(first: Frame, second: Frame) -> Work | None:
    if first.forces is None or second.forces is None:
        return None
    if first.energy is None or second.energy is None:
        return None
    energy = second.energy - first.energy
    if not first.atoms.pbc.any():
        a, b = _centred(first), _centred(second)
        turn = _rotation(b, a)
        moved = b @ turn - a
        mean = 0.5 * (first.forces + second.forces @ turn)
        return Work(energy, -float((mean * moved).sum()), 0.0, strained=False)
    cell_a, cell_b = np.asarray(first.atoms.cell.array), np.asarray(second.atoms.cell.array)
    middle = 0.5 * (cell_a + cell_b)
    fractional = second.atoms.positions @ np.linalg.inv(cell_b)
    fractional = fractional - first.atoms.positions @ np.linalg.inv(cell_a)
    fractional -= np.round(fractional)
    fractional -= fractional.mean(axis=0)
    mean = 0.5 * (first.forces + second.forces)
    forces = -float((mean * (fractional @ middle)).sum())
    strain = np.linalg.solve(middle, cell_b - cell_a)
    if np.abs(strain).max() < 1e-9:
        return Work(energy, forces, 0.0, strained=False)
    if first.stress is None or second.stress is None or np.abs(strain).max() > 0.15:
        return None
    volumes = abs(np.linalg.det(cell_a)), abs(np.linalg.det(cell_b))
    mean_stress = 0.5 * (volumes[0] * first.stress + volumes[1] * second.stress)
    return Work(energy, forces, float((mean_stress * strain).sum()), strained=True)


def _centred(frame: Frame) -> np.ndarray:
    return frame.atoms.positions - frame.atoms.positions.mean(axis=0)


def _rotation(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """The rotation R that brings ``moving @ R`` closest to ``fixed`` (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(moving.T @ fixed)
    u[:, -1] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))
    return u @ vt
