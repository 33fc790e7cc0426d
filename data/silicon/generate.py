"""Make the silicon set: thermal and strained cells with LDA energies, forces and stress.

    python -m venv labels
    labels/bin/pip install qepy==7.2.0 f90wrap==0.2.14 numpy==1.26.4 ase==3.29.0 importlib-metadata
    OMP_NUM_THREADS=1 labels/bin/python data/silicon/generate.py --pseudopotential Si.pz-vbc.UPF

The pseudopotential is the file Si.pz-vbc.UPF that Quantum ESPRESSO distributes with its examples;
the script refuses another one. About 10 minutes on one core.

Thermal displacements are drawn from the classical canonical distribution of the harmonic crystal,

    u ~ Normal(0, k T H^+),        H = second derivatives of the energy by finite differences,

where H^+ is the pseudo-inverse without the three translations. Every frame is therefore independent
of every other, which molecular dynamics of the same length could not give. Strained frames deform
such a cell by a random symmetric strain; the volume series scales the perfect crystal.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.eos import EquationOfState
from ase.io import write
from qepy.driver import Driver

PSEUDOPOTENTIAL_SHA256 = "d75dd6b0be0aa10587fc95900cfd6ba7314d461a8276a81df34f009d0bfc075d"
TEMPERATURES = (300, 600, 900, 1200)  # K
STRAIN = 0.02  # standard deviation of xx, yy, zz and of the engineering shears
SCALES_TRAIN = np.linspace(0.94, 1.06, 13)
SCALES_TEST = np.array([0.945, 0.965, 0.985, 1.015, 1.035, 1.055])
DISPLACEMENT = 0.015  # Angstrom, for the second derivatives
SEED = 14

# ecfixed, qcutz and q2sigma replace the sharp plane-wave cutoff by a smooth one (Bernasconi et al.,
# J. Phys. Chem. Solids 56, 501 (1995)), so that the stress is the derivative of the energy even
# when the cell changes.
INPUT = """
&control
  calculation = 'scf', prefix = 'silicon', disk_io = 'none', tprnfor = .true., tstress = .true.
  pseudo_dir = '{folder}', outdir = '{folder}'
/
&system
  ibrav = 0, nat = {atoms}, ntyp = 1 {spin}
  ecutwfc = 24.0, ecfixed = 20.0, qcutz = 60.0, q2sigma = 3.0
/
&electrons
  conv_thr = 1e-10
/
ATOMIC_SPECIES
Si 28.085 {pseudopotential}
CELL_PARAMETERS angstrom
{cell}
ATOMIC_POSITIONS angstrom
{positions}
K_POINTS {k_points}
"""
SHIFTED_GRID = "automatic\n2 2 2 1 1 1"  # for the cubic cell of eight atoms


def rows(array: np.ndarray, label: str = "") -> str:
    """Return one line per row of an array, full precision."""
    return "\n".join(label + " ".join(f"{value:.12f}" for value in row) for row in array)


class PlaneWaves:
    """LDA with Quantum ESPRESSO: eV, eV/Angstrom, and stress with ASE's sign in eV/Angstrom^3."""

    def __init__(self, pseudopotential: Path, folder: Path) -> None:
        content = pseudopotential.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != PSEUDOPOTENTIAL_SHA256:
            raise ValueError(
                f"{pseudopotential}: expected sha256 {PSEUDOPOTENTIAL_SHA256}, found {found}; "
                "take Si.pz-vbc.UPF from the Quantum ESPRESSO distribution"
            )
        self.folder = folder
        (folder / "Si.UPF").write_bytes(content)

    def label(
        self, atoms: Atoms, k_points: str = SHIFTED_GRID, spin: str = "", **info: object
    ) -> Atoms:
        """Return a copy of the atoms with their labels."""
        text = INPUT.format(
            folder=self.folder,
            pseudopotential="Si.UPF",
            atoms=len(atoms),
            cell=rows(atoms.cell.array),
            positions=rows(atoms.positions, "Si "),
            k_points=k_points,
            spin=spin,
        )
        (self.folder / "input").write_text(text)
        driver = Driver(str(self.folder / "input"), logfile=str(self.folder / "log"))
        driver.scf()
        energy = driver.get_energy() * units.Ry
        forces = np.array(driver.get_forces()) * units.Ry / units.Bohr
        stress = -np.array(driver.get_stress()) * units.Ry / units.Bohr**3
        driver.stop()
        frame = Atoms(atoms.get_chemical_symbols(), atoms.positions, cell=atoms.cell, pbc=True)
        voigt = stress.flat[[0, 4, 8, 5, 2, 1]]
        frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces, stress=voigt)
        frame.info.update(info)
        return frame

    def isolated_atom(self) -> Atoms:
        """Return a free atom: a spin triplet in a box without cubic symmetry."""
        box = Atoms("Si", [(0, 0, 0)], cell=(10.0, 10.5, 11.0), pbc=True)
        spin = ", nspin = 2, tot_magnetization = 2, starting_magnetization(1) = 0.5, nbnd = 4"
        energy = self.label(box, k_points="gamma", spin=spin).get_potential_energy()
        atom = Atoms("Si", [(0, 0, 0)])
        atom.calc = SinglePointCalculator(atom, energy=energy, forces=np.zeros((1, 3)))
        atom.info["config_type"] = "IsolatedAtom"
        return atom

    def volume_series(self, constant: float, scales: np.ndarray) -> list[Atoms]:
        """Return the perfect crystal with its lattice constant (Angstrom) scaled."""
        crystals = [bulk("Si", "diamond", constant * scale, cubic=True) for scale in scales]
        return [self.label(crystal, config_type="volume") for crystal in crystals]

    def hessian(self, crystal: Atoms) -> np.ndarray:
        """Return second derivatives of the energy (eV/Angstrom^2) by central differences."""
        columns = []
        for atom in range(len(crystal)):
            for axis in range(3):
                forces = []
                for sign in (1, -1):
                    moved = crystal.copy()
                    moved.positions[atom, axis] += sign * DISPLACEMENT
                    forces.append(self.label(moved).get_forces().ravel())
                columns.append((forces[1] - forces[0]) / (2 * DISPLACEMENT))
        matrix = np.array(columns)
        return (matrix + matrix.T) / 2


class HarmonicCrystal:
    """Independent thermal snapshots of a crystal from its second derivatives."""

    def __init__(self, crystal: Atoms, hessian: np.ndarray) -> None:
        self.crystal = crystal
        stiffness, modes = np.linalg.eigh(hessian)
        if stiffness[3] < 0.5:
            raise ValueError(
                f"expected three translations, found stiffnesses {stiffness[:5]} eV/Angstrom^2"
            )
        self.amplitudes = modes[:, 3:] / np.sqrt(stiffness[3:])

    def snapshot(self, temperature: float, generator: np.random.Generator) -> Atoms:
        """Return one draw at a temperature in K."""
        atoms = self.crystal.copy()
        normal = generator.normal(size=self.amplitudes.shape[1])
        atoms.positions += np.sqrt(units.kB * temperature) * (self.amplitudes @ normal).reshape(
            -1, 3
        )
        return atoms

    def strained(self, temperature: float, generator: np.random.Generator) -> Atoms:
        """Return a thermal draw deformed by a random symmetric strain."""
        atoms = self.snapshot(temperature, generator)
        upper = np.triu(generator.normal(scale=STRAIN, size=(3, 3)))
        strain = (upper + upper.T) / 2
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        return atoms


def thermal_frames(
    engine: PlaneWaves, crystal: HarmonicCrystal, *, thermal: int, strained: int, seed: int
) -> list[Atoms]:
    """Return ``thermal`` frames for each temperature and ``strained`` deformed ones."""
    generator = np.random.default_rng(seed)
    frames = []
    for temperature in TEMPERATURES:
        for _ in range(thermal):
            snapshot = crystal.snapshot(temperature, generator)
            frames.append(engine.label(snapshot, config_type=f"thermal_{temperature}K"))
        print(f"{len(frames)} thermal frames", flush=True)
    for number in range(strained):
        temperature = TEMPERATURES[number % len(TEMPERATURES)]
        frames.append(
            engine.label(crystal.strained(temperature, generator), config_type="strained")
        )
    return frames


def main() -> None:
    """Write train.xyz and test.xyz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pseudopotential", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        engine = PlaneWaves(arguments.pseudopotential, Path(folder))
        series = engine.volume_series(5.38, SCALES_TRAIN)
        volumes = [frame.get_volume() for frame in series]
        energies = [frame.get_potential_energy() for frame in series]
        volume, _, bulk_modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
        constant = volume ** (1 / 3)
        print(f"{constant:.4f} Angstrom, bulk modulus {bulk_modulus / units.GPa:.1f} GPa")

        relaxed = bulk("Si", "diamond", constant, cubic=True)
        crystal = HarmonicCrystal(relaxed, engine.hessian(relaxed))
        train = [engine.isolated_atom(), *series]
        train += thermal_frames(engine, crystal, thermal=20, strained=60, seed=SEED)
        test = engine.volume_series(5.38, SCALES_TEST)
        test += thermal_frames(engine, crystal, thermal=6, strained=16, seed=SEED + 1)
    write(arguments.output / "train.xyz", train, format="extxyz")
    write(arguments.output / "test.xyz", test, format="extxyz")


if __name__ == "__main__":
    main()
