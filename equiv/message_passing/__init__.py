"""Messages between atoms."""

from equiv.message_passing.choice import CONVOLUTIONS
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.rank_one import (
    GauntConvolution,
    MatrixConvolution,
    RankOneConvolution,
    VectorSignalConvolution,
)
from equiv.message_passing.reference import convolution_reference
from equiv.message_passing.so2 import SO2Convolution

__all__ = [
    "CONVOLUTIONS",
    "ClebschGordanConvolution",
    "GauntConvolution",
    "MatrixConvolution",
    "RankOneConvolution",
    "SO2Convolution",
    "VectorSignalConvolution",
    "convolution_reference",
]
