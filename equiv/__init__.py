"""E(3)-equivariant deep learning on atoms.

Importing the package loads nothing heavy and changes no global state; each public name is imported
when it is first used.
"""

from typing import TYPE_CHECKING

from equiv.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, __all__, _HOME)
