"""Another package, running in a virtual environment of its own, as an object that answers."""

import json
import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).parents[2] / "build" / "peers"


class PeerError(RuntimeError):
    """The other package could not do what it was asked for."""


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment with these packages, made now if there is none.

    Args:
        name: of the environment's folder.
        requirements: what pip installs, one call after the other.
    """
    place = ENVIRONMENTS / name
    python = place / "bin" / "python"
    done = place / "installed"
    if not done.exists():
        print(f"installing {', '.join(requirements)} in {place} (once, a few minutes)", flush=True)
        venv.create(place, with_pip=True, clear=True)
        for requirement in requirements:
            subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
        done.touch()
    return python


class Peer:
    """A worker process that answers one JSON line to each JSON line."""

    def __init__(self, python: Path | str, script: Path, threads: int) -> None:
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**_inherited(), **environment},
        )

    def ask(self, action: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            PeerError: the worker reports an error or has ended.
        """
        if self.process.stdin is None or self.process.stdout is None:
            raise PeerError("the worker has no pipes")
        print(json.dumps({"do": action, **request}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"the worker ended with exit code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _inherited() -> dict[str, str]:
    # A PYTHONPATH or a virtual environment of ours would leak packages into theirs.
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
