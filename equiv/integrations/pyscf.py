"""Hamiltonian models in PySCF: orbitals and properties of a molecule, and starts for its SCF."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers as numbers_by_symbol

from equiv.errors import EquivError
from equiv.hamiltonian import OrbitalBasis, Theory, matrices_from_blocks, molecules
from equiv.hamiltonian.baseline import baseline_matrix
from equiv.integrations.pyscf_labels import mean_field, need_pyscf
from equiv.models import AbstractModel
from equiv.models.file import load_model

CLOSER = 0.1
"""A predicted start is used if its residual is at most this share of that of minao."""
MOVED = 0.25
"""... and if at most so many electron pairs change place in the first iteration."""


class GuessWarning(UserWarning):
    """A predicted start was worse than PySCF's own, which is used instead."""


@dataclass(frozen=True)
class Properties:
    r"""What follows from a predicted Hamiltonian, in atomic units (Eh, Bohr, e).

    Attributes:
        hamiltonian: Eh, PySCF's order. Shape ``[nao, nao]``.
        overlap: of the orbitals. Shape ``[nao, nao]``.
        orbital_energies: Eh, ascending. Shape ``[nao]``.
        coefficients: one orbital in each column. Shape ``[nao, nao]``.
        occupied: number of doubly occupied orbitals.
        density: :math:`2 C_\text{occ} C_\text{occ}^\mathsf{T}`. Shape ``[nao, nao]``.
        dipole: e Bohr. Shape ``[3]``.
        charges: Mulliken charges, e. Shape ``[atoms]``.
    """

    hamiltonian: np.ndarray
    overlap: np.ndarray
    orbital_energies: np.ndarray
    coefficients: np.ndarray
    occupied: int
    density: np.ndarray
    dipole: np.ndarray
    charges: np.ndarray
    _functional: "_Functional"

    @property
    def homo(self) -> float:
        """Energy of the highest occupied orbital, Eh."""
        return float(self.orbital_energies[self.occupied - 1])

    @property
    def lumo(self) -> float:
        """Energy of the lowest unoccupied orbital, Eh."""
        return float(self.orbital_energies[self.occupied])

    @property
    def gap(self) -> float:
        """The gap between both, Eh."""
        return self.lumo - self.homo

    @property
    def energy(self) -> float:
        """Total energy of the predicted density, Eh: one Fock build, on the first call.

        An upper bound of the converged energy, whose error is quadratic in that of the Hamiltonian.
        """
        return self._functional.energy

    @property
    def residual(self) -> float:
        r"""How far the prediction is from self-consistency.

        The norm of the gradient of the energy with respect to orbital rotations, per square root
        of their number, as PySCF judges convergence (Eh). Shares its Fock build with ``energy``.
        """
        return self._functional.gradient

    @property
    def forces(self) -> np.ndarray:
        """Forces of the predicted density, Eh/Bohr. Shape ``[atoms, 3]``.

        PySCF's analytic gradient with the predicted orbitals and their energies. Its error is
        linear in that of the Hamiltonian.
        """
        return self._functional.forces


class HamiltonianCalculator:
    r"""A trained Hamiltonian model for molecules of PySCF.

    .. math::
        H = H_0 + \Delta H_\theta(R), \qquad H C = S C \varepsilon, \qquad
        P = 2\, C_\text{occ} C_\text{occ}^\mathsf{T}

    :math:`H_0` is the baseline the model was trained with, :math:`S` the overlap; the eigenvalue
    problem is in float64. Only closed shells.

    Args:
        model: a model file, or a model.

    Raises:
        EquivError: PySCF is not installed, or it is no Hamiltonian model.
    """

    def __init__(self, model: str | os.PathLike[str] | AbstractModel) -> None:
        need_pyscf()
        if not isinstance(model, AbstractModel):
            model = load_model(model)
        basis, baseline = getattr(model, "basis", None), getattr(model, "baseline", None)
        if not isinstance(basis, OrbitalBasis) or baseline is None:
            raise EquivError(
                f"a Hamiltonian model is needed, got a {model.name} model; train one with "
                "model: {name: sphnet}"
            )
        self.model = model.eval()
        self.basis, self.baseline = basis, str(baseline)
        stored = getattr(model, "theory", None)
        self.theory = None if stored is None else Theory.from_dict(stored)

    def hamiltonian(self, mole: Any) -> np.ndarray:
        """The predicted Fock matrix of a ``pyscf.gto.Mole``, Eh, in PySCF's order.

        Raises:
            UnknownElementError: the model was not trained on an element of the molecule.
            EquivError: the molecule has another basis, or open shells.
        """
        return self._predict(self._mean_field(mole))

    def density_matrix(self, mole: Any) -> np.ndarray:
        """The density matrix of the predicted orbitals, with their coefficients attached."""
        mf = self._mean_field(mole)
        return _orbitals(mf, self._predict(mf))[2]

    def properties(self, mole: Any) -> Properties:
        """Orbitals, dipole, charges; energy and forces when they are asked for.

        Raises:
            UnknownElementError: the model was not trained on an element of the molecule.
            EquivError: the molecule has another basis, or open shells.
        """
        mf = self._mean_field(mole)
        matrix = self._predict(mf)
        energies, coefficients, density = _orbitals(mf, matrix)
        overlap = np.asarray(mf.get_ovlp())
        population = np.einsum("uv,vu->u", np.asarray(density), overlap)
        charges = np.asarray(mole.atom_charges(), dtype=np.float64)
        for atom, (start, stop) in enumerate(mole.aoslice_by_atom()[:, 2:]):
            charges[atom] -= population[start:stop].sum()
        occupations = np.asarray(density.mo_occ)
        return Properties(
            hamiltonian=matrix,
            overlap=overlap,
            orbital_energies=energies,
            coefficients=coefficients,
            occupied=mole.nelectron // 2,
            density=np.asarray(density),
            dipole=np.asarray(mf.dip_moment(dm=density, unit="AU", verbose=0)),
            charges=charges,
            _functional=_Functional(mf, density, energies, coefficients, occupations),
        )

    def initial_guess(self, mf: Any, *, guard: bool = True) -> np.ndarray:
        r"""A density matrix to start the SCF of ``mf`` from: ``mf.kernel(guess)``.

        With the guard one Fock matrix :math:`F = F[P]` is built from the predicted density, and the
        prediction is used only if

        .. math::
            \lVert F P S - S P F \rVert \le 0.1\, \lVert F_0 P_0 S - S P_0 F_0 \rVert, \qquad
            n - \tfrac14 \operatorname{tr}(P S P' S) \le 0.25

        with :math:`P_0` PySCF's own start (minao), :math:`F_0` its Fock matrix, and :math:`P'` the
        density of the :math:`n` lowest orbitals of :math:`F`: the prediction must be much closer to
        self-consistency, and no orbital may come in between that should be empty. (Energies say
        nothing here: :math:`P_0` is no density of orbitals, and its energy is often below that of
        the solution.) Otherwise :math:`P_0` is returned, with a :class:`GuessWarning`. No work is
        lost: ``mf`` remembers :math:`F` for the first iteration of the next ``mf.kernel(guess)``,
        and the model's baseline is :math:`F_0` if ``mf`` has the functional and grid of the
        training data.

        The functional of ``mf`` may differ from that of the training data; the start is less good
        then.

        Args:
            mf: a restricted mean-field object of PySCF.
            guard: whether to compare.

        Returns:
            The density matrix with attributes ``mo_coeff``, ``mo_occ``, ``accepted`` (bool),
            ``message``, and with the guard ``residual`` and ``usual_residual`` of both starts (Eh)
            and ``moved``, the electron pairs that change place in the first iteration.

        Raises:
            UnknownElementError: the model was not trained on an element of the molecule.
            EquivError: the molecule has another basis or open shells, or ``mf`` is not restricted.
        """
        from pyscf.lib import tag_array

        _require_restricted(mf)
        self._check(mf.mol)
        usual: _State | None = None
        if self.baseline == "minao" and self._same_theory(mf):
            usual = _State.of(mf, mf.get_init_guess(mf.mol, key="minao"))
            matrix = self._predict(mf, usual.fock)
        else:
            matrix = self._predict(self._mean_field(mf.mol))
        _, _, density = _orbitals(mf, matrix)
        if not guard:
            return tag_array(density, accepted=True, message="not compared")
        if usual is None:
            usual = _State.of(mf, mf.get_init_guess(mf.mol, key="minao"))
        mine = _State.of(mf, density)
        moved = mine.moved(mf)
        better = mine.residual <= CLOSER * usual.residual and moved <= MOVED
        message = (
            f"residual {mine.residual:.1e} Eh (minao: {usual.residual:.1e}), {moved:.2f} electron "
            "pairs change place"
        )
        if not better:
            message = f"the predicted start is not safely better, minao is used: {message}"
            warnings.warn(GuessWarning(message), stacklevel=2)
        chosen = mine if better else usual
        _reuse(mf, chosen)
        return tag_array(
            chosen.density,
            accepted=better,
            message=message,
            residual=mine.residual,
            usual_residual=usual.residual,
            moved=moved,
        )

    def scf(self, mf: Any, *, guard: bool = True) -> Any:
        """Run the SCF of ``mf`` from the prediction, and from PySCF's own start if that fails.

        Returns:
            The same ``mf``.
        """
        mf.kernel(self.initial_guess(mf, guard=guard))
        if not mf.converged:
            text = "the SCF from the predicted start did not converge; it is repeated from minao"
            warnings.warn(GuessWarning(text), stacklevel=2)
            mf.kernel(mf.get_init_guess(mf.mol, key="minao"))
        return mf

    def _predict(self, mf: Any, baseline: np.ndarray | None = None) -> np.ndarray:
        mole = mf.mol
        numbers = [numbers_by_symbol[mole.atom_pure_symbol(i)] for i in range(mole.natm)]
        positions = torch.from_numpy(np.array(mole.atom_coords(unit="Angstrom")))
        batch = molecules(self.basis, [torch.tensor(numbers)], [positions]).to(self.model.device)
        with torch.no_grad():
            blocks = self.model(batch).to(torch.float64)
        (change,) = matrices_from_blocks(blocks, batch.layout)
        if baseline is None:
            baseline = baseline_matrix(self.baseline, mf)
        return baseline + change.cpu().numpy()

    def _mean_field(self, mole: Any) -> Any:
        self._check(mole)
        if self.theory is None:
            raise EquivError(
                "the model does not say with which functional its data were computed, so its "
                "baseline cannot be made; train it from data that tell (theory)"
            )
        mf = mean_field(mole, self.theory)
        mf.verbose = 0
        return mf

    def _check(self, mole: Any) -> None:
        self.basis.check_molecule(mole)
        if mole.spin or mole.nelectron % 2:
            raise EquivError(
                f"the molecule has {mole.nelectron} electrons with spin {mole.spin}; Hamiltonian "
                "models are for closed shells"
            )

    def _same_theory(self, mf: Any) -> bool:
        if self.theory is None:
            return False
        if not hasattr(mf, "xc"):
            return self.theory.xc.lower() == "hf"
        return (mf.xc.lower(), mf.grids.level) == (
            self.theory.xc.lower(),
            self.theory.grid_level,
        ) and not hasattr(mf, "with_df")


@dataclass(frozen=True)
class _State:
    """A density with what one Fock build gives."""

    density: np.ndarray
    potential: Any
    fock: np.ndarray
    residual: float

    @classmethod
    def of(cls, mf: Any, density: np.ndarray) -> "_State":
        core, overlap = mf.get_hcore(), np.asarray(mf.get_ovlp())
        potential = mf.get_veff(mf.mol, density)
        fock = np.asarray(core + potential)
        values, vectors = np.linalg.eigh(overlap)
        kept = values > 1e-8
        half = vectors[:, kept] / np.sqrt(values[kept])
        product = half.T @ (fock @ np.asarray(density) @ overlap) @ half
        return cls(density, potential, fock, float(np.linalg.norm(product - product.T)))

    def moved(self, mf: Any) -> float:
        """Electron pairs of the density that are not in the lowest orbitals of its Fock matrix."""
        overlap = np.asarray(mf.get_ovlp())
        lowest = np.asarray(_orbitals(mf, self.fock)[2])
        shared = np.einsum(
            "uv,vw,wx,xu->", np.asarray(self.density), overlap, lowest, overlap, optimize=True
        )
        return float(mf.mol.nelectron / 2 - shared / 4)


class _Functional:
    """Energy and forces of a density, computed when they are asked for."""

    def __init__(
        self,
        mf: Any,
        density: np.ndarray,
        energies: np.ndarray,
        coefficients: np.ndarray,
        occupations: np.ndarray,
    ) -> None:
        self._mf, self._density = mf, density
        self._orbitals = (energies, coefficients, occupations)

    @cached_property
    def _potential(self) -> Any:
        return self._mf.get_veff(self._mf.mol, self._density)

    @cached_property
    def energy(self) -> float:
        core = self._mf.get_hcore()
        return float(self._mf.energy_tot(self._density, core, self._potential))

    @cached_property
    def gradient(self) -> float:
        _, coefficients, occupations = self._orbitals
        fock = self._mf.get_hcore() + self._potential
        gradient = self._mf.get_grad(coefficients, occupations, np.asarray(fock))
        return float(np.linalg.norm(gradient) / max(1, gradient.size) ** 0.5)

    @cached_property
    def forces(self) -> np.ndarray:
        gradient = self._mf.nuc_grad_method()
        gradient.verbose = 0
        return -np.asarray(gradient.kernel(*self._orbitals))


def _orbitals(mf: Any, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Energies, coefficients, and the density matrix with coefficients attached."""
    energies, coefficients = mf.eig(matrix, np.asarray(mf.get_ovlp()))
    occupations = mf.get_occ(energies, coefficients)
    return energies, coefficients, mf.make_rdm1(coefficients, occupations)


def _require_restricted(mf: Any) -> None:
    from pyscf import scf

    if not isinstance(mf, scf.hf.RHF) or isinstance(mf, scf.rohf.ROHF):
        raise EquivError(
            f"a restricted closed-shell mean-field object is needed (RHF or RKS), got "
            f"{type(mf).__name__}"
        )


def _reuse(mf: Any, state: _State) -> None:
    """Let the next call of ``mf.get_veff`` with this density return what is known already."""
    original: Callable[..., Any] = type(mf).get_veff

    def get_veff(mol: Any = None, dm: Any = None, *args: Any, **kwargs: Any) -> Any:
        vars(mf).pop("get_veff", None)
        known = (
            dm is not None
            and (mol is None or mol is mf.mol)
            and np.shape(dm) == np.shape(state.density)
            and np.array_equal(dm, state.density)
        )
        return state.potential if known else original(mf, mol, dm, *args, **kwargs)

    mf._keys = set(mf._keys) | {"get_veff"}  # it is no misspelt attribute
    mf.get_veff = get_veff
