"""Building blocks without geometry of their own: radial functions, linear maps, readouts."""

from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.linear import ElementLinear, SphericalLinear
from equiv.nn.mlp import RadialMLP
from equiv.nn.path_gate import PathGate
from equiv.nn.radial import RADIAL_BASES, BesselBasis, ChebyshevBasis
from equiv.nn.readout import LinearReadout, NonlinearReadout
from equiv.nn.sparsity_schedule import SparsitySchedule
from equiv.nn.zbl import ZBL

__all__ = [
    "RADIAL_BASES",
    "ZBL",
    "BesselBasis",
    "ChebyshevBasis",
    "ElementLinear",
    "LinearReadout",
    "NonlinearReadout",
    "PathGate",
    "PolynomialCutoff",
    "RadialMLP",
    "SparsitySchedule",
    "SphericalLinear",
]
