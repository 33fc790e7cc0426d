"""E(3)-equivariant deep learning on atoms.

Importing the package loads nothing heavy and changes no global state; each public name is imported
when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "EquivCalculator": "equiv.integrations.ase",
    "EquivError": "equiv.errors",
    "load_model": "equiv.models.file",
    "save_model": "equiv.models.file",
    "tensor_product": "equiv.tensor_products",
}

__all__ = [
    "EquivCalculator",
    "EquivError",
    "__version__",
    "load_model",
    "save_model",
    "tensor_product",
]

if TYPE_CHECKING:
    from equiv.errors import EquivError
    from equiv.integrations.ase import EquivCalculator
    from equiv.models.file import load_model, save_model
    from equiv.tensor_products import tensor_product


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"module 'equiv' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
