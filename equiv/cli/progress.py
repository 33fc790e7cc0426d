"""How far a command is and when it will be done, on stderr."""

import sys
import time
from types import TracebackType
from typing import Self


class Progress:
    """A progress bar with the time left on a terminal; elsewhere a line at every tenth of the way.

    Args:
        action: what is being done.
        total: how many there are.
        noun: of what.
    """

    def __init__(self, action: str, total: int, noun: str) -> None:
        self.action, self.total, self.noun = action, total, noun
        self.done = 0
        self._started = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = None if self._bar is None else self._bar.add_task(action, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count `steps` more as done, and show `note` beside them."""
        before, self.done = self.done, self.done + steps
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps, note=note)
            return
        # Short tasks say nothing: their result is there before anybody wonders.
        elapsed = time.monotonic() - self._started
        if elapsed > 5 and 10 * before // self.total < 10 * self.done // self.total:
            left = elapsed / self.done * (self.total - self.done)
            line = f"{self.action} {self.done}/{self.total} {self.noun}, {left:.0f} s left  {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar():
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
