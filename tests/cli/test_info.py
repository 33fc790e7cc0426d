"""`equiv info`."""

import json


def test_the_card_is_shown(folder, equiv):
    code, output, errors = equiv("info", "model.safetensors")
    assert (code, errors) == (0, "")
    for words in ("mace", "H O Si", "3.5 Angstrom", "Si -290", "licence", "MIT", "a  ", "1.5"):
        assert words in output
    assert "checksums match" not in output


def test_json_holds_the_header(folder, equiv, model):
    code, output, _ = equiv("info", "model.safetensors", "--json", "--verify")
    facts = json.loads(output)
    assert code == 0
    assert facts["elements"] == ["H", "O", "Si"]
    assert facts["recipe"] == model.recipe
    assert facts["card"] == {"licence": "MIT", "errors": {"a": 1.5}}
    assert facts["verified"] is True
    assert len(facts["sha256"]) == 64


def test_verify_finds_what_a_look_at_the_header_does_not(folder, equiv, refused):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert equiv("info", path)[0] == 0
    assert "do not match their sha256" in refused("info", path, "--verify")
