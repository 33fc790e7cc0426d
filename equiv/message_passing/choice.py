"""The convolutions by name."""

from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.rank_one import (
    GauntConvolution,
    MatrixConvolution,
    RankOneConvolution,
    VectorSignalConvolution,
)
from equiv.message_passing.so2 import SO2Convolution

CONVOLUTIONS: dict[str, type[ClebschGordanConvolution] | type[RankOneConvolution]] = {
    "clebsch_gordan": ClebschGordanConvolution,
    "so2": SO2Convolution,
    # The sum over the points of a grid or of a torus is part of the constants: they are the same.
    "gaunt_grid": GauntConvolution,
    "gaunt_fourier": GauntConvolution,
    "matrix": MatrixConvolution,
    "vector_signal": VectorSignalConvolution,
}
"""Convolutions by the name of their tensor product, as models take it in ``product=``.

All map features of natural parity to messages of natural parity. ``so2`` and ``clebsch_gordan`` are
one map with a weight for each path and channel, the others have weights of rank one.
"""
