"""`equiv doctor`."""

import json
from importlib import metadata

import pytest

from equiv.cli import doctor


def test_the_report_can_be_pasted_and_read_by_programs(equiv):
    code, output, _ = equiv("doctor")
    assert code == 0
    assert "ase plug-in        registered" in output
    code, output, _ = equiv("doctor", "--json")
    facts = json.loads(output)
    assert code == 0
    assert facts["required"]["torch"] == metadata.version("torch")
    assert facts["torch"]["devices"].startswith("cpu")
    assert int(facts["torch"]["threads"]) >= 1


@pytest.mark.parametrize(
    ("package", "module", "expected"),
    [("no-such-package", "torch", "MISSING"), ("torch", "no_such_module", "BROKEN")],
)
def test_a_broken_installation_is_reported_and_fails(equiv, monkeypatch, package, module, expected):
    monkeypatch.setattr(doctor, "REQUIRED", {package: module})
    code, output, _ = equiv("doctor")
    assert code == 1
    assert expected in output
    assert "reinstall equiv" in output


def test_a_probe_that_fails_is_reported_and_hides_nothing(equiv, monkeypatch):
    def fail():
        raise RuntimeError("no driver")

    monkeypatch.setattr(doctor, "_devices", fail)
    code, output, _ = equiv("doctor")
    assert code == 0
    assert "unknown (RuntimeError: no driver)" in output
