"""Several reference calculations at once, each in a process of one thread."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from equiv.errors import DataError, EquivError
from equiv.hamiltonian import OrbitalBasis, Theory
from equiv.integrations.pyscf_labels import label

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What numerical libraries ask for their number of threads when they are loaded."""


@dataclass(frozen=True)
class Calculation:
    """One geometry and what is to be computed of it; see :func:`label`."""

    index: int
    numbers: np.ndarray
    positions: np.ndarray
    basis: OrbitalBasis
    theory: Theory
    charge: int
    baselines: tuple[str, ...]
    forces: bool


@dataclass(frozen=True)
class Outcome:
    """What a calculation gave.

    Attributes:
        index: of the geometry.
        arrays: by name; None if the calculation did not converge.
        seconds: of processor time.
    """

    index: int
    arrays: dict[str, np.ndarray] | None
    seconds: float


def outcomes(
    calculations: Sequence[Calculation], workers: int, stop: Callable[[], bool]
) -> Iterator[Outcome]:
    """Results as they come: with one worker in this process and in order.

    Every number of workers gives the same bits.

    Args:
        calculations: what is to be computed.
        workers: processes.
        stop: asked after every result; what is running then is finished, nothing else is begun.

    Raises:
        EquivError: a process died.
    """
    workers = min(workers, len(calculations))
    if workers <= 1:
        for calculation in calculations:
            yield compute(calculation)
            if stop():
                return
        return
    waiting = iter(calculations)
    with _libraries_of_one_thread(), _pool(workers) as pool:
        with _without_ctrl_c():
            running = {pool.submit(compute, next(waiting)) for _ in range(workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    yield future.result()
                except BrokenProcessPool as error:
                    if stop():  # the signal went to the workers too
                        return
                    raise EquivError(
                        "a worker process died, perhaps for want of memory; what is finished is "
                        "kept, and the same call with fewer workers goes on from there"
                    ) from error
            if not stop():
                more = islice(waiting, workers - len(running))
                running |= {pool.submit(compute, calculation) for calculation in more}


def compute(calculation: Calculation) -> Outcome:
    """One calculation, here and now."""
    started = time.process_time()
    try:
        found = label(
            torch.from_numpy(calculation.numbers.astype(np.int64)),
            torch.from_numpy(calculation.positions),
            calculation.basis,
            calculation.theory,
            charge=calculation.charge,
            baselines=calculation.baselines,
            forces=calculation.forces,
            where=f"geometry {calculation.index}",
        ).arrays()
    except DataError:
        found = None
    return Outcome(calculation.index, found, time.process_time() - started)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not forked: PySCF and torch have threads by now.
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
    )


def _begin() -> None:
    """Do not outlive the parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that are started leave Ctrl-C to this one, which gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _libraries_of_one_thread() -> Iterator[None]:
    """An environment in which processes that are started use one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
