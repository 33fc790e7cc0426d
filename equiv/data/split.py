"""Which structures are held out: decided by content, so no place changes when data are added."""

import hashlib

from equiv.data.dataset import Dataset, Frame
from equiv.errors import DataError


def split_frames(
    dataset: Dataset, valid_fraction: float, *, seed: int, group_key: str | None = None
) -> tuple[Dataset, Dataset]:
    r"""Split into a part to train on and a part held out.

    .. math::
        s \text{ is held out} \iff \mathrm{hash}(\mathrm{seed}, s) / 2^{256} < f

    The hash sees the structure, not its labels, number or file. So the split is the same for the
    same data in any order, appended data leave all earlier structures where they were, and equal
    structures stay together. The held-out share is :math:`f` up to chance (for 500 structures and
    10 %: 50 ± 7). If chance would leave one part empty, the structure (or group) nearest to the
    border changes sides.

    Args:
        dataset: what to split; keep free atoms out of it.
        valid_fraction: :math:`f`, between 0 and 1; 0 holds nothing out.
        seed: another seed, another split.
        group_key: ``info`` key; structures with the same value (a trajectory, say) stay together.

    Returns:
        The training and the validation part, each in the order of the data.

    Raises:
        DataError: the fraction is out of range, there are too few structures or groups to split, or
            the key is missing in some structures.
    """
    if not 0 <= valid_fraction < 1:
        raise DataError(f"valid_fraction should be at least 0 and below 1, got {valid_fraction}")
    if valid_fraction == 0:
        return dataset, dataset.subset([])
    names = [_name(frame, group_key) for frame in dataset]
    place = {name: _place(name, seed) for name in names}
    if len(place) < 2:
        what = "structure" if group_key is None else f"group ({group_key})"
        raise DataError(
            f"cannot hold structures out: all {len(dataset)} belong to {len(place)} distinct "
            f"{what}; give validation files instead"
        )
    held_out = {name for name, where in place.items() if where < valid_fraction}
    if not held_out:
        held_out = {min(place, key=lambda name: place[name])}
    elif len(held_out) == len(place):
        held_out.remove(max(place, key=lambda name: place[name]))
    valid = [i for i, name in enumerate(names) if name in held_out]
    train = [i for i, name in enumerate(names) if name not in held_out]
    return dataset.subset(train), dataset.subset(valid)


def _name(frame: Frame, group_key: str | None) -> str:
    if group_key is None:
        return frame.structure_digest()
    if group_key not in frame.atoms.info:
        raise DataError(
            f"group_key: {frame.where} has no {group_key!r} in its info, so its group is unknown"
        )
    return str(frame.atoms.info[group_key])


def _place(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the name and the seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
