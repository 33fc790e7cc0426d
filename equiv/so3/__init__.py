"""Rotations and reflections of three-dimensional space, and what they act on."""

from equiv.so3.coupling import wigner_3j
from equiv.so3.harmonics import spherical_harmonics
from equiv.so3.symmetric_power import num_symmetric_couplings, symmetric_couplings

__all__ = ["num_symmetric_couplings", "spherical_harmonics", "symmetric_couplings", "wigner_3j"]
