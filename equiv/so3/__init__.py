"""Rotations and reflections of three-dimensional space, and what they act on."""

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
