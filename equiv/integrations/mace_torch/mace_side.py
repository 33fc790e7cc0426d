"""Run by the Python of an environment with mace-torch: predict structures with the original model.

Usage: python mace_side.py MODEL STRUCTURES.npz RESULTS.npz [HEAD]

It imports nothing of this package and is never imported by it. The .model file is unpickled here,
by mace-torch, as its own calculator does it.
"""

import os
import sys


def main(model: str, structures: str, results: str, head: str | None = None) -> None:
    """Write energies, forces and stresses (eV, Angstrom; float64) of all structures."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    import numpy as np
    import torch
    from ase import Atoms
    from mace.calculators import MACECalculator  # pyright: ignore[reportMissingImports]

    # Its ZBL term multiplies integers with Python numbers: in this precision, whatever the model's.
    torch.set_default_dtype(torch.float64)
    options = {} if head is None else {"head": head}
    calculator = MACECalculator(model_paths=model, device="cpu", default_dtype="float64", **options)
    given = np.load(structures)
    energies, forces, stresses = [], [], []
    stop = np.cumsum(given["counts"])
    for k, (begin, end) in enumerate(zip(stop - given["counts"], stop)):  # noqa: B905
        atoms = Atoms(
            numbers=given["numbers"][begin:end],
            positions=given["positions"][begin:end],
            cell=given["cells"][k],
            pbc=given["pbc"][k],
        )
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        stresses.append(atoms.get_stress(voigt=False) if atoms.pbc.all() else np.zeros((3, 3)))
    np.savez(
        results,
        energies=np.array(energies),
        forces=np.concatenate(forces),
        stresses=np.array(stresses),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
