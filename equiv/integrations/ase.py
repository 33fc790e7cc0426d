"""Models as ASE calculators."""

import copy
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    Parameters,
    PropertyNotImplementedError,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress

from equiv.errors import EquivError
from equiv.graph import AtomGraph, collate, total_charge
from equiv.graph.verlet import VerletList
from equiv.integrations.ase_plugin import register
from equiv.models.file import dtype_named, load_potential, usable_device
from equiv.models.interface import Model

PROPERTIES = ["energy", "free_energy", "energies", "forces", "stress", "stresses"]
IGNORED = {"initial_magmoms", "initial_charges"}


class EquivCalculator(Calculator):
    r"""A trained model as an ASE calculator.

    .. math::
        F_i = -\frac{\partial E}{\partial r_i}, \qquad
        \sigma = \frac{1}{V} \frac{\partial E}{\partial \epsilon}, \qquad
        \sigma_i = -\frac{1}{V} W_i, \quad \sum_i \sigma_i = \sigma

    Energies in eV, forces in eV/Angstrom, stress in eV/Angstrom^3 in ASE's sign and Voigt order.
    The per-atom stresses give each atom half the virial :math:`W` of each of its pairs. A model
    with a long-range term also gives ``charges`` (e) and the ``dipole`` (e Angstrom) of finite
    structures, and takes the total charge from ``atoms.info["charge"]``.

    What has been asked for once is computed together from then on: a run that asks for energies
    only never pays for forces, and one that asks for stress gets it in one evaluation with the
    forces.

    Args:
        model: a model file, or a model (which is copied: later training does not change the
            results).
        dtype: `float32` or `float64`; None keeps the precision the model was stored in. Molecular
            dynamics is fine in float32; vibrations and tight relaxations deserve float64.
        device: where to compute, for example `cuda`.
        skin: how far beyond the cutoff neighbours are remembered, Angstrom; the search is repeated
            when an atom has moved half of it. The results do not depend on it.
        compile: `auto` compiles once so much has been computed that it pays, `on` at the first
            call, `off` never (:meth:`equiv.models.Model.compile`).

    Attributes:
        model: the model in use.
        card: what the model file says about the model.

    Raises:
        ModelFileError: the file is not a usable model.
        EquivError: an argument cannot be used.
        UnknownElementError: on evaluation, if the atoms hold elements the model was not trained on.
        PropertyNotImplementedError: for the stress of atoms without a periodic cell.
    """

    implemented_properties = PROPERTIES
    ignored_changes = IGNORED
    nolabel = True  # ASE: this calculator writes no files of its own

    def __init__(
        self,
        model: "Model | str | os.PathLike[str]",
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        skin: float = 0.5,
        compile: str = "auto",
        atoms: Atoms | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, Model):
            source = model.name
            chosen = model.dtype if dtype is None else dtype_named(dtype)
            model = copy.deepcopy(model).to(device=usable_device(device), dtype=chosen)
        else:
            source = os.fspath(model)
            model = load_potential(model, dtype=dtype, device=device)
        self.model = model.eval().requires_grad_(False)
        self._compile = compile
        self.model.compile(compile)
        self.card = self.model.card
        self.implemented_properties = [*PROPERTIES, *self.model.extra_properties]
        self.parameters = Parameters(
            model=source, dtype=str(self.model.dtype).removeprefix("torch."), skin=float(skin)
        )
        self._neighbors = VerletList(self.model.cutoff, skin=skin)
        self._wanted: set[str] = set()
        self._lock = threading.RLock()
        if atoms is not None:
            atoms.calc = self

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the model; called by ASE."""
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise EquivError("the calculator has no atoms yet; set atoms.calc and ask the atoms")
        asked = set(properties)
        has_stress = _has_stress(self.atoms)
        if asked & {"stress", "stresses"} and not has_stress:
            raise PropertyNotImplementedError(
                "stress needs a periodic structure with three cell vectors; "
                f"these have pbc={self.atoms.pbc.tolist()} and {self.atoms.cell.rank} cell vectors"
            )
        if "dipole" in asked and self.atoms.pbc.any():
            raise PropertyNotImplementedError("the dipole of a periodic structure is not defined")
        self._wanted |= asked
        batch = self._batch(self.atoms)
        prediction = self.model(
            batch,
            forces="forces" in self._wanted,
            stress="stress" in self._wanted and has_stress,
            atomic_virials="stresses" in self._wanted and has_stress,
        )
        energy = prediction.energy.item()
        results: dict[str, Any] = {
            "energy": energy,
            "free_energy": energy,
            "energies": _array(prediction.energies),
        }
        if prediction.forces is not None:
            results["forces"] = _array(prediction.forces)
        if prediction.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(_array(prediction.stress)[0])
        if "charges" in prediction.extras:
            results["charges"] = _array(prediction.extras["charges"])
        if "dipole" in prediction.extras and not self.atoms.pbc.any():
            results["dipole"] = _array(prediction.extras["dipole"])[0]
        if prediction.atomic_virials is not None:
            stresses = -_array(prediction.atomic_virials) / self.atoms.get_volume()
            results["stresses"] = full_3x3_to_voigt_6_stress(stresses)
        _check_finite(results, self.atoms)
        self.results = results

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation, the total charge in `info` included."""
        changes = super().check_state(atoms, tol=tol)
        if not changes and self.model.extra_properties and self.atoms is not None:
            before, now = total_charge(self.atoms), total_charge(atoms)
            changes += [] if before == now else ["initial_charges"]
        return changes

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """One property of `atoms`; safe to call from several threads."""
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        r"""Second derivatives :math:`\partial^2 E / \partial r_i \partial r_j`, eV/Angstrom^2.

        By automatic differentiation, not finite differences. Rows and columns run over atoms, then
        x, y, z: shape ``[3 atoms, 3 atoms]``. Constraints are not applied.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise EquivError("get_hessian needs atoms: call calc.get_hessian(atoms)")
        with self._lock:
            return _array(self.model.hessian(self._batch(atoms)))

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse changes: nothing about a calculator can be changed after it was made."""
        if kwargs:
            raise EquivError(
                f"cannot change {', '.join(kwargs)} of an EquivCalculator; make a new one with "
                "EquivCalculator(model, dtype=..., device=..., skin=..., compile=...)"
            )
        return {}

    def _batch(self, atoms: Atoms) -> Any:
        positions = np.ascontiguousarray(atoms.positions, dtype=np.float64)
        cell = np.asarray(atoms.cell.array, dtype=np.float64)
        if not np.isfinite(positions).all() or not np.isfinite(cell).all():
            raise EquivError("the atoms have positions or a cell that are not finite numbers")
        pbc = np.asarray(atoms.pbc, dtype=bool)
        pairs = self._neighbors.update(positions, cell, pbc)
        graph = AtomGraph(
            positions=torch.from_numpy(positions.copy()),
            atomic_numbers=torch.from_numpy(atoms.numbers.astype(np.int64)),
            cell=torch.from_numpy(cell[None].copy()),
            pbc=torch.from_numpy(pbc[None].copy()),
            total_charge=torch.tensor([total_charge(atoms)], dtype=torch.float64),
            senders=torch.from_numpy(pairs.senders),
            receivers=torch.from_numpy(pairs.receivers),
            shifts=torch.from_numpy(pairs.shifts.astype(np.float64)),
            num_nodes=len(atoms),
        )
        return collate([graph]).to(self.model.device)

    def _get_name(self) -> str:
        return "equiv"

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock, so that calculators can be copied and sent to other processes."""
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, key, value)
        self._neighbors = VerletList(self._neighbors.cutoff, skin=self._neighbors.skin)
        self._lock = threading.RLock()
        self.model.compile(self._compile)


def _has_stress(atoms: Atoms) -> bool:
    """Whether strain means anything: some direction is periodic and the cell has a volume."""
    return bool(atoms.pbc.any() and atoms.cell.rank == 3)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().to(torch.float64).numpy()


def _check_finite(results: dict[str, Any], atoms: Atoms) -> None:
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise EquivError(
                f"the model gives values of {name} that are not finite for "
                f"{atoms.get_chemical_formula()}; "
                "atoms may lie on top of each other"
            )


register()
