"""Make the set of ionic clusters: NH4+, BF4- and water with GFN2-xTB, compact and far apart.

    python -m venv labels
    labels/bin/pip install tblite==0.8.0 ase==3.29.0 scipy
    OMP_NUM_THREADS=1 labels/bin/python data/ionic_clusters/generate.py

Clusters of eight compositions and four total charges are packed, relaxed and sent through Langevin
dynamics at 400 K; frames that stay in one piece are kept. Training and test frames never share a
trajectory. For the far pairs, two fragments of still other trajectories are turned at random and
put beside each other with a gap wider than the cutoff of a local model, and labelled as one system
with its total charge. About eight minutes on one core.

Every trajectory has its own seed and is written to --parts as soon as it is complete: run the same
command again to go on. Molecular dynamics is chaotic: the same versions on the same processor give
the same files, anything else gives other frames of the same distribution. The checksums in
README.md describe the files in this folder.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE
from scipy.sparse.csgraph import connected_components
from tblite.ase import TBLite

CATION, ANION = "NH4", "BF4"
BONDS = {CATION: 1.03, ANION: 1.40}  # Angstrom
KINDS = {  # ammonium, tetrafluoroborate, fewest and most waters
    "water": (0, 0, 2, 8),
    "NH4": (1, 0, 0, 7),
    "BF4": (0, 1, 0, 7),
    "NH4.BF4": (1, 1, 0, 6),
    "2NH4.BF4": (2, 1, 0, 5),
    "NH4.2BF4": (1, 2, 0, 5),
    "2NH4.2BF4": (2, 2, 0, 4),
    "2NH4": (2, 0, 4, 8),
}
TRAIN_TRAJECTORIES, TEST_TRAJECTORIES = range(6), range(6, 7)  # numbers, of each kind
FRAGMENT_TRAJECTORIES = range(7, 9)
FRAGMENT_WATERS = 3  # at most
FRAMES = 4  # per trajectory
PAIRS = (
    ("NH4", "BF4"),
    ("NH4", "NH4"),
    ("BF4", "BF4"),
    ("NH4", "water"),
    ("BF4", "water"),
    ("NH4.BF4", "NH4.BF4"),
    ("NH4.BF4", "NH4"),
    ("NH4.BF4", "BF4"),
    ("2NH4.BF4", "NH4.2BF4"),
    ("2NH4.BF4", "BF4"),
)
GAPS = (5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0)  # Angstrom, between the nearest atoms
TEMPERATURE = 400  # K
TIME_STEP = 1.0  # fs
EQUILIBRATION_STEPS, STEPS_BETWEEN_FRAMES = 300, 100
FRICTION = 0.02  # 1/fs
IN_ONE_PIECE = 4.0  # Angstrom: longest step from atom to atom through a compact cluster
UNPAIRED = {"H": 1, "B": 1, "N": 3, "O": 2, "F": 1}  # electrons of the free atoms
PACKED = 2.2  # Angstrom: shortest distance between packed molecules


@dataclass(frozen=True)
class Trajectory:
    """One run of molecular dynamics: what is in it, and its number."""

    kind: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number:02d}"

    @property
    def charge(self) -> int:
        cations, anions, *_ = KINDS[self.kind]
        return cations - anions

    def generator(self) -> np.random.Generator:
        return np.random.default_rng([list(KINDS).index(self.kind), self.number])

    def frames(self) -> list[Atoms]:
        """Pack, relax, equilibrate; then decorrelated frames."""
        cations, anions, fewest, most = KINDS[self.kind]
        generator = self.generator()
        if self.number in FRAGMENT_TRAJECTORIES:
            most = FRAGMENT_WATERS
        waters = int(generator.integers(min(fewest, most), most, endpoint=True))
        atoms = packed(cations, anions, waters, generator)
        atoms.calc = calculator(self.charge, accuracy=1.0)
        FIRE(atoms, logfile=None).run(fmax=0.5, steps=100)
        thermalize_momenta(atoms, temperature_K=TEMPERATURE, rng=generator)
        dynamics = Langevin(
            atoms,
            TIME_STEP * units.fs,
            temperature_K=TEMPERATURE,
            friction=FRICTION / units.fs,
            fixcm=False,
            rng=generator,
        )
        dynamics.run(EQUILIBRATION_STEPS)
        kept = []
        for _ in range(FRAMES):
            dynamics.run(STEPS_BETWEEN_FRAMES)
            if in_one_piece(atoms):
                kept.append(
                    labelled(atoms, self.charge, config_type=self.kind, trajectory=self.name)
                )
        return kept


def calculator(charge: int, multiplicity: int = 1, accuracy: float = 0.1) -> TBLite:
    """GFN2-xTB."""
    return TBLite(
        method="GFN2-xTB", charge=charge, multiplicity=multiplicity, accuracy=accuracy, verbosity=0
    )


def tetrahedral_ion(formula: str) -> Atoms:
    """Return an ion of one central atom and four others."""
    corners = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) / np.sqrt(3)
    return Atoms(formula, [(0.0, 0.0, 0.0), *(BONDS[formula] * corners)])


def packed(cations: int, anions: int, waters: int, generator: np.random.Generator) -> Atoms:
    """Return ions and waters in random order, each as near to the middle as chance lets it."""
    ions = [tetrahedral_ion(CATION)] * cations + [tetrahedral_ion(ANION)] * anions
    parts = ions + [molecule("H2O")] * waters
    cluster = Atoms()
    for index in generator.permutation(len(parts)):
        part = parts[index].copy()
        part.positions -= part.positions.mean(0)
        tries = [turned(part, generator) for _ in range(40)] if len(cluster) else [(0.0, part)]
        places = [approach(cluster, tried, way) for way, tried in tries] if len(cluster) else tries
        cluster += min(places, key=lambda place: place[0])[1]
        cluster.positions -= cluster.positions.mean(0)
    return cluster


def turned(part: Atoms, generator: np.random.Generator) -> tuple[np.ndarray, Atoms]:
    """Return a random direction, and the part in a random orientation."""
    result = part.copy()
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    result.positions = result.positions @ (rotation * np.sign(np.linalg.det(rotation)))
    way = generator.normal(size=3)
    return way / np.linalg.norm(way), result


def approach(
    cluster: Atoms, part: Atoms, way: np.ndarray, gap: float = PACKED
) -> tuple[float, Atoms]:
    """Return how far out a part has to go to keep its distance, and the part there."""
    far = np.ptp(cluster.positions, axis=0).max() + 2 * gap + 20.0
    outwards = np.arange(0.0, far, 0.05)
    places = part.positions + outwards[:, None, None] * way
    gaps = np.linalg.norm(places[:, :, None] - cluster.positions, axis=-1).min(axis=(1, 2))
    first = 1 + int(np.flatnonzero(gaps < gap)[-1]) if (gaps < gap).any() else 0
    result = part.copy()
    result.positions = places[first]
    return float(outwards[first]), result


def in_one_piece(atoms: Atoms) -> bool:
    """Whether every atom is reached from every other in short steps."""
    pieces, _ = connected_components(atoms.get_all_distances() < IN_ONE_PIECE, directed=False)
    return pieces == 1


def labelled(atoms: Atoms, charge: int, **info: object) -> Atoms:
    """Return a centred copy with energy and forces (eV, Angstrom) and the total charge."""
    frame = Atoms(atoms.numbers, np.round(atoms.positions - atoms.get_center_of_mass(), 6))
    frame.calc = calculator(charge)
    energy, forces = frame.get_potential_energy(), frame.get_forces()
    frame.info.update(charge=charge, **info)
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
    return frame


def pair(one: Atoms, other: Atoms, gap: float, generator: np.random.Generator) -> Atoms:
    """Return two fragments with a gap between them, labelled as one system.

    Raises:
        RuntimeError: an electron went from one fragment to the other.
    """
    first = one.copy()
    way, second = turned(other, generator)
    second = approach(first, second, way, gap)[1]
    both = Atoms(first.numbers, first.positions) + Atoms(second.numbers, second.positions)
    charge = one.info["charge"] + other.info["charge"]
    both.calc = calculator(charge)
    on_first = both.get_charges()[: len(first)].sum()
    if abs(on_first - one.info["charge"]) > 0.02:
        raise RuntimeError(f"{one.info['trajectory']} has a charge of {on_first:.3f} in its pair")
    kinds = f"{one.info['config_type']}|{other.info['config_type']}"
    return labelled(both, charge, config_type=kinds, first_fragment=len(first), gap=gap)


def isolated_atom(symbol: str, multiplicity: int) -> Atoms:
    """Return a neutral free atom."""
    atom = Atoms(symbol, [(0.0, 0.0, 0.0)])
    atom.calc = calculator(0, multiplicity)
    energy = atom.get_potential_energy()
    atom.calc = SinglePointCalculator(atom, energy=energy, forces=np.zeros((1, 3)))
    atom.info.update(config_type="IsolatedAtom", charge=0)
    return atom


def write(path: Path, frames: list[Atoms]) -> None:
    """Write extended xyz with five decimals and single spaces: half the size of ASE's."""
    lines = []
    for frame in frames:
        info = {**frame.info, "energy": f"{frame.get_potential_energy():.6f}"}
        pairs = " ".join(f"{key}={value}" for key, value in info.items())
        lines += [
            str(len(frame)),
            f'Properties=species:S:1:pos:R:3:forces:R:3 {pairs} pbc="F F F"',
        ]
        for symbol, place, force in zip(
            frame.get_chemical_symbols(), frame.positions, frame.get_forces(), strict=True
        ):
            numbers = " ".join(f"{x + 0.0:.6f}" for x in place)
            lines.append(f"{symbol} {numbers} " + " ".join(f"{x:.5f}" for x in force))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write train.xyz, test_compact.xyz and test_apart.xyz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--parts", type=Path, default=Path("runs/ionic_clusters"))
    arguments = parser.parse_args()
    arguments.parts.mkdir(parents=True, exist_ok=True)

    numbers = (*TRAIN_TRAJECTORIES, *TEST_TRAJECTORIES, *FRAGMENT_TRAJECTORIES)
    paired = {kind for kinds in PAIRS for kind in kinds}
    todo = [
        Trajectory(kind, number)
        for number in numbers
        for kind in KINDS
        if kind in paired or number not in FRAGMENT_TRAJECTORIES
    ]
    done: dict[Trajectory, list[Atoms]] = {}
    for count, trajectory in enumerate(todo, 1):
        path = arguments.parts / f"{trajectory.name}.xyz"
        if not path.exists():
            unfinished = path.with_suffix(".tmp")
            write(unfinished, trajectory.frames())
            unfinished.rename(path)
            print(f"{count}/{len(todo)} {trajectory.name}", flush=True)
        # An empty file: no frame was in one piece.
        done[trajectory] = ase.io.read(path, ":") if path.stat().st_size > 1 else []

    def chosen(wanted: range) -> list[Atoms]:
        return [frame for key, frames in done.items() if key.number in wanted for frame in frames]

    atoms = [isolated_atom(symbol, unpaired + 1) for symbol, unpaired in UNPAIRED.items()]
    write(arguments.output / "train.xyz", atoms + chosen(TRAIN_TRAJECTORIES))
    write(arguments.output / "test_compact.xyz", chosen(TEST_TRAJECTORIES))
    generator = np.random.default_rng(1)
    fragments = chosen(FRAGMENT_TRAJECTORIES)
    apart = []
    for kinds in PAIRS:
        for gap in GAPS:
            one, other = (
                generator.choice([i for i, f in enumerate(fragments) if f.info["config_type"] == k])
                for k in kinds
            )
            apart.append(pair(fragments[one], fragments[other], gap, generator))
    write(arguments.output / "test_apart.xyz", apart)


if __name__ == "__main__":
    main()
