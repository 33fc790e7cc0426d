import pytest
import torch

from equiv import EquivError
from equiv.so3 import Irrep, natural_irreps
from equiv.tensor_products import TENSOR_PRODUCTS, TensorProduct, tensor_product
from equiv.tensor_products.expressivity import (
    _measured_interactions,
    channels_for_all_maps,
    expressivity,
    expressivity_rows,
    expressivity_table,
    interactions,
)


def product(method, l_max, l_out, parity="both", **options):
    """Natural inputs; output of natural or of both parities."""
    natural = natural_irreps(l_max, 1)
    out = str(natural_irreps(l_out, 1))
    if parity == "both":
        out += "".join(f"+{l}{'oe'[l % 2]}" for l in range(1, min(l_out, 2 * l_max - 1) + 1))
    return tensor_product(natural, natural, out, method=method, **options)


# Xie et al. 2025 (MIMO) and our own: number of even and of all paths, dimension of rank-one path
# weights of the even and of all paths, and channels for all.
NUMBERS = {
    1: (4, 4, 1, 5, 2),
    2: (11, 7, 2, 15, 3),
    3: (23, 10, 3, 34, 4),
    4: (42, 13, 4, 65, 6),
    5: (69, 16, 5, 111, 8),
    6: (106, 19, 6, 175, 10),
    8: (215, 25, 9, 369, 16),
}


@pytest.mark.parametrize("l", NUMBERS)
def test_published_numbers(l):
    even, gaunt, gaunt_channels, paths, all_channels = NUMBERS[l]
    gaunt_grid = product("gaunt_grid", l, l, "natural")
    assert len(interactions(gaunt_grid)) == even
    assert expressivity(gaunt_grid) == gaunt == 3 * l + 1
    assert channels_for_all_maps(gaunt_grid) == gaunt_channels
    vector_signal = interactions(product("vector_signal", l, l))
    assert len(vector_signal) == paths
    assert expressivity(vector_signal, group="SO(3)") == 3 * l + 1
    assert channels_for_all_maps(vector_signal, group="SO(3)") == all_channels
    # labelled by parity, pseudo outputs have linear layers of their own
    assert expressivity(vector_signal) == 4 * l + 1


@pytest.mark.parametrize("l", range(1, 6))
def test_outputs_of_all_degrees(l):
    gaunt = product("gaunt_grid", l, 2 * l, "natural")
    assert len(interactions(gaunt)) == sum(n * n for n in range(1, l + 2))
    assert expressivity(gaunt) == 4 * l + 1
    clebsch_gordan = product("clebsch_gordan", l, 2 * l, "natural", mode="uuu")
    assert expressivity(clebsch_gordan) == sum(n * n for n in range(1, l + 2))


def test_the_matrix_product_lacks_accidental_zeros():
    lacking = set(interactions(product("vector_signal", 6, 6)))
    lacking -= set(interactions(product("matrix", 6, 6)))
    degrees = {tuple(sorted(ir.l for ir in triple)) for triple in lacking}
    assert degrees == {(3, 5, 5)}
    assert len(lacking) == 3


@pytest.mark.parametrize("method", sorted(set(TENSOR_PRODUCTS) - {"auto"}))
def test_interactions_are_those_of_the_dense_coefficients(method):
    second = "0e+1o+2e+3o+4e" if method == "so2" else "0e+1o+2e"
    module = tensor_product("0e+1o+2e", second, "0e+1o+2e", method=method)
    assert sorted(interactions(module)) == sorted(_measured_interactions(module))


@pytest.mark.parametrize("method", ["gaunt_grid", "matrix", "vector_signal"])
@pytest.mark.parametrize("channels", [1, 2])
def test_it_is_the_rank_of_the_module_itself(method, channels):
    """The Jacobian of all its coefficients with respect to all its weights."""
    parity = "natural" if method == "gaunt_grid" else "both"
    module = product(method, 2, 2, parity, mode="uvw", rank=channels, internal_weights=False)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(module.weight_numel, generator=generator, dtype=torch.float64)
    columns = []
    for direction in torch.eye(len(weight), dtype=torch.float64):
        # exact: every weight enters linearly
        difference = [module.dense_coefficients(weight + s * direction) for s in (1, -1)]
        columns.append((difference[0] - difference[1]).flatten() / 2)
    rank = int(torch.linalg.matrix_rank(torch.stack(columns)))
    assert rank == expressivity(module, channels=channels)


def test_a_weight_for_each_path_is_complete():
    module = product("clebsch_gordan", 2, 2, mode="uuu")
    assert expressivity(module) == len(interactions(module)) == 15
    assert channels_for_all_maps(module) == 1


def test_the_gaunt_product_of_vectors_has_no_cross_product():
    vector = Irrep("1o")
    found = interactions(tensor_product("1o", "1o", method="gaunt_grid"))
    assert found == [(vector, vector, Irrep("0e")), (vector, vector, Irrep("2e"))]
    assert (vector, vector, Irrep("1e")) in interactions(
        tensor_product("1o", "1o", method="matrix")
    )


def test_products_of_unknown_kind_are_measured():
    class Dot(TensorProduct):
        def __init__(self):
            super().__init__("1o", "1o+1e", "0e", weight_numel=0, internal_weights=False)

        def multiply(self, x1, x2, weight):
            return (x1 * x2[:, :3]).sum(1, keepdim=True)

        def dense_coefficients(self, weight=None):
            return torch.eye(3, 6, dtype=torch.float64).unsqueeze(-1)

    assert interactions(Dot()) == [(Irrep("1o"), Irrep("1o"), Irrep("0e"))]
    assert expressivity(Dot()) == 1


def test_the_table():
    rows = expressivity_rows([1, 2])
    assert {row.method for row in rows} == set(TENSOR_PRODUCTS) - {"reference"}
    by_key = {(row.method, row.l_max): row for row in rows}
    assert by_key["so2", 2].dimension == by_key["clebsch_gordan", 2].dimension + 4
    lines = expressivity_table([2], ["gaunt_grid", "matrix"]).splitlines()
    assert lines[1].split() == ["2", "gaunt_grid", "11", "0", "7", "2"]
    assert lines[2].split() == ["2", "matrix", "11", "4", "9", "2"]


def test_arguments_are_checked():
    with pytest.raises(EquivError, match="channels must be positive, got 0"):
        expressivity([], channels=0)
    with pytest.raises(EquivError, match="group must be one of"):
        expressivity([], group="SU(2)")  # type: ignore[arg-type]
