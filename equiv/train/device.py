"""Where training runs."""

import torch

from equiv.errors import EquivError


def choose_device(name: str) -> torch.device:
    """The device of a recipe; `auto` is the first GPU if there is one.

    Raises:
        EquivError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device that computes, unlike `meta`
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EquivError(f"train.device = {name!r} cannot be used here: {reason}") from error
    return device
