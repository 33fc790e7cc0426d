"""Being told to stop: finish the step, save, and go."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
]


class Interruption:
    """Whether somebody asked the run to stop, and how."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the first signal instead of dying of it; the second has its usual effect, at once.

        Outside the main thread Python delivers no signals, and nothing is watched.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number: int, frame: FrameType | None) -> None:
            self.name = signal.Signals(number).name
            for other in SIGNALS:
                signal.signal(other, before[other] if before[other] is not None else signal.SIG_DFL)

        for number in SIGNALS:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
