"""Rotations and reflections of three-dimensional space, and what they act on."""

from equiv.so3.coupling import wigner_3j
from equiv.so3.harmonics import spherical_harmonics
from equiv.so3.irreps import Irrep, Irreps, natural_irreps, parse_irreps, spherical_shape
from equiv.so3.layout import flat_from_spherical, spherical_from_flat
from equiv.so3.rotations import irreps_matrix, random_rotations, rotate_spherical, wigner_matrix
from equiv.so3.symmetric_power import num_symmetric_couplings, symmetric_couplings

__all__ = [
    "Irrep",
    "Irreps",
    "flat_from_spherical",
    "irreps_matrix",
    "natural_irreps",
    "num_symmetric_couplings",
    "parse_irreps",
    "random_rotations",
    "rotate_spherical",
    "spherical_from_flat",
    "spherical_harmonics",
    "spherical_shape",
    "symmetric_couplings",
    "wigner_3j",
    "wigner_matrix",
]
