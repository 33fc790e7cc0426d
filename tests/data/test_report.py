import json

import pytest
from rich.console import Console

from equiv.data import CheckReport, Finding
from equiv.data.report import describe_places, find


def test_places_are_grouped_by_file_and_joined():
    places = [("x/a.xyz", k) for k in (0, 4, 5, 6, 12)] + [("x/b.xyz", 3)]
    assert describe_places(places) == "a.xyz: 0, 4-6, 12; b.xyz: 3"


def test_files_of_the_same_name_keep_their_folders():
    assert describe_places([("x/a.xyz", 1), ("y/a.xyz", 2)]) == "x/a.xyz: 1; y/a.xyz: 2"


def test_many_places_are_counted():
    places = [("a.xyz", 2 * k) for k in range(20)]
    assert describe_places(places) == "a.xyz: 0, 2, 4, 6, 8, 10, 12, 14 and 12 more"
    assert describe_places([]) == ""


def test_errors_come_first_and_decide():
    report = CheckReport(
        [find("note", "n", "note"), find("error", "e", "bad"), find("warning", "w", "hm")]
    )
    assert [f.kind for f in report.findings] == ["e", "w", "n"]
    assert not report.ok
    assert CheckReport(report.of("note")).ok
    assert str(report).splitlines()[0] == "error: bad"
    assert (CheckReport(report.of("note")) + CheckReport(report.errors)).findings[0].kind == "e"


@pytest.mark.parametrize(
    "findings", [[], [Finding("error", "e", "bad [brackets]", (("a.xyz", 3),))]]
)
def test_reports_are_shown_and_written(findings):
    report = CheckReport(findings)
    console = Console(width=80)
    with console.capture() as captured:
        console.print(report)
    text = captured.get()
    assert ("bad [brackets]" in text) == bool(findings)
    assert ("nothing to complain about" in text) != bool(findings)
    assert len(json.loads(json.dumps(report.to_list()))) == len(findings)
