"""Messages between atoms."""

from equiv.message_passing.convolution import CONVOLUTIONS, ClebschGordanConvolution
from equiv.message_passing.reference import convolution_reference

__all__ = ["CONVOLUTIONS", "ClebschGordanConvolution", "convolution_reference"]
