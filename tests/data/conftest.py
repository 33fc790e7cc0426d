from collections.abc import Callable
from pathlib import Path

import pytest
from ase.io import write


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """Writes structures to a file of this name in a folder of its own."""

    def write_file(name: str, structures) -> Path:
        write(tmp_path / name, structures)
        return tmp_path / name

    return write_file
