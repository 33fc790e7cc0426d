"""The log of a run: `log.csv` for spreadsheets, `log.jsonl` for programs, a row per epoch."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class RunLog:
    """Append rows to both files, and cut off what a resumed run is going to do again.

    A checkpoint remembers how long the files were when it was written. Rows behind that point
    describe epochs that the resumed run repeats, so they are removed before it starts: no epoch
    stands twice.

    Args:
        folder: the folder of the run.
        columns: the columns of the CSV file.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.csv_path, self.jsonl_path = folder / "log.csv", folder / "log.jsonl"
        self.columns = list(columns)

    def row(self, values: dict[str, Any]) -> None:
        """Write one epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n", extrasaction="ignore")
        if not self.csv_path.exists() or self.csv_path.stat().st_size == 0:
            writer.writeheader()
        writer.writerow({key: _number(values.get(key)) for key in self.columns})
        _append(self.csv_path, text.getvalue())
        self.event("epoch", values)

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Write one line of JSON; numbers that are not finite become null."""
        clean = {
            key: None if isinstance(v, float) and not math.isfinite(v) else v
            for key, v in values.items()
        }
        _append(self.jsonl_path, json.dumps({"event": kind, **clean}) + "\n")

    def lengths(self) -> list[int]:
        """Bytes in the two files."""
        return [
            path.stat().st_size if path.exists() else 0 for path in (self.csv_path, self.jsonl_path)
        ]

    def cut(self, lengths: Sequence[int]) -> None:
        """Shorten the files to the lengths a checkpoint remembers."""
        for path, length in zip((self.csv_path, self.jsonl_path), lengths, strict=True):
            if path.exists() and path.stat().st_size > length:
                with open(path, "rb+") as file:
                    file.truncate(length)

    def rows(self) -> list[dict[str, float | None]]:
        """All epochs so far, as numbers."""
        if not self.csv_path.exists():
            return []
        with open(self.csv_path, newline="", encoding="utf-8") as file:
            return [
                {key: float(text) if text else None for key, text in row.items()}
                for row in csv.DictReader(file)
            ]


def _number(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else value


def _append(path: Path, text: str) -> None:
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(text)
