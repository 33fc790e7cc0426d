"""Make the ethanol set: molecular dynamics with GFN2-xTB, labels from PBE/def2-SVP.

    python -m venv labels
    labels/bin/pip install tblite==0.8.0 pyscf==2.14.0 ase==3.29.0
    OMP_NUM_THREADS=1 labels/bin/python data/ethanol/generate.py

A cheap method walks (Langevin dynamics at 300 K and 600 K), a density functional labels every frame
that is kept. Each temperature gets independent trajectories that start from the anti and the two
gauche conformers, with their own random numbers; training and test frames never share a trajectory.
About 20 minutes on one core.

Molecular dynamics is chaotic: the same versions on the same processor give the same files, anything
else gives other frames of the same distribution. The checksums in README.md describe the files in
this folder.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixInternals
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS
from pyscf import dft, gto
from pyscf.data.nist import BOHR, HARTREE2EV
from tblite.ase import TBLite

TEMPERATURES = (300, 600)  # K
TRAIN_TRAJECTORIES, TEST_TRAJECTORIES = range(5), range(6, 8)  # numbers, at each temperature
TRAIN_FRAMES, TEST_FRAMES = 20, 10  # per trajectory
TIME_STEP = 0.5  # fs
STEPS_BETWEEN_FRAMES = 500  # 0.25 ps, two periods of the slowest torsion
EQUILIBRATION_STEPS = 2000  # 1 ps
FRICTION = 0.01  # 1/fs
TORSION = range(180, -1, -15)  # degrees
CONFORMERS = {"anti": 180.0, "gauche+": 60.0, "gauche-": -60.0}  # C-C-O-H dihedral, degrees
CARBON_CH3, CARBON_CH2, OXYGEN, HYDROGEN_OH = 0, 1, 2, 3  # in ase.build.molecule
UNPAIRED_ELECTRONS = {"H": 1, "C": 2, "O": 2}  # ground states of the free atoms


def conformer(dihedral: float) -> Atoms:
    """Return ethanol relaxed with GFN2-xTB from a C-C-O-H dihedral angle in degrees."""
    atoms = molecule("CH3CH2OH")
    atoms.set_dihedral(CARBON_CH3, CARBON_CH2, OXYGEN, HYDROGEN_OH, dihedral, indices=[HYDROGEN_OH])
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    return atoms


def kohn_sham(atoms: Atoms, spin: int = 0) -> dft.rks.RKS:
    """Return a PBE/def2-SVP calculation with density fitting and ``spin`` unpaired electrons."""
    molecule = gto.M(
        atom=[(atom.symbol, atom.position) for atom in atoms],
        basis="def2-svp",
        spin=spin,
        verbose=0,
    )
    method = dft.UKS(molecule) if spin else dft.RKS(molecule)
    method.xc = "pbe"
    method = method.density_fit()
    method.grids.level = 2  # rotating the molecule changes the energy by 0.1 meV
    method.conv_tol = 1e-9
    return method


def labelled(atoms: Atoms, guess: np.ndarray | None, **info: object) -> tuple[Atoms, np.ndarray]:
    """Return a copy with PBE energy and forces (eV, Angstrom), and its density matrix."""
    centred = atoms.get_positions() - atoms.get_center_of_mass()
    frame = Atoms(atoms.get_chemical_symbols(), centred)
    method = kohn_sham(frame)
    energy = method.kernel(guess) * HARTREE2EV
    if not method.converged:
        raise RuntimeError(f"the self-consistent field of {info} did not converge")
    forces = -method.nuc_grad_method().kernel() * HARTREE2EV / BOHR
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
    frame.info.update(info)
    return frame, method.make_rdm1()


def isolated_atom(symbol: str) -> Atoms:
    """Return a free atom with its PBE energy in the spin state nature gives it."""
    atom = Atoms(symbol, [(0.0, 0.0, 0.0)])
    energy = kohn_sham(atom, spin=UNPAIRED_ELECTRONS[symbol]).kernel() * HARTREE2EV
    atom.calc = SinglePointCalculator(atom, energy=energy, forces=np.zeros((1, 3)))
    atom.info["config_type"] = "IsolatedAtom"
    return atom


def torsion() -> list[Atoms]:
    """Return a scan of the C-C-O-H dihedral angle, all else relaxed with GFN2-xTB."""
    angle = [CARBON_CH3, CARBON_CH2, OXYGEN, HYDROGEN_OH]
    frames, guess = [], None
    for degrees in TORSION:
        atoms = conformer(180.0)
        atoms.set_dihedral(*angle, degrees, indices=[HYDROGEN_OH])
        atoms.set_constraint(FixInternals(dihedrals_deg=[[degrees, angle]]))
        BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
        atoms.set_constraint()
        frame, guess = labelled(atoms, guess, config_type="torsion", dihedral=float(degrees))
        frames.append(frame)
    return frames


def trajectory(start: Atoms, name: str, *, temperature: int, frames: int, seed: int) -> list[Atoms]:
    """Return decorrelated, labelled frames of one Langevin run."""
    generator = np.random.default_rng(seed)
    atoms = start.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    thermalize_momenta(atoms, temperature_K=temperature, rng=generator)
    dynamics = Langevin(
        atoms,
        TIME_STEP * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=generator,
    )
    dynamics.run(EQUILIBRATION_STEPS)
    kept, guess = [], None
    for _ in range(frames):
        dynamics.run(STEPS_BETWEEN_FRAMES)
        frame, guess = labelled(atoms, guess, config_type=f"{temperature}K", trajectory=name)
        kept.append(frame)
    return kept


def main() -> None:
    """Write train.xyz, test_300K.xyz, test_600K.xyz and torsion.xyz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().output

    starts = [conformer(angle) for angle in CONFORMERS.values()]
    train = [isolated_atom(symbol) for symbol in ("H", "C", "O")]
    for temperature in TEMPERATURES:
        test = []
        for number in (*TRAIN_TRAJECTORIES, *TEST_TRAJECTORIES):
            is_test = number in TEST_TRAJECTORIES
            name = f"{temperature}K-{number:02d}"
            frames = trajectory(
                starts[number % len(starts)],
                name,
                temperature=temperature,
                frames=TEST_FRAMES if is_test else TRAIN_FRAMES,
                seed=1000 * temperature + number,
            )
            (test if is_test else train).extend(frames)
            print(f"{name}: {len(frames)} frames", flush=True)
        write(folder / f"test_{temperature}K.xyz", test, format="extxyz")
    write(folder / "train.xyz", train, format="extxyz")
    write(folder / "torsion.xyz", torsion(), format="extxyz")


if __name__ == "__main__":
    main()
