"""Execute notebooks and store them with their outputs.

python notebooks/execute.py [NOTEBOOK ...]

Runs each in a fresh folder beside copies of the data, so that no earlier run can answer for the
code, and writes a fingerprint of the cells into the notebook: outputs that no longer belong to the
code are found by a test.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
TIMEOUT = 900  # seconds per cell; a cell takes about a minute on two free cores


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Return a hash of all code cells."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs with consecutive pieces of printed text put together."""
    result: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = result[-1] if result else None
        if last is not None and output.get("name") and output.get("name") == last.get("name"):
            last.text += output.text
        else:
            result.append(output)
    return result


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a copy of the repository's layout; return it with outputs."""
    (folder / "notebooks").mkdir(parents=True)
    for name in ("data", "models"):
        shutil.copytree(HERE.parent / name, folder / name)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder / "notebooks")}},
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, different in every run
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["fingerprint"] = fingerprint(notebook)
    return notebook


def main(paths: list[Path]) -> None:
    """Execute the given notebooks, or all."""
    for path in paths or sorted(HERE.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder) / "equiv")
        nbformat.write(notebook, path)
        print(path.name, f"{path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
