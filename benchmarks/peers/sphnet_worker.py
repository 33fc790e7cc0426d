"""The official SPHNet's side of ``benchmarks/sphnet.py``.

Runs a checkout of the authors' repository as it is, on a CPU. What their code imports and a CPU
environment lacks (torch_scatter, torch_cluster, Lightning) is stood in for by functions that give
the same numbers. Reads one JSON request per line from standard input and answers each with one.

Their flag ``use_sparse_tp`` is inverted: `true` computes all paths of the products, and only
`false` starts the schedule of the gate. The gates of the three variants measured here:

- ``dense``: every path, every pair;
- ``shipped``: their configuration, ``use_sparse_tp: true``: all paths, the pair gate at work;
- ``fixed``: a fixed choice of the share ``1 - k`` of the paths, as their schedule leaves it behind,
  and the pair gate at work: what the paper describes.
"""

import json
import os
import resource
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch_geometric.utils import scatter as _scatter

ANSWERS = os.fdopen(os.dup(1), "w")  # their prints must not mix with the answers
os.dup2(2, 1)

SHORT_RADIUS = 3.0  # of the graph in their data files, Angstrom
BLOCK = 14  # widest block of def2-SVP
SHELLS = {1: "ssp", 6: "sssppd", 7: "sssppd", 8: "sssppd", 9: "sssppd"}
WIDTH = {"s": 1, "p": 3, "d": 5}
START = {"s": 0, "p": 3, "d": 9}
ORDER = {"s": [0], "p": [2, 0, 1], "d": [0, 1, 2, 3, 4]}


def _stand_in(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    module.__path__ = []  # type: ignore[attr-defined]
    sys.modules[name] = module


def _scatter_like(src: Any, index: Any, dim: int = -1, dim_size: Any = None, reduce: str = "sum"):
    return _scatter(src, index, dim=dim, dim_size=dim_size, reduce=reduce)


def _radius_graph(x: Any, r: float, batch: Any = None, loop: bool = False, **_: Any) -> Any:
    batch = torch.zeros(len(x), dtype=torch.long) if batch is None else batch
    near = (torch.cdist(x, x) <= r) & (batch[:, None] == batch[None])
    if not loop:
        near.fill_diagonal_(False)
    receiver, sender = near.nonzero(as_tuple=True)
    return torch.stack([sender, receiver])


def _official(checkout: str) -> tuple[Any, Any]:
    """Their two classes: the body and the pair construction."""
    _stand_in("torch_scatter", scatter=_scatter_like, scatter_add=_scatter_like)
    _stand_in("torch_cluster", radius_graph=_radius_graph)
    _stand_in("turtle", forward=None)
    _stand_in("pytorch_lightning")
    _stand_in("pytorch_lightning.utilities", rank_zero_warn=lambda *_: None)
    sys.path.insert(0, checkout)
    from src.models.SPHNet import Pair_construction_layer, SPHNet

    return SPHNet, Pair_construction_layer


class Batch(dict):
    """Attributes and items are the same, as in their data class."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def _slots(number: int) -> np.ndarray:
    """Where the orbitals of an atom lie in their padded block."""
    places, seen = [], dict(START)
    for shell in SHELLS[number]:
        places.extend(seen[shell] + np.array(ORDER[shell]))
        seen[shell] += WIDTH[shell]
    return np.array(places)


def _collate(numbers: np.ndarray, positions: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """A batch of frames of one molecule, as their data loader makes it."""
    frames, atoms = positions.shape[:2]
    slots = [_slots(int(z)) for z in numbers]
    starts = np.concatenate([[0], np.cumsum([len(s) for s in slots])])
    blocks = np.zeros((frames, atoms, atoms, BLOCK, BLOCK))
    mask = np.zeros_like(blocks)
    for i in range(atoms):
        for j in range(atoms):
            part = target[:, starts[i] : starts[i + 1], starts[j] : starts[j + 1]]
            place = np.ix_(range(frames), [i], [j], slots[i], slots[j])
            blocks[place] = part[:, None, None]
            mask[place] = 1.0
    own = np.eye(atoms, dtype=bool)
    groups = max(atoms // 4, 1)
    labels = np.stack([_groups(frame, groups) for frame in positions])
    single = lambda x: torch.tensor(np.ascontiguousarray(x), dtype=torch.float32)  # noqa: E731
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
        "edge_index": _radius_graph(flat, SHORT_RADIUS, batch),
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


class Session:
    """Their model and a set of Fock matrices."""

    def __init__(self, checkout: str, data: str, variant: str, k: float, threads: int) -> None:
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
        self.parameters = [*self.body.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, betas=(0.99, 0.999))
        with np.load(data) as file:
            self.numbers = file["atomic_numbers"]
            self.positions = file["positions"]
            self.target = file["H"] - file["H_init"]

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
        """A new batch: their forward pass writes into it."""
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

    def step(self, batch: Batch) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        error, mask = self.predict(batch)
        loss = (error.abs().mean() + error.square().mean()) * mask.numel() / mask.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimizer.step()
        return loss.item()

    def error(self, indices: list[int]) -> float:
        """Their mean absolute error over the entries of diagonal blocks and pairs, Eh."""
        total, entries = 0.0, 0.0
        with torch.no_grad():
            for start in range(0, len(indices), 50):
                error, mask = self.predict(self.batch(indices[start : start + 50]))
                total += error.abs().sum().item()
                entries += mask.sum().item()
        return total / entries


def main() -> None:
    session: Session | None = None
    for line in sys.stdin:
        request = json.loads(line)
        action = request.pop("do")
        try:
            if action == "open":
                session = Session(**request)
                answer: dict[str, Any] = {"parameters": sum(p.numel() for p in session.parameters)}
            elif session is None:
                raise RuntimeError("nothing is open")
            elif action == "step":  # milliseconds of `repeats` training steps on one batch
                batches = [session.batch(request["indices"]) for _ in range(request["repeats"])]
                times = []
                for batch in batches:
                    start = time.process_time()
                    session.step(batch)
                    times.append(1e3 * (time.process_time() - start))
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                answer = {"ms": times, "peak_gb": peak}
            elif action == "train":  # for `seconds` of processor time, learning rate falling to 0
                answer = train(session, **request)
            elif action == "error":
                answer = {"h_mae_uEh": 1e6 * session.error(request["indices"])}
            else:
                raise RuntimeError(f"unknown request {action}")
        except Exception as error:  # goes to the other side in words
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=ANSWERS, flush=True)


def train(session: Session, indices: list[int], batch_size: int, seconds: float) -> dict[str, Any]:
    start, steps, generator = time.process_time(), 0, np.random.default_rng(0)
    while (share := (time.process_time() - start) / seconds) < 1:
        for group in session.optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - share) * min(1.0, (steps + 1) / 100)
        chosen = generator.choice(indices, batch_size, replace=False)
        session.step(session.batch(list(chosen)))
        steps += 1
    return {"steps": steps, "seconds": time.process_time() - start}


if __name__ == "__main__":
    main()
