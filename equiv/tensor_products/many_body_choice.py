"""The many-body products by name."""

from equiv.tensor_products.many_body import ManyBodyProduct
from equiv.tensor_products.many_body_fourier import GauntFourierManyBodyProduct
from equiv.tensor_products.many_body_grid import GauntManyBodyProduct
from equiv.tensor_products.many_body_matrix import MatrixManyBodyProduct
from equiv.tensor_products.many_body_vector import VectorSignalManyBodyProduct

MANY_BODY_PRODUCTS: dict[
    str,
    type[ManyBodyProduct]
    | type[GauntManyBodyProduct]
    | type[GauntFourierManyBodyProduct]
    | type[MatrixManyBodyProduct]
    | type[VectorSignalManyBodyProduct],
] = {
    "clebsch_gordan": ManyBodyProduct,
    # The frame of an edge says nothing about a product of several neighbours.
    "so2": ManyBodyProduct,
    "gaunt_grid": GauntManyBodyProduct,
    "gaunt_fourier": GauntFourierManyBodyProduct,
    "matrix": MatrixManyBodyProduct,
    "vector_signal": VectorSignalManyBodyProduct,
}
"""Many-body products by the name of their tensor product, as models take it in ``product=``.

All map features of natural parity to the same. ``clebsch_gordan`` weighs every coupling by itself;
``gaunt_grid`` and ``gaunt_fourier`` are one map, computed in two ways; ``so2`` is a way to compute
convolutions, and its partner here is ``clebsch_gordan``.
"""
