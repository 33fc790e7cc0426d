"""The notebooks run, and are stored with the outputs of the code they show."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))

specification = importlib.util.spec_from_file_location("execute", NOTEBOOKS / "execute.py")
assert specification is not None
assert specification.loader is not None
execute = importlib.util.module_from_spec(specification)
specification.loader.exec_module(execute)

notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def outputs(content: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(output: nbformat.NotebookNode) -> str:
    return str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))


def pictures(content: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(content))


def test_all_notebooks_are_there():
    assert [path.name for path in PATHS] == [
        "01-first-potential.ipynb",
        "02-your-own-data.ipynb",
        "03-tensor-products.ipynb",
        "04-position-orientation.ipynb",
        "05-hamiltonians.ipynb",
        "06-long-range.ipynb",
    ]


@notebook
def test_outputs_are_stored_and_belong_to_the_code(path):
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    assert content.metadata["fingerprint"] == execute.fingerprint(content), (
        f"the code of {path.name} changed after it was run: python notebooks/execute.py {path.name}"
    )
    counts = [cell.execution_count for cell in content.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert pictures(content) >= 4
    assert path.stat().st_size < 1_500_000


@notebook
def test_stored_outputs_hold_no_warnings_and_no_paths_of_a_machine(path):
    for output in outputs(nbformat.read(path, as_version=4)):
        assert output.output_type in ("stream", "display_data", "execute_result")
        assert output.get("name") != "stderr", output.text
        text = text_of(output)
        assert not re.search(r"Traceback|\w+Warning\b", text), text
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|usr|opt|var|mnt)\b", text), text


@notebook
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    fresh = execute.execute(path, tmp_path / "equiv")
    stored = nbformat.read(path, as_version=4)
    assert pictures(fresh) == pictures(stored)
    assert not [output for output in outputs(fresh) if output.get("name") == "stderr"]
