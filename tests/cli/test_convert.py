"""`equiv convert`."""

import json
import lzma
import sys
from pathlib import Path

import pytest

from equiv.models.file import load_model

REFERENCE = Path(__file__).parents[1] / "integrations" / "reference"


@pytest.fixture
def source(folder):
    raw = lzma.decompress((REFERENCE / "file_density.model.xz").read_bytes())
    (folder / "density.model").write_bytes(raw)
    return folder / "density.model"


def test_a_model_is_converted_and_described(source, equiv):
    code, output, errors = equiv("convert", source.name, "-o", "out.safetensors", "--trust")
    assert (code, errors) == (0, "")
    for words in (
        "density.model is a pickle; it is read as data here, and nothing in it is run",
        "ScaleShiftMACE with 3x0e+3x1o, 2 layers, RealAgnosticDensityResidualInteractionBlock",
        "H C O; cutoff 3.5 Angstrom; radial_type=gaussian, distance_transform=Agnesi",
        "coupling tensors fit to",
        "wrote  out.safetensors",
        "--mace-python",
    ):
        assert words in output
    assert load_model("out.safetensors").elements == (1, 6, 8)
    code, output, _ = equiv("info", "out.safetensors", "--json")
    card = json.loads(output)["card"]
    assert card["converted_from"]["file"] == "density.model"
    assert len(card["converted_from"]["sha256"]) == 64


def test_the_precision_can_be_chosen(source, equiv):
    arguments = ("convert", source.name, "-o", "out.safetensors", "--trust", "--dtype", "float32")
    assert equiv(*arguments)[0] == 0
    assert str(load_model("out.safetensors").dtype) == "torch.float32"


def test_elements_can_be_left_out(source, equiv, refused):
    arguments = ("convert", source.name, "-o", "out.safetensors", "--trust", "--elements", "O", "H")
    assert equiv(*arguments)[0] == 0
    assert load_model("out.safetensors").elements == (1, 8)
    assert "got Si" in refused(
        "convert", source.name, "-o", "b.safetensors", "--trust", "--elements", "Si"
    )


def test_without_consent_nothing_is_read(source, equiv, refused, monkeypatch):
    assert "--trust" in refused("convert", source.name, "-o", "out.safetensors")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert "not read" in refused("convert", source.name, "-o", "out.safetensors")
    assert not Path("out.safetensors").exists()
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    assert equiv("convert", source.name, "-o", "out.safetensors")[0] == 0


def test_what_cannot_be_done_is_refused_in_one_line(source, refused):
    base = ("convert", source.name, "--trust", "-o")
    assert "ending in .safetensors" in refused(*base, "out.model")
    assert "model.safetensors exists; replace it with --overwrite" in refused(
        *base, "model.safetensors"
    )
    assert "no such file" in refused("convert", "none.model", "-o", "out.safetensors")
    assert "no head 'x'" in refused(*base, "out.safetensors", "--head", "x")
    assert "--mace-python" in refused(*base, "out.safetensors", "--compare", "water.xyz")
    assert "cannot be run" in refused(
        *base, "out.safetensors", "--compare", "water.xyz", "--mace-python", "no/python"
    )
    assert "never unpickles" in refused("info", source.name)
    assert not Path("out.safetensors").exists()


def fake_mace(folder, energies, forces):
    """A stand-in for a Python with mace-torch: it answers every structure with the same numbers."""
    script = folder / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys, numpy as np\n"
        "given, found = np.load(sys.argv[-2]), sys.argv[-1]\n"
        f"counts = given['counts']\n"
        f"np.savez(found, energies=np.full(len(counts), {energies!r}),\n"
        f"         forces=np.full((counts.sum(), 3), {forces!r}),\n"
        "         stresses=np.zeros((len(counts), 3, 3)))\n"
    )
    script.chmod(0o755)
    return script


def test_a_model_with_other_numbers_is_not_written(source, folder, refused):
    words = refused(
        *("convert", source.name, "--trust", "-o", "out.safetensors"),
        *("--compare", "water.xyz", "--mace-python", fake_mace(folder, -1.0, 0.0)),
    )
    assert "disagree by more than rounding; nothing was written" in words
    assert not Path("out.safetensors").exists()


def test_a_program_that_fails_is_quoted(source, folder, refused):
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\nraise RuntimeError('no mace here')\n")
    script.chmod(0o755)
    words = refused(
        *("convert", source.name, "--trust", "-o", "out.safetensors"),
        *("--compare", "water.xyz", "--mace-python", script),
    )
    assert "mace-torch failed" in words
    assert "no mace here" in words
