import pytest

from equiv.errors import EquivError
from equiv.tensor_products import (
    TENSOR_PRODUCTS,
    ClebschGordanTensorProduct,
    ReferenceTensorProduct,
    TensorProduct,
    tensor_product,
)


def test_methods_are_chosen_by_name():
    assert type(tensor_product("0e", "0e", "0e")) is ClebschGordanTensorProduct
    product = tensor_product("0e", "0e", "0e", method="reference")
    assert type(product) is ReferenceTensorProduct
    assert all(issubclass(method, TensorProduct) for method in TENSOR_PRODUCTS.values())


def test_a_misspelt_method_names_the_nearest():
    with pytest.raises(EquivError, match=r"'clebsch_gordan', 'reference'.*mean 'clebsch_gordan'"):
        tensor_product("0e", "0e", "0e", method="clebsh_gordon")


def test_the_factory_is_at_the_top_of_the_package():
    import equiv

    assert equiv.tensor_product is tensor_product
