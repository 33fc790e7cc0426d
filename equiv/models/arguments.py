"""Checks of what models are built with, in the words that all models use."""

from collections.abc import Mapping, Sequence

from ase.data import chemical_symbols

from equiv.errors import EquivError
from equiv.models.elements import atomic_number


def require(model: str, condition: bool, argument: str, expected: str, got: object) -> None:
    """Refuse an argument of a model that does not meet a condition.

    Raises:
        EquivError: it does not; the message names model, argument, what it must be and what came.
    """
    if not condition:
        raise EquivError(f"{model}: {argument} must be {expected}; got {got}")


def checked_elements(
    model: str, elements: Sequence[str | int], reference_energies: Mapping[str, float]
) -> tuple[list[int], list[str]]:
    """Atomic numbers, ascending and each once, and their symbols.

    Raises:
        EquivError: there are none, or one of them has no reference energy.
    """
    numbers = sorted({atomic_number(e) for e in elements})
    symbols = [chemical_symbols[z] for z in numbers]
    missing = [s for s in symbols if s not in reference_energies]
    require(model, bool(symbols), "elements", "at least one element", elements)
    require(
        model,
        not missing,
        "reference_energies",
        f"an energy in eV for {', '.join(missing)}",
        dict(reference_energies),
    )
    return numbers, symbols
