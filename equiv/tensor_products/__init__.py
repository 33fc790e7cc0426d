"""Equivariant products of irreps: one protocol, one factory, and a readable reference for all."""

from equiv.tensor_products.choice import TENSOR_PRODUCTS, tensor_product
from equiv.tensor_products.clebsch_gordan import ClebschGordanTensorProduct
from equiv.tensor_products.from_e3nn import from_e3nn
from equiv.tensor_products.gaunt import GauntTensorProduct
from equiv.tensor_products.gaunt_fourier import GauntFourierTensorProduct
from equiv.tensor_products.gaunt_grid import GauntGridTensorProduct
from equiv.tensor_products.many_body import ManyBodyProduct, SymmetricPolynomial
from equiv.tensor_products.many_body_choice import MANY_BODY_PRODUCTS
from equiv.tensor_products.many_body_fourier import GauntFourierManyBodyProduct
from equiv.tensor_products.many_body_grid import GauntManyBodyProduct
from equiv.tensor_products.many_body_matrix import MatrixManyBodyProduct
from equiv.tensor_products.many_body_vector import VectorSignalManyBodyProduct
from equiv.tensor_products.matrix import MatrixTensorProduct
from equiv.tensor_products.paths import Path, PathTensorProduct, channelwise_paths
from equiv.tensor_products.protocol import TensorProduct
from equiv.tensor_products.reference import ReferenceTensorProduct, measured_coefficients
from equiv.tensor_products.sectors import Sectors, Stacks, sectors_of
from equiv.tensor_products.so2 import SO2TensorProduct
from equiv.tensor_products.spherical import SphericalTensorProduct
from equiv.tensor_products.vector_signal import VectorSignalTensorProduct

__all__ = [
    "MANY_BODY_PRODUCTS",
    "TENSOR_PRODUCTS",
    "ClebschGordanTensorProduct",
    "GauntFourierManyBodyProduct",
    "GauntFourierTensorProduct",
    "GauntGridTensorProduct",
    "GauntManyBodyProduct",
    "GauntTensorProduct",
    "ManyBodyProduct",
    "MatrixManyBodyProduct",
    "MatrixTensorProduct",
    "Path",
    "PathTensorProduct",
    "ReferenceTensorProduct",
    "SO2TensorProduct",
    "Sectors",
    "SphericalTensorProduct",
    "Stacks",
    "SymmetricPolynomial",
    "TensorProduct",
    "VectorSignalManyBodyProduct",
    "VectorSignalTensorProduct",
    "channelwise_paths",
    "from_e3nn",
    "measured_coefficients",
    "sectors_of",
    "tensor_product",
]
