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
from equiv.message_passing.thinned_convolution import ThinnedConvolution

__all__ = [
    "CONVOLUTIONS",
    "ClebschGordanConvolution",
    "GauntConvolution",
    "MatrixConvolution",
    "RankOneConvolution",
    "SO2Convolution",
    "ThinnedConvolution",
    "VectorSignalConvolution",
    "convolution_reference",
]
