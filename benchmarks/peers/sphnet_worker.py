"""The official SPHNet's side of ``benchmarks/sphnet.py``.

Runs a checkout of the authors' repository as it is, on a CPU (:mod:`hamiltonian_session`).

Their flag ``use_sparse_tp`` is inverted: `true` computes all paths of the products, and only
`false` starts the schedule of the gate. The gates of the three variants measured here:

- ``dense``: every path, every pair;
- ``shipped``: their configuration, ``use_sparse_tp: true``: all paths, the pair gate at work;
- ``fixed``: a fixed choice of the share ``1 - k`` of the paths, as their schedule leaves it behind,
  and the pair gate at work: what the paper describes.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np
import torch
from hamiltonian_session import (
    BLOCK,
    Batch,
    Session,
    padded_blocks,
    radius_graph,
    scatter_like,
    serve,
    single,
    stand_in,
)
from scipy.cluster.vq import kmeans2

SHORT_RADIUS = 3.0  # of the graph in their data files, Angstrom


def _official(checkout: str) -> tuple[Any, Any]:
    """Their two classes: the body and the pair construction."""
    stand_in("torch_scatter", scatter=scatter_like, scatter_add=scatter_like)
    stand_in("torch_cluster", radius_graph=radius_graph)
    stand_in("turtle", forward=None)
    stand_in("pytorch_lightning")
    stand_in("pytorch_lightning.utilities", rank_zero_warn=lambda *_: None)
    sys.path.insert(0, checkout)
    from src.models.SPHNet import Pair_construction_layer, SPHNet

    return SPHNet, Pair_construction_layer


def _collate(numbers: np.ndarray, positions: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """A batch of frames of one molecule, as their data loader makes it."""
    frames, atoms = positions.shape[:2]
    blocks, mask = padded_blocks(numbers, target)
    own = np.eye(atoms, dtype=bool)
    groups = max(atoms // 4, 1)
    labels = np.stack([_groups(frame, groups) for frame in positions])
    batch = torch.arange(frames).repeat_interleave(atoms)
    flat = single(positions.reshape(-1, 3))
    offsets = (np.arange(frames) * groups)[:, None]
    node = np.repeat(np.arange(frames * atoms), groups)
    group = np.concatenate([np.tile(np.arange(groups) + f * groups, atoms) for f in range(frames)])
    return {
        "pos": flat,
        "batch": batch,
        "atomic_numbers": torch.tensor(np.tile(numbers, frames)).long(),
        "molecule_size": torch.full((frames,), atoms, dtype=torch.int32),
        "edge_index": radius_graph(flat, SHORT_RADIUS, batch),
        "labels": torch.tensor((labels + offsets).reshape(-1)).long(),
        "interaction_graph": torch.tensor(np.stack([node, group])).long(),
        "diag_hamiltonian": single(blocks[:, own].reshape(-1, BLOCK, BLOCK)),
        "diag_mask": single(mask[:, own].reshape(-1, BLOCK, BLOCK)),
        "non_diag_hamiltonian": single(blocks[:, ~own].reshape(-1, BLOCK, BLOCK)),
        "non_diag_mask": single(mask[:, ~own].reshape(-1, BLOCK, BLOCK)),
    }


def _groups(positions: np.ndarray, groups: int) -> np.ndarray:
    if groups == 1:
        return np.zeros(len(positions), dtype=int)
    labels = kmeans2(positions, groups, seed=0, minit="++")[1]
    return np.unique(labels, return_inverse=True)[1]


class OfficialSPHNet(Session):
    """Their model and a set of Fock matrices."""

    def __init__(self, checkout: str, data: str, variant: str, k: float, threads: int) -> None:
        super().__init__(data)
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        body, pairs = _official(checkout)
        sparse = variant != "dense"
        folder = Path(checkout) / "no_saved_paths"
        self.body = body(
            order=4, embedding_dimension=128, bottle_hidden_size=32, max_radius=15,
            radius_embed_dim=16, use_equi_norm=True, use_sparse_tp=sparse, sparsity=k,
            short_cutoff_upper=5, long_cutoff_upper=15, num_scale_atom_layers=4,
            num_long_range_layers=4,
        )  # fmt: skip
        self.head = pairs(
            irrep_in_node=self.body.irreps_node_embedding,
            irreps_edge_embedding="+".join(f"32x{l}e" for l in range(5)),
            order=4, pyscf_basis_name="def2-svp", radius_embed_dim=16, max_radius_cutoff=30,
            bottle_hidden_size=32, num_layer=2, use_sparse_tp=True, sparsity=k,
            ckpt_path=str(folder),
        )  # fmt: skip
        if variant == "dense":
            for layer in self.head.e3_gnn_node_pair_layer:
                layer.use_pair_sparse = False
        if variant == "fixed":
            self._fix_paths(k)
        self.ready([*self.body.parameters(), *self.head.parameters()])

    def _fix_paths(self, k: float) -> None:
        """Leave the share ``1 - k`` of the paths, as their schedule does in its last phase."""
        generator = np.random.default_rng(0)
        for layer in [*self.head.e3_gnn_node_pair_layer, *self.head.e3_gnn_node_layer]:
            pairs = hasattr(layer, "tp_node_pair_fix")
            product = layer.tp_node_pair_fix if pairs else layer.tp_fix
            paths = product.instructions
            kept = np.sort(generator.permutation(len(paths))[: round((1 - k) * len(paths))])
            sizes = [int(np.prod(path.path_shape)) for path in paths]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            rows = [i for p in kept for i in range(starts[p], starts[p + 1])]
            chosen = [paths[p] for p in kept]
            if pairs:
                layer.reset_tp(chosen)
                layer.indice = rows
            else:
                layer.reset_tp(chosen, product.weight.data[rows])

    def batch(self, indices: list[int]) -> Batch:
        return Batch(_collate(self.numbers, self.positions[indices], self.target[indices]))

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.head(self.body(batch))
        mask = torch.cat([out["diag_mask"], out["non_diag_mask"]])
        predicted = torch.cat(
            [
                out["pred_hamiltonian_diagonal_blocks"],
                out["pred_hamiltonian_non_diagonal_blocks"],
            ]
        )
        target = torch.cat([out["diag_hamiltonian"], out["non_diag_hamiltonian"]])
        return (predicted - target) * mask, mask


if __name__ == "__main__":
    serve(OfficialSPHNet)
