"""Chemical elements, as users write them."""

from ase.data import atomic_numbers as NUMBER_OF
from ase.data import chemical_symbols

from equiv.errors import EquivError


def atomic_number(element: str | int) -> int:
    """The atomic number of a chemical symbol, or of itself.

    Raises:
        EquivError: there is no such element.
    """
    number = NUMBER_OF.get(element, 0) if isinstance(element, str) else element
    if not 1 <= number < len(chemical_symbols):
        raise EquivError(f"elements: expected chemical symbols like 'Si', got {element!r}")
    return number
