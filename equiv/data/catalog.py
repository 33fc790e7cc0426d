"""Data sets that come with the source tree."""

from pathlib import Path

from equiv.errors import DataError


def shipped(name: str) -> Path:
    """The folder of a data set in ``data/`` of the source tree.

    Raises:
        DataError: there is none of this name, or the package was installed without its source tree.
    """
    root = Path(__file__).resolve().parents[2] / "data"
    if not root.is_dir():
        raise DataError(
            "the shipped data sets are part of the source tree, not of the installed package; "
            "clone the repository, and install it with `pip install -e .` or give the path of the "
            "file"
        )
    names = sorted(entry.name for entry in root.iterdir() if (entry / "README.md").is_file())
    if name not in names:
        raise DataError(f"no data set {name!r} is shipped; there are {', '.join(names) or 'none'}")
    return root / name
