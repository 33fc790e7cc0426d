"""Checks for equivariant layers and interatomic potentials, for this package's and for anyone's.

- :func:`check_model` holds a potential against every law in :data:`LAWS`: symmetry, derivatives,
  smoothness, ...
- :func:`assert_equivariant` holds any function of tensors against rotations and reflections.
- :func:`assert_gradient` holds first and second derivatives against finite differences.
- :func:`small_structures` are the awkward little structures to try things on.
"""

from equiv.testing.contract import check_model
from equiv.testing.equivariance import Spherical, assert_equivariant, turn
from equiv.testing.gradients import assert_gradient, directional_derivative
from equiv.testing.laws import LAWS, Law
from equiv.testing.structures import small_structures
from equiv.testing.subject import Deviation, Observation, Subject

__all__ = [
    "LAWS",
    "Deviation",
    "Law",
    "Observation",
    "Spherical",
    "Subject",
    "assert_equivariant",
    "assert_gradient",
    "check_model",
    "directional_derivative",
    "small_structures",
    "turn",
]
