"""When compiling pays."""

CHOICES = ("auto", "on", "off")
WORK = 1_000_000
"""Evaluations times atoms from which on compiled code repays the minutes it took to compile."""
LEAST_ATOMS = 100
"""Smaller structures take as long as this many atoms: there the calls cost, not the arithmetic."""


def work(evaluations: float, atoms: float) -> float:
    """Size of a job that evaluates a batch of so many atoms so many times.

    It does not depend on the machine or on what has been compiled before: the same job is computed
    in the same way every time.
    """
    return evaluations * max(atoms, LEAST_ATOMS)


def worthwhile(evaluations: float, atoms: float) -> bool:
    """Whether such a job is long enough to compile for."""
    return work(evaluations, atoms) >= WORK
