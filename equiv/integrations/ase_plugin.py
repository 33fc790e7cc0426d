"""What makes ASE find the calculator by the name `equiv`.

ASE collects the entry points of the group `ase.plugins`, of which this module is one, and reads
`__ase_plugins__` from each; the calculator itself, and torch with it, is imported when it is used.

`ase run` does not look at plug-ins yet. ASE's command line with the calculator registered is

    python -m equiv.integrations.ase_plugin run equiv POSCAR -p model=model.safetensors -f 0.01
"""

from typing import Any

__all__ = ["__ase_plugins__", "main", "register"]


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


def _plugins() -> set[Any]:
    try:
        from ase._4.plugins.plugin import CalculatorPlugin
    except ImportError:  # an ASE from before its plug-ins
        return set()
    return {CalculatorPlugin(name="equiv", implementation="equiv.integrations.ase.EquivCalculator")}


__ase_plugins__ = _plugins()

if __name__ == "__main__":
    main()
