"""Take a part of the training set away to validate with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from equiv.errors import DataError
from equiv.train.task import Split


def held_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Training and validation set: a random part, which depends on size and seed alone.

    Raises:
        DataError: there are too few samples to hold one out.
    """
    count = len(split.samples)
    taken = round(fraction * count)
    if not 0 < taken < count:
        raise DataError(
            f"data.valid_fraction = {fraction:g} of {count} samples leaves nothing to train on or "
            "to validate with; give data.valid, or another fraction"
        )
    order = np.random.default_rng(seed).permutation(count)
    valid, train = sorted(order[:taken].tolist()), sorted(order[taken:].tolist())
    return _part(split, train, "train", seed), _part(split, valid, "valid", seed)


def _part(split: Split, indices: Sequence[int], name: str, seed: int) -> Split:
    def chosen(values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in indices]

    return Split(
        name=name,
        samples=chosen(split.samples),
        names=chosen(split.names),
        groups=chosen(split.groups),
        fingerprint=f"{split.fingerprint}/{name}{len(indices)}/{seed}",
    )
