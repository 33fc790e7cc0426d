"""Rotations and reflections of three-dimensional space, and what they act on.

Nothing is imported before it is used, so that layers need torch alone, and neither ASE nor e3nn.
"""

from typing import TYPE_CHECKING

from equiv.lazy import lazy_names

_HOME = {
    "Irrep": "equiv.so3.irreps",
    "Irreps": "equiv.so3.irreps",
    "ProductGrid": "equiv.so3.grids",
    "SphereGrid": "equiv.so3.grids",
    "antipodal_half": "equiv.so3.grids",
    "flat_from_spherical": "equiv.so3.layout",
    "gaunt_coefficient": "equiv.so3.gaunt",
    "gaunt_coefficients": "equiv.so3.gaunt",
    "irreps_matrix": "equiv.so3.rotations",
    "lebedev_grid": "equiv.so3.grids",
    "natural_irreps": "equiv.so3.irreps",
    "num_symmetric_couplings": "equiv.so3.symmetric_power",
    "parse_irreps": "equiv.so3.irreps",
    "product_grid": "equiv.so3.grids",
    "random_rotations": "equiv.so3.rotations",
    "rotate_spherical": "equiv.so3.rotations",
    "spherical_from_flat": "equiv.so3.layout",
    "spherical_harmonics": "equiv.so3.harmonics",
    "spherical_shape": "equiv.so3.irreps",
    "symmetric_couplings": "equiv.so3.symmetric_power",
    "wigner_3j": "equiv.so3.coupling",
    "wigner_matrix": "equiv.so3.rotations",
}

__all__ = [
    "Irrep",
    "Irreps",
    "ProductGrid",
    "SphereGrid",
    "antipodal_half",
    "flat_from_spherical",
    "gaunt_coefficient",
    "gaunt_coefficients",
    "irreps_matrix",
    "lebedev_grid",
    "natural_irreps",
    "num_symmetric_couplings",
    "parse_irreps",
    "product_grid",
    "random_rotations",
    "rotate_spherical",
    "spherical_from_flat",
    "spherical_harmonics",
    "spherical_shape",
    "symmetric_couplings",
    "wigner_3j",
    "wigner_matrix",
]

if TYPE_CHECKING:
    from equiv.so3.coupling import wigner_3j
    from equiv.so3.gaunt import gaunt_coefficient, gaunt_coefficients
    from equiv.so3.grids import (
        ProductGrid,
        SphereGrid,
        antipodal_half,
        lebedev_grid,
        product_grid,
    )
    from equiv.so3.harmonics import spherical_harmonics
    from equiv.so3.irreps import Irrep, Irreps, natural_irreps, parse_irreps, spherical_shape
    from equiv.so3.layout import flat_from_spherical, spherical_from_flat
    from equiv.so3.rotations import irreps_matrix, random_rotations, rotate_spherical, wigner_matrix
    from equiv.so3.symmetric_power import num_symmetric_couplings, symmetric_couplings

__getattr__, __dir__ = lazy_names(__name__, __all__, _HOME)
