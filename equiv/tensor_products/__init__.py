"""Equivariant products of irreps: one protocol, one factory, and a readable reference for all."""

from equiv.tensor_products.choice import TENSOR_PRODUCTS, tensor_product
from equiv.tensor_products.clebsch_gordan import ClebschGordanTensorProduct
from equiv.tensor_products.from_e3nn import from_e3nn
from equiv.tensor_products.many_body import ManyBodyProduct, SymmetricPolynomial
from equiv.tensor_products.paths import Path, PathTensorProduct, channelwise_paths
from equiv.tensor_products.protocol import TensorProduct
from equiv.tensor_products.reference import ReferenceTensorProduct, dense_coefficients

__all__ = [
    "TENSOR_PRODUCTS",
    "ClebschGordanTensorProduct",
    "ManyBodyProduct",
    "Path",
    "PathTensorProduct",
    "ReferenceTensorProduct",
    "SymmetricPolynomial",
    "TensorProduct",
    "channelwise_paths",
    "dense_coefficients",
    "from_e3nn",
    "tensor_product",
]
