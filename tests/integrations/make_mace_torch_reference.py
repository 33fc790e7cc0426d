# ruff: noqa: E402
"""Write the small mace-torch models and results that ``test_mace_torch.py`` compares with.

Run it in an environment of its own, because mace-torch pins an e3nn that this package cannot use::

    python -m venv mace-env
    mace-env/bin/pip install mace-torch==0.3.16 safetensors
    mace-env/bin/python tests/integrations/make_mace_torch_reference.py

Every model has random weights from a fixed seed; nothing here is trained or downloaded. Each file
``reference/mace_torch_<name>.safetensors`` holds the state dict (the coupling tensors, which are
mostly zeros, as flat indices and values), the structures and mace-torch's float64 results. The
constructor arguments are in its header as JSON.

Each ``reference/file_<name>.model.xz`` is a whole model as ``torch.save`` writes it, a pickle,
compressed because most of it is repetitive; ``file_<name>.safetensors`` has the results.
"""

import io
import json
import logging
import lzma
import os
import sys
import warnings
from pathlib import Path

# mace-torch's e3nn reads a pickled table of its own that torch's safe loader refuses.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
warnings.filterwarnings("ignore")

import ase
import mace
import numpy as np
import torch
from e3nn import o3
from mace import data, modules, tools
from mace.tools import torch_geometric
from safetensors.torch import save_file

HERE = Path(__file__).parent
ELEMENTS = [1, 6, 8]
# Of the size of the interaction, so that a relative comparison of energies is sharp.
REFERENCE_ENERGIES = {1: -0.53, 6: 1.21, 8: -2.04}

# Small on purpose, and chosen so that together they reach every branch of the functional form.
MODELS: dict[str, dict] = {
    "vectors": dict(hidden="4x0e+4x1o", max_ell=2, correlation=3, num_polynomial_cutoff=5),
    "scalars": dict(hidden="4x0e", max_ell=3, correlation=3, num_polynomial_cutoff=6),
    "tensors": dict(
        hidden="3x0e+3x1o+3x2e",
        max_ell=2,
        correlation=2,
        num_polynomial_cutoff=5,
        num_interactions=3,
        readout="3x0e",
    ),
    "edges_of_degree_three": dict(
        hidden="4x0e+4x1o", max_ell=3, correlation=2, num_polynomial_cutoff=6, num_bessel=5
    ),
    "one_layer": dict(
        hidden="4x0e", max_ell=2, correlation=1, num_polynomial_cutoff=6, num_interactions=1
    ),
    "four_body": dict(hidden="4x0e+4x1o", max_ell=1, correlation=4, num_polynomial_cutoff=5),
    "repulsion": dict(
        hidden="4x0e", max_ell=1, correlation=2, num_polynomial_cutoff=6, pair_repulsion=True
    ),
}

# Whole files, as small as mace-torch makes them; together they reach the other branches.
MODEL_FILES: dict[str, dict] = {
    "heads": dict(hidden_irreps="2x0e+2x1o", heads=["low", "high"], model="MACE", gate="tanh"),
    "density": dict(
        interaction_cls_first="RealAgnosticDensityInteractionBlock",
        interaction_cls="RealAgnosticDensityResidualInteractionBlock",
        distance_transform="Agnesi",
        radial_type="gaussian",
        pair_repulsion=True,
        hidden_irreps="3x0e+3x1o",
        keep_last_layer_irreps=True,
        use_reduced_cg=True,
    ),
    "gated": dict(
        interaction_cls_first="RealAgnosticResidualNonLinearInteractionBlock",
        interaction_cls="RealAgnosticResidualNonLinearInteractionBlock",
        distance_transform="Soft",
        hidden_irreps="3x0e+3x1o",
        edge_irreps="2x0e+1x1o",
        use_edge_irreps_first=True,
        apply_cutoff=False,
        use_agnostic_product=True,
        use_last_readout_only=True,
        readout_cls="NonLinearBiasReadoutBlock",
        heads=["low", "high"],
    ),
    "single": dict(
        interaction_cls_first="RealAgnosticResidualInteractionBlock",
        radial_type="chebyshev",
        distance_transform="Agnesi",
        hidden_irreps="2x0e",
        gate="abs",
        dtype="float32",
    ),
}


def structures() -> dict[str, ase.Atoms]:
    rng = np.random.default_rng(7)
    methanol = np.array(
        [
            [-0.05, 0.66, 0.00],
            [-0.05, -0.76, 0.00],
            [-1.08, 0.98, 0.00],
            [0.44, 1.07, 0.89],
            [0.44, 1.07, -0.89],
            [0.86, -1.06, 0.00],
        ]
    )
    triclinic = np.array([[2.9, 0.3, -0.2], [0.9, 3.1, 0.4], [-0.5, 0.7, 3.4]])
    slab = np.array([[3.3, 0.0, 0.0], [1.1, 3.6, 0.0], [0.0, 0.0, 40.0]])
    return {
        "molecule": ase.Atoms("COHHHH", methanol + 0.02 * rng.standard_normal((6, 3))),
        # Shorter than the cutoff in every direction: atoms see several images of themselves.
        "triclinic": ase.Atoms(
            "COH", [[0.0, 0.1, 0.2], [1.3, 0.2, 0.1], [0.4, 1.6, 1.2]], cell=triclinic, pbc=True
        ),
        "slab": ase.Atoms(
            "COHH",
            [[0.0, 0.0, 20.0], [1.2, 0.3, 20.4], [2.0, 1.9, 21.1], [0.4, 1.9, 18.9]],
            cell=slab,
            pbc=[True, True, False],
        ),
        "apart": ase.Atoms("OH", [[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]),
    }


def build(seed: int, choice: dict) -> tuple[torch.nn.Module, dict]:
    hidden = choice["hidden"]
    configuration = {
        "r_max": 3.5,
        "num_bessel": choice.get("num_bessel", 8),
        "num_polynomial_cutoff": choice["num_polynomial_cutoff"],
        "max_ell": choice["max_ell"],
        "num_interactions": choice.get("num_interactions", 2),
        "num_elements": len(ELEMENTS),
        "hidden_irreps": hidden,
        "MLP_irreps": choice.get("readout", "5x0e"),
        "atomic_energies": [REFERENCE_ENERGIES[z] for z in ELEMENTS],
        "avg_num_neighbors": 1.7,
        "atomic_numbers": ELEMENTS,
        "correlation": choice["correlation"],
        "radial_MLP": choice.get("radial_MLP", [7, 6]),
        "pair_repulsion": choice.get("pair_repulsion", False),
        "atomic_inter_scale": 3.83,
        "atomic_inter_shift": -0.19,
    }
    torch.manual_seed(seed)
    model = modules.ScaleShiftMACE(
        **{
            **configuration,
            "hidden_irreps": o3.Irreps(hidden),
            "MLP_irreps": o3.Irreps(configuration["MLP_irreps"]),
            "atomic_energies": np.array(configuration["atomic_energies"]),
        },
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        gate=torch.nn.functional.silu,
    )
    return model, {
        **configuration,
        "model": "ScaleShiftMACE",
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "gate": "silu",
        "radial_type": "bessel",
        "distance_transform": None,
        "heads": ["Default"],
    }


def evaluate(
    model: torch.nn.Module, atoms: ase.Atoms, cutoff: float, head: str = "Default"
) -> dict[str, torch.Tensor]:
    table = tools.AtomicNumberTable(ELEMENTS)
    configuration = data.config_from_atoms(atoms.copy())
    configuration.head = head
    graph = data.AtomicData.from_config(
        configuration, z_table=table, cutoff=cutoff, heads=list(model.heads)
    )
    loader = torch_geometric.dataloader.DataLoader([graph], batch_size=1, shuffle=False)
    batch = next(iter(loader)).to_dict()
    out = model(batch, compute_force=True, compute_virials=True, compute_stress=True)
    results = {
        "energy": out["energy"],
        "energies": out["node_energy"],
        "forces": out["forces"],
        "virials": out["virials"],
    }
    if atoms.pbc.all():  # else mace-torch stretches the open directions and the volume with them
        results["stress"] = out["stress"]
    return {name: value.detach() for name, value in results.items()}


def write(name: str, seed: int, choice: dict) -> Path:
    model, configuration = build(seed, choice)
    tensors: dict[str, torch.Tensor] = {}
    shapes = {}
    for key, value in model.state_dict().items():
        if ".U_matrix_" in key:
            index = torch.nonzero(value.flatten()).flatten()
            tensors[f"state_index/{key}"] = index.to(torch.int32)
            tensors[f"state_value/{key}"] = value.flatten()[index]
            shapes[key] = list(value.shape)
        else:
            tensors[f"state/{key}"] = value
    for label, atoms in structures().items():
        tensors[f"structure/{label}/positions"] = torch.tensor(atoms.positions)
        tensors[f"structure/{label}/atomic_numbers"] = torch.tensor(atoms.numbers)
        tensors[f"structure/{label}/cell"] = torch.tensor(atoms.cell.array)
        tensors[f"structure/{label}/pbc"] = torch.tensor(atoms.pbc)
        for key, value in evaluate(model, atoms, configuration["r_max"]).items():
            tensors[f"result/{label}/{key}"] = value
    path = HERE / "reference" / f"mace_torch_{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    header = {
        "configuration": json.dumps(configuration),
        "sparse_shapes": json.dumps(shapes),
        "written_by": f"mace-torch {mace.__version__}, torch {torch.__version__}, seed {seed}",
    }
    save_file(tensors, path, metadata=header)
    return path


def write_file(name: str, seed: int, choice: dict) -> list[Path]:
    """A whole model, and what it predicts for its last head."""
    choice = dict(choice)
    kind, dtype = choice.pop("model", "ScaleShiftMACE"), choice.pop("dtype", "float64")
    torch.set_default_dtype(getattr(torch, dtype))
    heads = choice.get("heads", ["Default"])
    energies = np.array(
        [[REFERENCE_ENERGIES[z] + 0.1 * h for z in ELEMENTS] for h in range(len(heads))]
    )
    options = {
        "r_max": 3.5,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 1,
        "num_interactions": 2,
        "num_elements": len(ELEMENTS),
        "MLP_irreps": "2x0e",
        "atomic_energies": energies if len(heads) > 1 else energies[0],
        "avg_num_neighbors": 1.7,
        "atomic_numbers": ELEMENTS,
        "correlation": 2,
        "radial_MLP": [4],
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "gate": "silu",
        "use_reduced_cg": False,
        **choice,
    }
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if key in options:
            options[key] = o3.Irreps(options[key])
    for key in ("interaction_cls_first", "interaction_cls"):
        options[key] = modules.interaction_classes[options[key]]
    if "readout_cls" in options:
        options["readout_cls"] = modules.readout_classes[options["readout_cls"]]
    options["gate"] = modules.gate_dict[options["gate"]]
    if kind == "ScaleShiftMACE":
        several = len(heads) > 1
        options["atomic_inter_scale"] = [3.83, 2.71] if several else 3.83
        options["atomic_inter_shift"] = [-0.19, 0.23] if several else -0.19
    torch.manual_seed(seed)
    model = getattr(modules, kind)(**options)
    with torch.no_grad():
        for parameter in model.parameters():  # biases, norms and the like are not zero and one
            if parameter.requires_grad and parameter.dim() <= 1 and parameter.numel() < 100:
                parameter.add_(0.1 * torch.randn_like(parameter))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    path = HERE / "reference" / f"file_{name}.model.xz"
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    torch.set_default_dtype(torch.float64)
    model.double()
    tensors = {}
    for label, atoms in structures().items():
        for key, value in evaluate(model, atoms, 3.5, heads[-1]).items():
            tensors[f"result/{label}/{key}"] = value.contiguous().clone()
    results = HERE / "reference" / f"file_{name}.safetensors"
    save_file(tensors, results, metadata={"head": heads[-1]})
    return [path, results]


def main() -> int:
    logging.disable(logging.WARNING)
    torch.set_default_dtype(torch.float64)
    total = 0
    for seed, (name, choice) in enumerate(MODELS.items()):
        path = write(name, seed, choice)
        total += path.stat().st_size
        print(f"{path.name:48s} {path.stat().st_size / 1e3:8.1f} kB")
    for seed, (name, choice) in enumerate(MODEL_FILES.items()):
        for path in write_file(name, seed, choice):
            total += path.stat().st_size
            print(f"{path.name:48s} {path.stat().st_size / 1e3:8.1f} kB")
    print(f"{'together':48s} {total / 1e3:8.1f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
