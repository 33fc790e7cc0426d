"""Values that are possible but probably wrong: units, signs of life of constraints, outliers."""

import numpy as np
from ase.data import covalent_radii

from equiv import units
from equiv.data.dataset import Dataset, Frame
from equiv.data.report import Finding, find
from equiv.errors import DataError
from equiv.graph import neighbor_list

FORCE_OUTLIER = 50.0  # eV/Angstrom; bonds break long before
CLOSE_CONTACT = 0.5  # times the sum of covalent radii
NET_FORCE = 0.05  # eV/Angstrom per atom, and NET_FRACTION of the rms force
NET_FRACTION = 0.02

# Hartree-Fock energies of free atoms in Hartree, H to Kr, rounded (Clementi and Roetti 1974). Total
# energies of all-electron calculations are within 3 % of their sums, whatever the method and the
# bonding.
ATOM_HARTREE = (
    0.5, 2.8617, 7.4327, 14.573, 24.529, 37.689, 54.401, 74.809, 99.409, 128.547, 161.859, 199.615,
    241.877, 288.854, 340.719, 397.505, 459.482, 526.818, 599.165, 676.758, 759.736, 848.406,
    942.884, 1043.356, 1149.866, 1262.444, 1381.415, 1506.871, 1638.964, 1777.848, 1923.261,
    2075.360, 2234.239, 2399.868, 2572.441, 2752.055,
)  # fmt: skip
_TOTAL_UNITS = ("Ha", "Ry", "kcal/mol", "kJ/mol", "meV")
_NOBLE = (2, 10, 18, 36, 54, 86)


def find_suspicions(dataset: Dataset) -> list[Finding]:
    """Warnings and notes about values; linear in the number of atoms."""
    bound = [frame for frame in dataset if not frame.isolated and len(frame.atoms) > 1]
    return [
        *_energy_unit(bound),
        *_force_sizes(bound),
        *_length_unit_and_contacts(bound),
        *_constrained(bound),
        *_zero_forces(bound),
        *_net_force(bound),
        *_stress_size(bound),
    ]


def _energy_unit(frames: list[Frame]) -> list[Finding]:
    """All-electron total energies in another unit: the ratio to those of free atoms tells it."""
    table = np.array([np.nan, *ATOM_HARTREE, *[np.nan] * (118 - len(ATOM_HARTREE))])
    ratios = np.array(
        [
            -frame.energy / table[frame.atoms.numbers].sum()
            for frame in frames
            if frame.energy is not None
        ]
    )
    if not len(ratios) or not np.isfinite(ratios).all() or np.median(ratios) <= 0:
        return []
    typical = float(np.median(ratios))
    if np.ptp(ratios) > 0.05 * typical or abs(typical / units.HARTREE - 1) < 0.03:
        return []
    for name in _TOTAL_UNITS:
        per_hartree = units.HARTREE / units.energy_in_ev(name)
        if abs(typical / per_hartree - 1) < 0.03:
            return [
                find(
                    "warning",
                    "unit of energy",
                    f"the energies look like total energies in {name} that were read as eV (a "
                    f"free-atom estimate agrees to {abs(typical / per_hartree - 1):.1%}); declare "
                    f"units.energy: {name}",
                )
            ]
    return []


def _force_sizes(frames: list[Frame]) -> list[Finding]:
    sizes = _force_size(frames)
    if any(finding.severity == "warning" for finding in sizes):
        # In a wrong unit all are outliers.
        return sizes
    return sizes + _force_outliers(frames)


def _force_size(frames: list[Frame]) -> list[Finding]:
    forces = [frame.forces for frame in frames if frame.forces is not None]
    if not forces:
        return []
    norms = np.linalg.norm(np.concatenate(forces), axis=1)
    median = float(np.median(norms))
    if median > 10:
        return [
            find(
                "warning",
                "unit of forces",
                f"the median force is {median:.3g} eV/Ang; hot liquids reach 3. In kcal/mol/Ang it "
                f"would be {median * units.KCAL_PER_MOL:.2g} eV/Ang, in Ry/Bohr or Ha/Bohr even "
                "more: check units.energy and units.length",
            )
        ]
    hessian_scale = units.HARTREE / units.BOHR
    if 0 < median < 0.06 and median * hessian_scale < 5:
        return [
            find(
                "note",
                "small forces",
                f"the median force is only {median:.2g} eV/Ang: these are relaxed or cold "
                f"structures, or forces in Ha/Bohr ({median * hessian_scale:.2g} eV/Ang)",
            )
        ]
    return []


def _stress_size(frames: list[Frame]) -> list[Finding]:
    sizes = [float(np.abs(frame.stress).max()) for frame in frames if frame.stress is not None]
    if not sizes or np.median(sizes) < 0.5:
        return []
    typical = float(np.median(sizes))
    return [
        find(
            "warning",
            "unit of stress",
            f"the median stress is {typical:.3g} eV/Ang^3 = {typical / units.GPA:.3g} GPa, more "
            "than in the centre of a planet; it may be in GPa or kbar: declare units.stress",
        )
    ]


def _length_unit_and_contacts(frames: list[Frame]) -> list[Finding]:
    nearest = []
    close: list[Frame] = []
    worst = (np.inf, "")
    for frame in frames:
        try:
            ratio, pair = nearest_contact(frame)
        except DataError as error:
            return [find("error", "impossible structure", str(error), [frame])]
        if np.isfinite(ratio):
            nearest.append(ratio)
        if ratio < CLOSE_CONTACT:
            close.append(frame)
            worst = min(worst, (ratio, f"{pair} in {frame.where}"))
    findings = []
    typical = float(np.median(nearest)) if nearest else 1.0
    noble = all(np.isin(frame.atoms.numbers, _NOBLE).all() for frame in frames)
    if 1.75 < typical < 2.1 and not noble:
        findings.append(
            find(
                "warning",
                "unit of length",
                f"the shortest distances are typically {typical:.2f} times the sum of covalent "
                "radii; they look like Bohr read as Angstrom: declare units.length: Bohr",
            )
        )
    elif typical < 0.2:
        findings.append(
            find(
                "warning",
                "unit of length",
                f"the shortest distances are typically {typical:.2f} times the sum of covalent "
                "radii; they look like nanometres read as Angstrom: declare units.length: nm",
            )
        )
    elif close:
        findings.append(
            find(
                "warning",
                "close contacts",
                f"{_count(close)} with atoms closer than {CLOSE_CONTACT} times the sum of their "
                f"covalent radii; the closest: {worst[1]}",
                close,
            )
        )
    return findings


def nearest_contact(frame: Frame) -> tuple[float, str]:
    """Shortest distance over the sum of covalent radii, and the pair; inf without a pair."""
    atoms, pbc = frame.atoms, np.asarray(frame.atoms.pbc)
    radii = covalent_radii[atoms.numbers]
    if not np.isfinite(atoms.positions).all() or (pbc.any() and atoms.cell.rank < pbc.sum()):
        return np.inf, ""
    if not pbc.any() and len(atoms) <= 400:
        distances = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None], axis=-1)
        i, j = np.triu_indices(len(atoms), 1)
        d = distances[i, j]
    else:
        cell, reach = np.asarray(atoms.cell.array), 2.1 * 2 * float(radii.max())
        found = neighbor_list(atoms.positions, cell, pbc, reach)
        i, j = found.receivers, found.senders
        vectors = atoms.positions[j] + found.shifts @ cell - atoms.positions[i]
        d = np.linalg.norm(vectors, axis=1)
    if not len(d):
        return np.inf, ""
    ratio = d / (radii[i] + radii[j])
    k = int(np.argmin(ratio))
    symbols = atoms.get_chemical_symbols()
    a, b = int(i[k]), int(j[k])
    return float(ratio[k]), f"{symbols[a]}{a}-{symbols[b]}{b} {d[k]:.3f} Ang"


def _force_outliers(frames: list[Frame]) -> list[Finding]:
    high = [
        (float(np.linalg.norm(frame.forces, axis=1).max()), frame)
        for frame in frames
        if frame.forces is not None
    ]
    outliers = [(size, frame) for size, frame in high if size > FORCE_OUTLIER]
    if not outliers:
        return []
    outliers.sort(key=lambda pair: -pair[0])
    return [
        find(
            "warning",
            "force outliers",
            f"{_count(outliers)} with forces above {FORCE_OUTLIER:g} eV/Ang, up to "
            f"{outliers[0][0]:.0f} ({outliers[0][1].where}); a loss of squares would see little "
            "else",
            [frame for _, frame in outliers],
        )
    ]


def _constrained(frames: list[Frame]) -> list[Finding]:
    """Forces that are exactly zero on constrained atoms only were zeroed when written."""
    zeroed = []
    for frame in frames:
        if frame.forces is None or not frame.atoms.constraints:
            continue
        fixed = np.zeros(len(frame.atoms), dtype=bool)
        for constraint in frame.atoms.constraints:
            if hasattr(constraint, "get_indices"):
                fixed[constraint.get_indices()] = True
        still = ~np.any(frame.forces != 0, axis=1)
        if fixed.any() and still[fixed].all() and not still[~fixed].all():
            zeroed.append(frame)
    if not zeroed:
        return []
    return [
        find(
            "error",
            "zeroed forces",
            f"{_count(zeroed)} with forces that are exactly zero on all constrained atoms: they "
            "were zeroed when the file was written (get_forces of ASE does that; use "
            "get_forces(apply_constraint=False)). If zero is right there, remove the constraints "
            "from the file",
            zeroed,
        )
    ]


def _zero_forces(frames: list[Frame]) -> list[Finding]:
    zero = [f for f in frames if f.forces is not None and not np.any(f.forces)]
    if not zero:
        return []
    crystals = all(f.atoms.pbc.all() for f in zero)
    return [
        find(
            "note" if crystals else "warning",
            "zero forces",
            f"{_count(zero)} with forces that are exactly zero on every atom"
            + (" (right for perfect crystals)" if crystals else "; were they computed at all?"),
            zero,
        )
    ]


def _net_force(frames: list[Frame]) -> list[Finding]:
    total, net = [], []
    for frame in frames:
        if frame.forces is None:
            continue
        size = float(np.sqrt(np.mean(np.sum(np.square(frame.forces), axis=1))))
        sum_ = float(np.linalg.norm(frame.forces.sum(axis=0)))
        if sum_ > max(NET_FORCE, NET_FRACTION * size) * np.sqrt(len(frame.atoms)):
            net.append(frame)
            total.append(sum_)
    if not net:
        return []
    return [
        find(
            "note",
            "net force",
            f"{_count(net)} whose forces do not add up to zero (median sum {np.median(total):.2g} "
            f"eV/Ang, largest {max(total):.2g}): noise that no potential can fit, or an external "
            "field",
            net,
        )
    ]


def _count(items: list) -> str:
    return f"{len(items)} structure" + ("s" if len(items) > 1 else "")
