"""Cheap Hamiltonians that a model only has to correct (delta learning)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from equiv.choices import choose
from equiv.errors import EquivError

Baseline = Callable[[Any], np.ndarray]


def minao(mf: Any) -> np.ndarray:
    r"""The Fock matrix of the superposed minimal-basis densities of the atoms.

    .. math:: H_0 = T + V + J[P_0] + V_{xc}[P_0]

    The start of PySCF's own calculations by default; one Fock build with the functional and grid of
    ``mf``, which is a mean-field object of PySCF. Eh, ``[nao, nao]`` in PySCF's order.
    """
    density = mf.get_init_guess(mf.mol, key="minao")
    return np.asarray(mf.get_fock(dm=density), dtype=np.float64)


def sap(mf: Any) -> np.ndarray:
    r"""The superposition of atomic potentials: :math:`H_0 = T + V_\text{SAP}`.

    No two-electron work (Lehtola 2019). Further from the answer than ``minao``. Eh.
    """
    from pyscf import dft

    if hasattr(mf, "get_vsap"):
        potential = mf.get_vsap(mf.mol)
    else:
        other = dft.RKS(mf.mol)
        other.grids.level = 3
        potential = other.get_vsap(mf.mol)
    return np.asarray(mf.mol.intor_symmetric("int1e_kin") + potential, dtype=np.float64)


def none(mf: Any) -> np.ndarray:
    """Nothing: the model predicts the whole Hamiltonian, without a call of PySCF."""
    return np.zeros((mf.mol.nao, mf.mol.nao))


BASELINES: Mapping[str, Baseline] = {"minao": minao, "sap": sap, "none": none}
"""Baselines by the name that recipes and model files use."""


def baseline_matrix(name: str, mf: Any) -> np.ndarray:
    """The baseline of that name for a mean-field object of PySCF, symmetrised. Eh.

    Raises:
        EquivError: there is no such baseline.
    """
    matrix = choose(BASELINES, name, "baseline")(mf)
    if matrix.ndim != 2:
        raise EquivError(
            "baselines exist for restricted calculations only; use a restricted mean-field object"
        )
    return 0.5 * (matrix + matrix.T)
