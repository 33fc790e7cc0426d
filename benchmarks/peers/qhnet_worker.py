"""The authors' QHNet's side of ``benchmarks/sphnet.py``.

Runs a checkout of github.com/divelab/AIRS as it is, on a CPU (:mod:`hamiltonian_session`): the
class ``QHNet`` of ``OpenDFT/QHNet/models/QHNet.py``, which its readme calls the one to build on,
with their loss and optimizer. It learns differences to `minao`, as the others here do.
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

BOHR = 0.529177210903  # Angstrom


def _official(checkout: str) -> Any:
    """Their class."""
    stand_in("torch_scatter", scatter=scatter_like)
    stand_in("torch_cluster", radius_graph=radius_graph)
    sys.path.insert(0, str(Path(checkout) / "OpenDFT" / "QHNet"))
    from models.QHNet import QHNet

    return QHNet


class OfficialQHNet(Session):
    """Their model and a set of Fock matrices."""

    clip = 1.0

    def __init__(self, checkout: str, data: str, width: int, threads: int) -> None:
        super().__init__(data)
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.model = _official(checkout)(
            in_node_features=1, sh_lmax=4, hidden_size=width, bottle_hidden_size=min(width, 32),
            num_gnn_layers=5, max_radius=15, num_nodes=10, radius_embed_dim=16,
        )  # fmt: skip
        self.model.set("cpu")
        self.ready(list(self.model.parameters()))

    def batch(self, indices: list[int]) -> Batch:
        atoms, frames = len(self.numbers), len(indices)
        blocks, mask = padded_blocks(self.numbers, self.target[indices])
        # Their pairs are ordered by the second atom; rows of a block belong to the first.
        second, first = np.nonzero(~np.eye(atoms, dtype=bool))
        own = np.arange(atoms)

        def parts(x: np.ndarray) -> torch.Tensor:
            diagonal, pairs = x[:, own, own], x[:, first, second]
            both = (diagonal.reshape(-1, BLOCK, BLOCK), pairs.reshape(-1, BLOCK, BLOCK))
            return single(np.concatenate(both))

        return Batch(
            pos=single(self.positions[indices].reshape(-1, 3) / BOHR),
            atoms=torch.tensor(np.tile(self.numbers, frames)).long()[:, None],
            batch=torch.arange(frames).repeat_interleave(atoms),
            ptr=torch.arange(frames + 1) * atoms,
            target=parts(blocks),
            mask=parts(mask),
        )

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(batch, keep_blocks=True)
        keys = ("hamiltonian_diagonal_blocks", "hamiltonian_non_diagonal_blocks")
        predicted = torch.cat([found[key] for key in keys])
        return (predicted - batch["target"]) * batch["mask"], batch["mask"]


if __name__ == "__main__":
    serve(OfficialQHNet)
