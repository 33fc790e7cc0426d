"""What the workers of ``benchmarks/sphnet.py`` have in common: padded blocks, steps, requests.

What the authors' code imports and a CPU environment lacks (torch_scatter, torch_cluster) is stood
in for by functions that give the same numbers.
"""

import json
import os
import resource
import sys
import time
import types
from typing import Any

import numpy as np
import torch
from torch_geometric.utils import scatter as _scatter

ANSWERS = os.fdopen(os.dup(1), "w")  # their prints must not mix with the answers
os.dup2(2, 1)

BLOCK = 14  # widest block of def2-SVP
SHELLS = {1: "ssp", 6: "sssppd", 7: "sssppd", 8: "sssppd", 9: "sssppd"}
WIDTH = {"s": 1, "p": 3, "d": 5}
START = {"s": 0, "p": 3, "d": 9}
ORDER = {"s": [0], "p": [2, 0, 1], "d": [0, 1, 2, 3, 4]}


def stand_in(name: str, **contents: Any) -> None:
    """A module of this name."""
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    module.__path__ = []  # type: ignore[attr-defined]
    sys.modules[name] = module


def scatter_like(src: Any, index: Any, dim: int = -1, dim_size: Any = None, reduce: str = "sum"):
    """torch_scatter.scatter."""
    return _scatter(src, index, dim=dim, dim_size=dim_size, reduce=reduce)


def radius_graph(x: Any, r: float, batch: Any = None, loop: bool = False, **_: Any) -> Any:
    """torch_cluster.radius_graph, without its limit of 32 neighbours."""
    batch = torch.zeros(len(x), dtype=torch.long) if batch is None else batch
    near = (torch.cdist(x, x) <= r) & (batch[:, None] == batch[None])
    if not loop:
        near.fill_diagonal_(False)
    receiver, sender = near.nonzero(as_tuple=True)
    return torch.stack([sender, receiver])


class Batch(dict):
    """Attributes and items are the same, as in their data classes."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def padded_blocks(numbers: np.ndarray, matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks ``[frame, atom, atom, 14, 14]`` in the order of e3nn, and which entries are there."""
    frames, atoms = len(matrices), len(numbers)
    slots = [_slots(int(z)) for z in numbers]
    starts = np.concatenate([[0], np.cumsum([len(s) for s in slots])])
    blocks = np.zeros((frames, atoms, atoms, BLOCK, BLOCK))
    mask = np.zeros_like(blocks)
    for i in range(atoms):
        for j in range(atoms):
            part = matrices[:, starts[i] : starts[i + 1], starts[j] : starts[j + 1]]
            place = np.ix_(range(frames), [i], [j], slots[i], slots[j])
            blocks[place] = part[:, None, None]
            mask[place] = 1.0
    return blocks, mask


def _slots(number: int) -> np.ndarray:
    """Where the orbitals of an atom lie in their padded block."""
    places, seen = [], dict(START)
    for shell in SHELLS[number]:
        places.extend(seen[shell] + np.array(ORDER[shell]))
        seen[shell] += WIDTH[shell]
    return np.array(places)


def single(x: np.ndarray) -> torch.Tensor:
    """In single precision, as they compute."""
    return torch.tensor(np.ascontiguousarray(x), dtype=torch.float32)


class Session:
    """A model and a set of Fock matrices; subclasses make the model, batches and predictions."""

    clip = 5.0
    learning_rate = 1e-3

    def __init__(self, data: str) -> None:
        with np.load(data) as file:
            self.numbers = file["atomic_numbers"]
            self.positions = file["positions"]
            self.target = file["H"] - file["H_init"]

    def ready(self, parameters: list[torch.nn.Parameter]) -> None:
        """Take the parameters to train."""
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, betas=(0.99, 0.999))

    def batch(self, indices: list[int]) -> Batch:
        """A new batch: their forward passes write into it."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Errors of all blocks, and which entries are there."""
        raise NotImplementedError

    def step(self, batch: Batch) -> float:
        """Forward, their loss, backward, AdamW."""
        self.optimizer.zero_grad(set_to_none=True)
        error, mask = self.predict(batch)
        loss = (error.abs().mean() + error.square().mean()) * mask.numel() / mask.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        return loss.item()

    def error(self, indices: list[int]) -> float:
        """Mean absolute error over all entries of the blocks that they predict, Eh."""
        total, entries = 0.0, 0.0
        with torch.no_grad():
            for start in range(0, len(indices), 50):
                error, mask = self.predict(self.batch(indices[start : start + 50]))
                total += error.abs().sum().item()
                entries += mask.sum().item()
        return total / entries

    def train(self, indices: list[int], batch_size: int, seconds: float) -> dict[str, Any]:
        """For so many seconds of processor time; the learning rate falls to 0."""
        start, steps, generator = time.process_time(), 0, np.random.default_rng(0)
        while (share := (time.process_time() - start) / seconds) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * (1 - share) * min(1.0, (steps + 1) / 100)
            chosen = generator.choice(indices, batch_size, replace=False)
            self.step(self.batch(list(chosen)))
            steps += 1
        return {"steps": steps, "seconds": time.process_time() - start}

    def times(self, indices: list[int], repeats: int) -> dict[str, Any]:
        """Milliseconds of training steps on one batch."""
        found = []
        for batch in [self.batch(indices) for _ in range(repeats)]:
            start = time.process_time()
            self.step(batch)
            found.append(1e3 * (time.process_time() - start))
        return {"ms": found, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def serve(kind: type[Session]) -> None:
    """Read one JSON request per line from standard input and answer each with one."""
    session: Session | None = None
    for line in sys.stdin:
        request = json.loads(line)
        action = request.pop("do")
        try:
            if action == "open":
                session = kind(**request)
                answer: dict[str, Any] = {"parameters": sum(p.numel() for p in session.parameters)}
            elif session is None:
                raise RuntimeError("nothing is open")
            elif action == "step":
                answer = session.times(**request)
            elif action == "train":
                answer = session.train(**request)
            elif action == "error":
                answer = {"h_mae_uEh": 1e6 * session.error(request["indices"])}
            else:
                raise RuntimeError(f"unknown request {action}")
        except Exception as error:  # goes to the other side in words
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=ANSWERS, flush=True)
