"""Long-range interactions: the direct sum, the sum of Ewald, and Chebyshev-Tucker potentials."""

from equiv.long_range.chebyshev_tucker import ChebyshevTucker
from equiv.long_range.direct_sum import DirectSum
from equiv.long_range.ewald import EwaldSum
from equiv.long_range.pairs import Pairs
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.potential import Electrostatics, LongRangePotential

__all__ = [
    "ChebyshevTucker",
    "DirectSum",
    "Electrostatics",
    "EwaldSum",
    "LongRangePotential",
    "Pairs",
    "PointCharges",
]
