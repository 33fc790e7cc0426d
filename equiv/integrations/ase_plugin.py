"""What makes ASE find the calculator by the name `equiv`.

ASE collects the entry points of the group `ase.plugins`, of which this module is one, and reads
`__ase_plugins__` from each; the calculator itself, and torch with it, is imported when it is used.

`ase run` does not look at plug-ins yet. ASE's command line with the calculator registered is

    python -m equiv.integrations.ase_plugin run equiv POSCAR -p model=model.safetensors -f 0.01
"""

from typing import Any

__all__ = ["main", "register"]


def register() -> None:
    """Make `ase.calculators.calculator.get_calculator_class("equiv")` return the calculator."""
    from ase.calculators.calculator import external_calculators, register_calculator_class

    from equiv.integrations.ase import EquivCalculator

    if "equiv" not in external_calculators:
        register_calculator_class("equiv", EquivCalculator)


def main() -> None:
    """ASE's own command line, with `equiv` among its calculators."""
    from ase.cli.main import main as ase_main

    register()
    ase_main()


def __getattr__(name: str) -> Any:
    """Make the plug-ins when ASE asks for them, and not before.

    Importing ASE's plug-in classes makes ASE collect all plug-ins at once. Done while this module
    is imported, it would find this module half made and pass over it.
    """
    if name != "__ase_plugins__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ase._4.plugins.plugin import CalculatorPlugin

    return {CalculatorPlugin(name="equiv", implementation="equiv.integrations.ase.EquivCalculator")}


if __name__ == "__main__":
    main()
