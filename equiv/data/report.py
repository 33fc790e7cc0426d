"""What a check found: one finding per kind of trouble, with the structures concerned."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}
SHOWN = 8  # ranges of structure numbers named in a message


class Located(Protocol):
    """Anything that knows its file and its number in it."""

    source: str
    index: int


@dataclass(frozen=True)
class Finding:
    """One kind of trouble and where it is.

    Attributes:
        severity: `error` (cannot be trained on), `warning` (probably wrong) or `note` (worth
            knowing).
        kind: short name, the same whenever this kind is found.
        message: what was found and what to do about it.
        places: file and number of every structure concerned; empty if it concerns all.
    """

    severity: Severity
    kind: str
    message: str
    places: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        where = describe_places(self.places)
        return self.message + (f" [{where}]" if where else "")


def find(severity: Severity, kind: str, message: str, frames: Iterable[Located] = ()) -> Finding:
    """A finding about these frames."""
    places = tuple((frame.source, frame.index) for frame in frames)
    return Finding(severity, kind, message, places)


@dataclass
class CheckReport:
    """All findings of a check, errors first."""

    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.findings = sorted(self.findings, key=lambda f: SEVERITIES.index(f.severity))

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def errors(self) -> list[Finding]:
        """What keeps the data from being used."""
        return self.of("error")

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def __add__(self, other: "CheckReport") -> "CheckReport":
        return CheckReport(self.findings + other.findings)

    def __str__(self) -> str:
        if not self.findings:
            return "nothing to complain about"
        return "\n".join(f"{finding.severity}: {finding}" for finding in self.findings)

    def __rich__(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        if not self.findings:
            return Text("  nothing to complain about", style="green")
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in self.findings:
            text = Text(finding.message)
            where = describe_places(finding.places)
            if where:
                text.append(f"\n{where}", style="dim")
            table.add_row(Text(finding.severity, style=_STYLE[finding.severity]), text)
        return table

    def to_list(self) -> list[dict[str, Any]]:
        """The findings for JSON."""
        return [
            {
                "severity": finding.severity,
                "kind": finding.kind,
                "message": finding.message,
                "structures": [{"file": file, "index": index} for file, index in finding.places],
            }
            for finding in self.findings
        ]


def describe_places(places: Sequence[tuple[str, int]]) -> str:
    """File names with structure numbers, neighbours joined: `train.xyz: 0, 4-7, 12 and 30 more`."""
    by_file: dict[str, list[int]] = {}
    for source, index in places:
        by_file.setdefault(source, []).append(index)
    names = short_names(by_file)
    parts, budget = [], SHOWN
    hidden = 0
    for source, indices in by_file.items():
        ranges = _ranges(sorted(set(indices)))
        shown, rest = ranges[: max(budget, 0)], ranges[max(budget, 0) :]
        budget -= len(shown)
        hidden += sum(last - first + 1 for first, last in rest)
        if shown:
            numbers = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in shown)
            parts.append(f"{names[source]}: {numbers}")
    return "; ".join(parts) + (f" and {hidden} more" if hidden else "")


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """File names without their folders, unless two files share a name."""
    sources = list(sources)
    names = [Path(source).name for source in sources]
    return {s: s if names.count(n) > 1 else n for s, n in zip(sources, names, strict=True)}


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
