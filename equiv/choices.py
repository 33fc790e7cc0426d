"""Choosing by name, with an error that helps when the name is wrong."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

from equiv.errors import EquivError

T = TypeVar("T")


def choose(choices: Mapping[str, T], name: str, what: str) -> T:
    """The entry of ``choices`` called ``name``.

    Raises:
        EquivError: there is none; the message lists all and suggests the nearest. ``what`` names
        the argument.
    """
    if name in choices:
        return choices[name]
    nearest = get_close_matches(str(name), choices, n=1)
    hint = f" - did you mean {nearest[0]!r}?" if nearest else ""
    raise EquivError(f"{what}: expected one of {', '.join(map(repr, choices))}, got {name!r}{hint}")
