import pytest
import torch

from equiv.errors import EquivError
from equiv.so3 import natural_irreps
from equiv.tensor_products import (
    TENSOR_PRODUCTS,
    ClebschGordanTensorProduct,
    GauntGridTensorProduct,
    ReferenceTensorProduct,
    TensorProduct,
    tensor_product,
)
from equiv.tensor_products.auto import SAME_MAP, Candidate, fastest


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


def test_an_argument_of_another_method_is_refused():
    with pytest.raises(EquivError, match="'gaunt_grid' does not take instructions; it takes irrep"):
        tensor_product("0e", "0e", "0e", method="gaunt_grid", instructions=[(0, 0, 0, "uuu", True)])
    with pytest.raises(EquivError, match="irreps_out: method 'clebsch_gordan' needs it"):
        tensor_product("0e", "0e")


@pytest.mark.parametrize("name", SAME_MAP)
def test_auto_chooses_among_methods_of_one_map_only(name):
    irreps = natural_irreps(1, 2)
    definitions = []
    for candidate in SAME_MAP[name]:
        torch.manual_seed(0)
        product = tensor_product(
            irreps, irreps, irreps, method=candidate.method, **candidate.options
        )
        definitions.append(product.dense_coefficients())
    for definition in definitions[1:]:
        torch.testing.assert_close(definition, definitions[0], atol=1e-14, rtol=0)
    torch.manual_seed(0)
    product = tensor_product(irreps, irreps, irreps, method="auto", map=name)
    torch.testing.assert_close(product.dense_coefficients(), definitions[0], atol=1e-14, rtol=0)


def test_autotune_times_the_candidates_and_leaves_the_weights_as_they_would_be():
    irreps = natural_irreps(2, 4)
    torch.manual_seed(0)
    table = tensor_product(irreps, irreps, irreps, method="auto", map="gaunt")
    torch.manual_seed(0)
    timed = tensor_product(irreps, irreps, irreps, method="auto", map="gaunt", autotune=50)
    torch.testing.assert_close(timed.weight, table.weight)
    torch.testing.assert_close(
        timed.dense_coefficients(), table.dense_coefficients(), atol=1e-14, rtol=0
    )


def test_the_fastest_candidate_is_the_fastest():
    def build(candidate):
        return tensor_product(*[natural_irreps(6, 8)] * 3, method=candidate.method, mode="uuu")

    candidates = [Candidate("clebsch_gordan"), Candidate("gaunt_grid")]
    best, times = fastest(candidates, build, rows=200)
    assert best == Candidate("gaunt_grid")  # another map, but some times faster
    assert times.keys() == {"clebsch_gordan", "gaunt_grid"}
    assert times["gaunt_grid"] < times["clebsch_gordan"]


def test_candidates_that_cannot_be_built_are_passed_over():
    product = tensor_product("0e+1o+2e", "0e+1o+2e", method="auto", map="gaunt", autotune=3)
    assert isinstance(product, GauntGridTensorProduct) or product.transform
    with pytest.raises(EquivError, match="no candidate can be built; clebsch_gordan: irreps_out"):
        tensor_product("0e", "1o", "2e", method="auto", autotune=3)


def test_auto_refuses_what_it_does_not_know():
    with pytest.raises(EquivError, match="map: expected one of 'clebsch_gordan', 'gaunt'"):
        tensor_product("0e", "0e", "0e", method="auto", map="gaunts")
    with pytest.raises(
        EquivError, match="map and autotune are for method='auto', got method='so2'"
    ):
        tensor_product("0e", "0e", "0e", method="so2", map="gaunt")
    with pytest.raises(EquivError, match="expected a positive number of rows, got 0"):
        tensor_product("0e", "0e", "0e", method="auto", autotune=0)
