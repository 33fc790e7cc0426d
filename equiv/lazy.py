"""Packages whose public names are imported when they are first used."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, names: Sequence[str], home: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of such a package.

    Args:
        package: its name.
        names: all that is public, for ``dir`` and for the error about anything else.
        home: the module that each of the lazy names is in.
    """

    def attribute(name: str) -> Any:
        if name not in home:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it offers {', '.join(names)}"
            )
        return getattr(import_module(home[name]), name)

    return attribute, lambda: sorted(names)
