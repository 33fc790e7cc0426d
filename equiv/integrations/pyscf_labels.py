"""Fock matrices from PySCF: molecules, mean-field objects, labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from equiv.errors import DataError, EquivError
from equiv.hamiltonian import HamiltonianFrame, HamiltonianSet, OrbitalBasis, Theory
from equiv.hamiltonian.baseline import baseline_matrix

P = ParamSpec("P")
T = TypeVar("T")

CONVERGENCE = 1e-10
"""Eh: change of the energy at which labels are converged."""
GRADIENT = 1e-6
"""Norm of the orbital gradient at which labels are converged."""
CYCLES = 100


@dataclass(frozen=True)
class Label:
    """What one calculation gave, in atomic units.

    Attributes:
        frame: the molecule with its matrices.
        orbital_energies: Eh. Shape ``[nao]``.
        dipole: in e Bohr. Shape ``[3]``.
        cycles: of the self-consistent field.
        forces: in Eh/Bohr, or None. Shape ``[atoms, 3]``.
    """

    frame: HamiltonianFrame
    orbital_energies: np.ndarray
    dipole: np.ndarray
    cycles: int
    forces: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """The same as plain arrays by name."""
        frame = self.frame
        arrays = {
            "numbers": frame.numbers.numpy(),
            "positions": frame.positions.numpy(),
            "hamiltonian": frame.hamiltonian.numpy(),
            "overlap": np.zeros(0) if frame.overlap is None else frame.overlap.numpy(),
            "energy": np.array(frame.energy),
            "dipole": self.dipole,
            "n_cycles": np.array(self.cycles),
            **{f"baseline_{name}": matrix.numpy() for name, matrix in frame.baselines.items()},
        }
        return arrays if self.forces is None else {**arrays, "forces": self.forces}


def need_pyscf() -> None:
    """Make sure that PySCF can be imported.

    Raises:
        EquivError: it cannot; the message says how to install it.
    """
    try:
        import pyscf  # noqa: F401
    except ImportError as error:
        raise EquivError(
            "this needs PySCF; install it with pip install 'equiv[hamiltonian]'"
        ) from error


def molecule(
    numbers: Sequence[int] | Int[Tensor, " atoms"],
    positions: Float[Tensor, "atoms 3"] | np.ndarray,
    basis: str | OrbitalBasis,
    *,
    charge: int = 0,
) -> Any:
    """A ``pyscf.gto.Mole`` with spherical orbitals and a closed shell.

    Effective core potentials come with the basis where it has them for an element.

    Args:
        numbers: atomic numbers.
        positions: in Angstrom.
        basis: what PySCF calls it; of an :class:`OrbitalBasis` the name is used, and the result is
            compared with it.
        charge: in e.

    Raises:
        EquivError: PySCF is not installed or has no such basis; an odd number of electrons.
    """
    need_pyscf()
    import json

    from pyscf import gto

    name = basis.name if isinstance(basis, OrbitalBasis) else basis
    named: Any = json.loads(name) if name.startswith("{") else name
    symbols = [chemical_symbols[int(z)] for z in numbers]
    rows = np.asarray(positions, dtype=np.float64).tolist()
    potentials = {}
    if isinstance(basis, OrbitalBasis):
        potentials = {chemical_symbols[z]: name for z in basis.core}
    try:
        mole = gto.M(
            atom=list(zip(symbols, rows, strict=True)),
            basis=named,
            ecp=potentials,
            charge=charge,
            unit="Angstrom",
            verbose=0,
        )
    except Exception as error:  # PySCF raises several kinds
        raise EquivError(f"PySCF cannot build this molecule in {name}: {error}") from error
    if isinstance(basis, OrbitalBasis):
        basis.check_molecule(mole)
    return mole


def mean_field(mole: Any, theory: Theory) -> Any:
    """A restricted mean-field object of PySCF for this theory.

    Raises:
        EquivError: the functional is not known.
    """
    from pyscf import dft, scf

    if theory.xc.lower() == "hf":
        return _without_file(scf.RHF(mole))
    mf = _without_file(dft.RKS(mole))
    try:
        dft.libxc.parse_xc(theory.xc)
    except Exception as error:
        raise EquivError(f"PySCF does not know the functional {theory.xc!r} ({error})") from error
    mf.xc = theory.xc
    mf.grids.level = theory.grid_level
    return mf


def _in_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Let PySCF use one thread: its sums over several differ in the last bits from run to run."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            from pyscf import lib
        except ImportError:  # the function says so, if it needs it
            return function(*args, **kwargs)
        with lib.with_omp_threads(1):
            return function(*args, **kwargs)

    return inner


@_in_one_thread
def label(
    numbers: Int[Tensor, " atoms"],
    positions: Float[Tensor, "atoms 3"],
    basis: str | OrbitalBasis,
    theory: Theory,
    *,
    charge: int = 0,
    baselines: Sequence[str] = ("minao",),
    forces: bool = False,
    where: str = "",
) -> Label:
    """Converge one molecule tightly and keep its matrices.

    The Hamiltonian is the Fock matrix of the final density. If the ordinary iteration does not
    converge, a second-order one goes on from where it got.

    Raises:
        DataError: neither converges.
    """
    mole = molecule(numbers, positions, basis, charge=charge)
    mf = mean_field(mole, theory)
    mf.conv_tol, mf.conv_tol_grad, mf.max_cycle = CONVERGENCE, GRADIENT, CYCLES
    matrices = {name: baseline_matrix(name, mf) for name in baselines if name != "none"}
    mf.kernel()
    cycles = int(mf.cycles)
    if not mf.converged:
        mf = mf.newton()
        mf.kernel(mf.mo_coeff, mf.mo_occ)
        cycles += CYCLES
        if not mf.converged:
            raise DataError(f"{where}: the self-consistent field does not converge")
    fock = np.asarray(mf.get_fock(dm=mf.make_rdm1()), dtype=np.float64)
    frame = HamiltonianFrame(
        numbers=numbers,
        positions=positions,
        hamiltonian=_symmetric(fock),
        overlap=_symmetric(mf.get_ovlp()),
        baselines={name: _symmetric(matrix) for name, matrix in matrices.items()},
        charge=charge,
        energy=float(mf.e_tot),
        where=where,
    )
    return Label(
        frame,
        np.asarray(mf.mo_energy),
        np.asarray(mf.dip_moment(unit="AU", verbose=0)),
        cycles,
        -np.asarray(mf.nuc_grad_method().kernel()) if forces else None,
    )


@_in_one_thread
def add_baseline(data: HamiltonianSet, name: str) -> HamiltonianSet:
    """The set with a baseline computed for every molecule that lacks it.

    Raises:
        EquivError: PySCF is not installed, or there is no such baseline.
    """
    if name == "none" or all(name in frame.baselines for frame in data.frames):
        return data
    frames = []
    for frame in data.frames:
        if name not in frame.baselines:
            mole = molecule(frame.numbers, frame.positions.numpy(), data.basis, charge=frame.charge)
            matrix = _symmetric(baseline_matrix(name, mean_field(mole, data.theory)))
            frame = replace(frame, baselines={**frame.baselines, name: matrix})
        frames.append(frame)
    return HamiltonianSet(data.basis, data.theory, tuple(frames))


def _without_file(mf: Any) -> Any:
    """Without the checkpoint file that PySCF opens and writes in every iteration."""
    if getattr(mf, "_chkfile", None) is not None:
        mf._chkfile.close()
    mf.chkfile = mf._chkfile = None
    return mf


def _symmetric(matrix: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(matrix, dtype=np.float64))
    return 0.5 * (tensor + tensor.mT)
