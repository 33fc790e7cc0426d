"""Rotations and reflections of three-dimensional space, and what they act on."""

from equiv.so3.coupling import wigner_3j
from equiv.so3.harmonics import spherical_harmonics

__all__ = ["spherical_harmonics", "wigner_3j"]
