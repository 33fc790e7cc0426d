"""Store what the published PONITA computes: inputs, weights, grids and outputs in float64.

    python tests/position_orientation/make_official_reference.py CHECKOUT

``CHECKOUT`` is a clone of github.com/ebekkers/ponita. Writes ``reference/official.npz`` beside this
file; nothing of it is needed to run the tests.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Batch, Data

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.peers.ponita_official import make_official, prime  # noqa: E402

CASES: list[dict[str, Any]] = [
    *(
        dict(radius=radius, layer_scale=scale, multiple_readouts=multiple, task_level=level)
        for (radius, scale), (multiple, level) in product(
            ((None, None), (4.0, 0.3)), ((True, "graph"), (False, "node"), (True, "node"))
        )
    ),
    dict(radius=4.0, layer_scale=None, multiple_readouts=True, task_level="node", dim=2),
    dict(radius=None, layer_scale=1e-6, multiple_readouts=False, task_level="graph", degree=2),
]


def molecules(dim: int) -> Batch:
    """Two fully connected structures with two scalars and a vector at each atom."""
    graphs = []
    for atoms in (4, 3):
        pairs = [(i, j) for i in range(atoms) for j in range(atoms) if i != j]
        graphs.append(
            Data(
                pos=1.5 * torch.randn(atoms, dim),
                x=torch.randn(atoms, 2),
                vec=torch.randn(atoms, 1, dim),
                edge_index=torch.tensor(pairs).T,
            )
        )
    return Batch.from_data_list(graphs)


def main(checkout: str) -> None:
    torch.set_default_dtype(torch.float64)
    arrays: dict[str, np.ndarray] = {}
    for number, case in enumerate(CASES):
        torch.manual_seed(number)
        case = dict(case)
        dim = case.pop("dim", 3)
        model = make_official(
            checkout,
            input_dim=3,
            hidden_dim=6,
            output_dim=2,
            num_layers=2,
            output_dim_vec=2,
            num_ori=6,
            basis_dim=8,
            widening_factor=2,
            **case,
        )
        batch = molecules(dim)
        prime(model, batch)
        with torch.no_grad():
            for parameter in model.parameters():  # biases and scales too
                parameter.add_(0.1 * torch.randn_like(parameter))
            scalars, vectors = model(batch.clone())
        transform = model.transform.transforms[0]
        points = transform.ori_grid_s1 if dim == 2 else transform.ori_grid_s2
        record = dict(
            points=points,
            positions=batch.pos,
            x=batch.x,
            vec=batch.vec,
            edge_index=batch.edge_index,
            batch=batch.batch,
            scalars=scalars,
            vectors=vectors,
        )
        record |= {f"state/{name}": value for name, value in model.state_dict().items()}
        arrays |= {f"{number}/{name}": value.numpy() for name, value in record.items()}
        radius = case["radius"]
        arrays[f"{number}/radius"] = np.array(-1.0 if radius is None else radius)
        arrays[f"{number}/graph"] = np.array(case["task_level"] == "graph")
    np.savez_compressed(HERE / "reference" / "official.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
