"""One molecular dynamics run: integrator, trajectory, log, and the watch over all of it."""

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io import write
from ase.io.trajectory import TrajectoryWriter
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

from equiv.cli.progress import Progress
from equiv.errors import EquivError
from equiv.integrations.ase import EquivCalculator
from equiv.models.compiled.worth import worthwhile
from equiv.models.interface import Model

COLUMNS = ("time_fs", "potential_eV", "kinetic_eV", "total_eV", "temperature_K", "volume_A3")


class Dynamics:
    """What `equiv md` does, with the arguments it got."""

    def __init__(self, atoms: Atoms, model: Model, args: argparse.Namespace) -> None:
        self.args, self.atoms = args, atoms
        # Fixed streams: the same command gives the same run.
        velocities, noise = np.random.default_rng(args.seed).spawn(2)
        hydrogen = bool((atoms.numbers == 1).any())
        self.timestep = args.timestep or (0.5 if hydrogen else 1.0)
        self.limit = args.max_temperature or max(10 * args.temperature, 5000.0)
        if atoms.has("momenta"):
            start = "velocities from the file"
        else:
            start = f"random velocities at {args.temperature:g} K (seed {args.seed})"
            spread = np.sqrt(units.kB * args.temperature * atoms.get_masses())[:, None]
            atoms.set_momenta(spread * velocities.standard_normal((len(atoms), 3)))
            if not atoms.constraints and len(atoms) > 1:
                Stationary(atoms)
                if not atoms.pbc.any() and len(atoms) > 2:
                    ZeroRotation(atoms)
        choice = args.compile
        if choice == "auto":
            choice = "on" if worthwhile(args.steps, len(atoms)) else "off"
        atoms.calc = EquivCalculator(model, compile=choice)
        self.integrator = _integrator(atoms, args, self.timestep, noise)
        print(
            f"md     {atoms.get_chemical_formula()}, {len(atoms)} atoms: {args.ensemble}, "
            f"{args.steps} steps of {self.timestep:g} fs; {start}"
        )

    def run(self) -> int:
        """Run to the end, to an explosion or to Ctrl-C; what has been computed is always kept."""
        args = self.args
        write_frame, close = self._trajectory()
        log = Log(args.log, extend=args.extend)
        try:
            with Progress("md", args.steps, "steps") as progress:
                if not args.extend:
                    self._check()
                    write_frame()
                    log.add(self._row())
                for step in range(1, args.steps + 1):
                    self._step(step)
                    temperature = self._check(step)
                    if step % args.every == 0 or step == args.steps:
                        write_frame()
                        log.add(self._row())
                    progress.advance(note=f"{temperature:6.0f} K")
        finally:
            close()
            log.close()
        self._summary(np.array(log.rows))
        return 0

    def _step(self, step: int) -> None:
        try:
            self.integrator.run(1)
        except (EquivError, FloatingPointError, np.linalg.LinAlgError) as error:
            raise self._exploded(step, str(error)) from error

    def _check(self, step: int = 0) -> float:
        temperature = float(self.atoms.get_temperature())
        if not math.isfinite(temperature) or temperature > self.limit:
            raise self._exploded(step, f"the temperature reached {temperature:.3g} K")
        return temperature

    def _exploded(self, step: int, reason: str) -> EquivError:
        return EquivError(
            f"the run exploded at step {step} ({step * self.timestep:g} fs): {reason}. "
            f"Frames up to there are in {self.args.output}. Try a shorter --timestep than "
            f"{self.timestep:g} fs; if that does not help, the model is outside of what it was "
            "trained on: look at the last frames and add such structures to the training data"
        )

    def _trajectory(self) -> tuple[Any, Any]:
        """A function that writes the present frame, and one that ends the file."""
        path, atoms = self.args.output, self.atoms
        if path.suffix.lower() == ".traj":
            file = TrajectoryWriter(path, "a" if self.args.extend else "w", atoms)
            return file.write, file.close
        if not self.args.extend:
            path.unlink(missing_ok=True)
        return (lambda: write(path, atoms, format="extxyz", append=True)), lambda: None

    def _row(self) -> list[float]:
        """The present values of `COLUMNS`."""
        atoms = self.atoms
        potential = float(atoms.get_potential_energy())
        kinetic = float(atoms.get_kinetic_energy())
        time = self.integrator.nsteps * self.timestep
        volume = float(atoms.get_volume()) if atoms.cell.rank == 3 else math.nan
        return [
            time,
            potential,
            kinetic,
            potential + kinetic,
            float(atoms.get_temperature()),
            volume,
        ]

    def _summary(self, rows: np.ndarray) -> None:
        half = rows[len(rows) // 2 :]
        print(
            f"mean   temperature {half[:, 4].mean():.0f} K, "
            f"potential energy {half[:, 1].mean():.4f} eV (second half)"
        )
        if self.args.ensemble == "nve" and len(rows) > 1:
            span = (rows[-1, 0] - rows[0, 0]) / 1000
            drift = (rows[-1, 3] - rows[0, 3]) / len(self.atoms) / span
            print(f"drift  {1000 * drift:.3f} meV/atom/ps of the total energy")
        print(f"wrote  {self.args.output}")


class Log:
    """Rows of `COLUMNS`, in memory and, given a path, in a CSV file whole after every row.

    When it extends a file, times go on from the last one there.
    """

    def __init__(self, path: Path | None, *, extend: bool) -> None:
        self.rows: list[list[float]] = []
        self._start = 0.0
        self._file = None
        if path is None:
            return
        lines = path.read_text().split() if extend and path.exists() else []
        if len(lines) > 1:
            self._start = float(lines[-1].split(",")[0])
        self._file = path.open("a" if lines else "w", newline="")
        self._table = csv.writer(self._file)
        if not lines:
            self._table.writerow(COLUMNS)

    def add(self, row: list[float]) -> None:
        """Append one row."""
        self.rows.append(row)
        if self._file is not None:
            self._table.writerow([self._start + row[0], *row[1:]])
            self._file.flush()

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.close()


def _integrator(
    atoms: Atoms, args: argparse.Namespace, timestep: float, noise: np.random.Generator
) -> MolecularDynamics:
    dt = timestep * units.fs
    if args.ensemble == "nve":
        return VelocityVerlet(atoms, dt)
    if args.ensemble == "langevin":
        return Langevin(
            atoms,
            dt,
            temperature_K=args.temperature,
            friction=args.friction / units.fs,
            fixcm=False,  # holding the centre of mass still would bias the ensemble
            rng=noise,
        )
    kind = IsotropicMTKNPT if args.cell == "isotropic" else MTKNPT
    return kind(
        atoms,
        dt,
        temperature_K=args.temperature,
        pressure_au=args.pressure * units.GPa,
        tdamp=100 * dt,  # the damping times ASE recommends
        pdamp=1000 * dt,
    )
