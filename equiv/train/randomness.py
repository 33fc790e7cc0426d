"""The random states of a run, and leaving the caller's as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_tensors() -> dict[str, Tensor]:
    """The states of the generators of torch (every device), numpy and Python as tensors."""
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  (the global state is what is stored here)
    _, words, gauss = random.getstate()
    found = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_rest": torch.tensor(
            [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]],
            dtype=torch.float64,
        ),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def restore_random(tensors: dict[str, Tensor]) -> None:
    """Set all generators to stored states."""
    torch.set_rng_state(tensors["torch"])
    position, has_gauss, gauss = tensors["numpy_rest"].tolist()
    np.random.set_state(  # noqa: NPY002
        (
            "MT19937",
            tensors["numpy"].numpy().astype(np.uint32),
            int(position),
            int(has_gauss),
            gauss,
        )
    )
    kept = tensors["python_gauss"].tolist()
    random.setstate((3, tuple(tensors["python"].tolist()), kept[0] if kept else None))
    for name, state in tensors.items():
        if (
            name.startswith("cuda")
            and torch.cuda.is_available()
            and int(name[4:]) < torch.cuda.device_count()
        ):
            torch.cuda.set_rng_state(state, int(name[4:]))


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed every generator for the length of a run; afterwards the caller's states are back."""
    before = random_tensors()
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        restore_random(before)


@contextmanager
def own_settings(*, threads: int | None, deterministic: bool) -> Iterator[None]:
    """Thread count and determinism of torch for the length of a run; then the caller's again."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
